"""Compares random updates on the replicas of a strategy with a single process, bit for bit.

    python scripts/maintenance/check_replicas.py [--runs=200] [--seed=0] [--steps=60]

Starts a process for each number of replicas from 1 to 8, on as many logical CPUs. A run draws batch
sizes, some of them 0, masks, dtypes, an updater and a call, and what each replica knows of its own
batch, and makes three steps in one `tf.function`. After each step, every copy must hold the bits of
a plain table that got the joined batch, and each replica must have the centers of its own rows.

With `--steps`, times so many steps on 1, 2 and 4 replicas instead, in turns with steps of a plain
table on the joined batch, and prints the ratios of medians. They show what copies cost, since every
replica makes the whole update.
"""

import argparse
import multiprocessing
import os
import pathlib
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import updaters  # noqa: E402

import tf_centers  # noqa: E402

MOST_REPLICAS, STEPS = 8, 3
TIMED, WARM_UP = (1, 2, 4), 5
SIZES = ((1000, 128, 256), (1000, 128, 1024), (10000, 512, 1024))  # C / D / B

UPDATERS = {name: entry.make for name, entry in updaters.UPDATERS.items()}
UPDATERS["default"] = lambda rate: None
UPDATERS["own"] = lambda rate: updaters.Weighted(lambda n, k, later: 0.1 * later / k)


def draw_setting(rng):
    """What one run calls, and on what."""

    def pick(*values):
        return values[rng.randint(len(values))]

    return types.SimpleNamespace(
        classes=rng.randint(1, 12),
        dims=rng.randint(1, 6),
        updater=pick(*UPDATERS),
        call=pick("after", "before", "update"),
        dtype=pick("float32", "float32", "float64", "float16", "bfloat16"),
        embeds=pick("float32", "float32", "float64", "float16"),
        masked=pick(True, False),
        locks=pick(False, False, False, True),
        rate_tensor=pick(True, False),
        switch=pick(True, False, False),
        forms=[
            [pick("int64", "int32", "uint8"), pick("batch", "column", "steps")]
            + [pick("all", "rank", "nothing") for _ in range(3)]
            for _ in range(MOST_REPLICAS)
        ],
    )


def in_form(form, *batch):
    """The batch of a replica: the dtype of its labels, its kind, and what is known of each part."""
    dtype, kind, *known = form
    embeds, labels, mask = [part[:, None] for part in batch] if kind == "steps" else batch
    parts = embeds, tf.cast(labels[:, None] if kind == "column" else labels, dtype), mask
    if kind == "steps" and known[0] == "nothing":
        known[0] = "rank"  # by which a call tells steps
    shapes = [
        None if how == "nothing" else [None] * len(part.shape) for how, part in zip(known, parts)
    ]
    hide = tf.compat.v1.placeholder_with_default
    return [p if how == "all" else hide(p, s) for how, p, s in zip(known, parts, shapes)]


def draw_batches(rng, setting, replicas):
    """Embeddings, labels and masks, a batch for each replica; some, or all, may be empty."""
    sizes = rng.randint(0, 7, replicas) * (rng.rand(replicas) < 0.8) * (rng.rand() < 0.9)
    batches = []
    for size in sizes.astype(int):
        embeds = 3.0 * rng.randn(size, setting.dims) + 1.0
        mask = rng.rand(size) < 0.7 if setting.masked else np.ones(size, bool)
        labels = np.where(mask, rng.randint(setting.classes, size=size), 200)
        batches.append((tf.cast(embeds, setting.embeds), labels, mask))
    return batches


def call(setting, centers, form, embeds, labels, mask, training):
    """The call of a setting; an update returns the rows that a lookup finds then."""
    found = tf.where(mask, labels, tf.zeros_like(labels))
    embeds, labels, mask = in_form(form, embeds, labels, mask)
    rate = tf.constant(0.75) if setting.rate_tensor else 0.75
    how = {
        "updater": UPDATERS[setting.updater](rate),
        "centers": centers,
        "mask": mask if setting.masked else None,
        "use_locking": setting.locks,
    }
    if setting.call != "update":
        training = training if setting.switch else True
        return tf_centers.get_embed_centers(
            embeds, labels, read=setting.call, is_training=training, **how
        )
    tf_centers.update_embed_centers(embeds, labels, **how)
    return tf_centers.lookup_embed_centers(found, centers)


def replica():
    """The number of the replica that this runs on."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def distribute(strategy, values):
    """A tensor for each replica."""
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.convert_to_tensor(values[int(context.replica_id_in_sync_group)])
    )


def bits(tensor):
    return tensor.numpy().tobytes()


def run(strategy, rng):
    """Makes the steps of one random setting; raises an `AssertionError` where a bit differs."""
    replicas = strategy.num_replicas_in_sync
    setting = draw_setting(rng)
    size = setting.classes, setting.dims
    how = {"dtype": setting.dtype, "initializer": rng.randn(*size)}
    if setting.updater in updaters.UPDATERS:
        how["count_dtype"] = updaters.UPDATERS[setting.updater].count_dtype
    with strategy.scope():
        copied = tf_centers.create_embed_centers(*size, **how)
    plain = tf_centers.create_embed_centers(*size, **how)

    @tf.function
    def step(embeds, labels, mask, training):
        return strategy.run(
            lambda *batch: call(setting, copied, setting.forms[replica()], *batch, training),
            (embeds, labels, mask),
        )

    @tf.function
    def single(embeds, labels, mask, training):
        form = "int64", "batch", "all", "all", "all"
        return call(setting, plain, form, embeds, labels, mask, training)

    for _ in range(STEPS):
        batches = draw_batches(rng, setting, replicas)
        training = tf.constant(bool(rng.rand() < 0.7))
        parts = [distribute(strategy, column) for column in zip(*batches)]
        rows = strategy.experimental_local_results(step(*parts, training))
        joined = [tf.concat(column, axis=0) for column in zip(*batches)]
        expected = tf.split(single(*joined, training), [len(batch[1]) for batch in batches])
        assert [bits(part) for part in rows] == [bits(part) for part in expected], f"{setting}"
        for variable, whole in zip(copied, plain):
            found = [bits(copy) for copy in strategy.experimental_local_results(variable)]
            assert found == [bits(whole)] * replicas, f"{setting}"


def measure(strategy, size, steps):
    """The median seconds of a step on all replicas, and of one on a plain table."""
    (classes, dims, rows), rng = size, np.random.RandomState(0)
    embeds = tf.constant(rng.randn(rows, dims), tf.float32)
    whole = embeds, tf.constant(rng.randint(classes, size=rows))
    replicas, mean = strategy.num_replicas_in_sync, tf_centers.CumulativeMean()
    parts = [distribute(strategy, tf.split(column, replicas)) for column in whole]
    with strategy.scope():
        copied = tf_centers.create_embed_centers(classes, dims)
    plain = tf_centers.create_embed_centers(classes, dims)

    @tf.function
    def step(*batch):
        return strategy.run(lambda *own: tf_centers.get_embed_centers(*own, mean, copied), batch)

    @tf.function
    def single(*batch):
        return tf_centers.get_embed_centers(*batch, mean, plain)

    seconds = []
    for _ in range(WARM_UP + steps):
        for call, batch in ((step, parts), (single, whole)):
            start = time.perf_counter()
            call(*batch)
            seconds.append(time.perf_counter() - start)
    return np.median(np.reshape(seconds, [-1, 2])[WARM_UP:], axis=0)


def make_strategy(replicas):
    """A strategy of that many logical CPUs; TensorFlow wants one strategy a process."""
    cpus = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpus[0], logical)
    return tf.distribute.MirroredStrategy([f"/cpu:{i}" for i in range(replicas)])


def in_process(replicas, runs, seed, steps):
    """What one process does: as many runs, or the medians of so many steps at each size."""
    strategy = make_strategy(replicas)
    if steps:
        return [measure(strategy, size, steps) for size in SIZES]
    rng = np.random.RandomState(seed)
    for _ in range(runs):
        run(strategy, rng)
    print(f"{replicas} replicas: {runs} runs, all copies as the single process", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="total number of settings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="time so many steps instead")
    given = parser.parse_args()
    counts = TIMED if given.steps else range(1, MOST_REPLICAS + 1)
    shares = [(given.runs + MOST_REPLICAS - n) // MOST_REPLICAS for n in counts]
    tasks = [(n, share, given.seed + n, given.steps) for n, share in zip(counts, shares)]
    results, context = [], multiprocessing.get_context("spawn")
    for task in tasks:
        with ProcessPoolExecutor(1, context) as pool:  # which tells of a crash of the process
            results.append(pool.submit(in_process, *task).result())
    if not given.steps:
        return print(f"{sum(shares)} runs on TensorFlow {tf.__version__}: every bit the same")
    print(f"TensorFlow {tf.__version__}")
    print("| C / D / B | one process, us |", *[f"{n} replica{'s' * (n > 1)} |" for n in counts])
    print("| --- | --- |" + " --- |" * len(counts))
    for size, times in zip(SIZES, np.moveaxis(results, 1, 0)):
        cells = [" / ".join(f"{each:,}" for each in size), f"{1e6 * np.median(times[:, 1]):,.0f}"]
        cells += [f"{ratio:.2f}" for ratio in times[:, 0] / times[:, 1]]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
