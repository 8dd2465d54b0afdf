"""A coordinator of the servers in servers.py, started by test_parameter_servers.py.

  python coordinator_program.py CHECK,... CLUSTER FOLDER

Runs checks, by the names of their functions, on whole tables and on tables in shards.
"""

import json
import logging
import os
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import reference  # noqa: E402
import servers  # noqa: E402
import tensorflow as tf  # noqa: E402
from updaters import UPDATERS  # noqa: E402

import tf_centers  # noqa: E402

BATCHES, SHARED, DIMS, ROWS = 100, 40, 64, 512
MEAN = tf_centers.CumulativeMean()
WARNINGS = []


class Coordinator:
    """A strategy, its coordinator and the tables that they hold, each in `shards`."""

    def __init__(self, cluster, folder):
        self.shards, self.folder = 1, folder
        self.strategy, self._coordinator = servers.connect(cluster, lambda: self.shards)
        self.schedule, self.join = self._coordinator.schedule, self._coordinator.join

    def create(self, *sizes, **how):
        with self.strategy.scope():
            centers = tf_centers.create_embed_centers(*sizes, **how)
        assert len(getattr(centers.ctrs, "variables", [0])) == self.shards
        return centers

    def run(self, call, *arrays):
        """What a call returns on a worker."""
        return self.schedule(tf.function(call), args=tuple(map(tf.constant, arrays))).fetch()


def updater_step(centers, updater=MEAN, **how):
    """A function that updates and returns the centers of its rows."""
    return tf.function(
        lambda embeds, labels, mask: tf_centers.get_embed_centers(
            embeds, labels, updater, centers, mask, **how
        ),
        input_signature=[
            tf.TensorSpec([None, centers.ctrs.shape[1]]),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.bool),
        ],
    )


def draw(random, labels, dims=5):
    """Embeddings, labels and a mask."""
    embeds = random.randn(len(labels), dims) + np.linspace(-1, 3, dims)
    mask = random.rand(len(labels)) < 0.8
    return tf.constant(embeds, tf.float32), tf.constant(labels), tf.constant(mask)


def largest_error(coordinator, use_locking):
    """Of the centers after all batches, which share all classes; counts have to be exact."""
    random, centers = np.random.RandomState(7), coordinator.create(SHARED, DIMS)
    step = updater_step(centers, use_locking=use_locking)
    sums, counts = np.zeros([SHARED, DIMS]), np.zeros(SHARED, int)
    for _ in range(BATCHES):
        batch = draw(random, random.randint(SHARED, size=ROWS), DIMS)
        coordinator.schedule(step, args=batch)
        embeds, labels, mask = map(np.array, batch)
        np.add.at(sums, labels[mask], embeds[mask].astype(float))
        np.add.at(counts, labels[mask], 1)
    coordinator.join()
    ctrs, counted = servers.read(centers)
    np.testing.assert_array_equal(counted, counts)
    return np.abs(ctrs - sums / counts[:, np.newaxis]).max()


def locked(coordinator):
    error = largest_error(coordinator, use_locking=True)
    assert error < 1e-5, error
    assert not WARNINGS, WARNINGS


def unlocked(coordinator):
    assert any(largest_error(coordinator, use_locking=False) > 1e-3 for _ in range(20))
    (warning,) = WARNINGS
    assert "get_embed_centers: updates of embed/ctrs may run at the same time" in warning


def updaters(coordinator):
    """No two batches share a class, so that the workers cannot change the result."""
    random = np.random.RandomState(3)
    for name, entry in UPDATERS.items():
        ctrs, counts = random.randn(30, 5).astype(np.float32), random.randint(4, size=30)
        how = {"initial_counts": counts, "count_dtype": entry.count_dtype}
        centers = coordinator.create(30, 5, initializer=ctrs, **how)
        step = updater_step(centers, entry.updater, use_locking=True)
        for number in [*range(10)] * 2:
            batch = draw(random, number + 10 * random.randint(3, size=12))
            rows = coordinator.schedule(step, args=batch)
            if number == 9 or entry.fades:  # Every update then fades the counts of all classes.
                coordinator.join()
            _, labels, mask = map(np.array, batch)
            ctrs, counts = reference.apply(entry.rule, ctrs, counts, *map(np.array, batch))
        found = servers.read(centers)
        np.testing.assert_allclose(found[1], counts, 1e-12, err_msg=name)
        np.testing.assert_allclose(found[0], ctrs, 1e-5, 1e-5, err_msg=name)
        np.testing.assert_allclose(rows.fetch()[mask], ctrs[labels[mask]], 1e-5, 1e-5)


def errors(coordinator):
    """Wrong in one row, of each shard in turn."""
    centers, random = coordinator.create(7, 5), np.random.RandomState(0)
    for use_locking in (True, False):
        step = updater_step(centers, use_locking=use_locking)
        coordinator.schedule(step, args=draw(random, np.arange(7)))
        coordinator.join()
        before = [array.tobytes() for array in servers.read(centers)]
        for place in (0, 4, 6):
            for column, wrong, message in (
                (0, np.nan, "get_embed_centers: expected finite values"),
                (1, 7, r"get_embed_centers: expected every label in \[0, 7\)"),
                (1, -1, r"get_embed_centers: expected every label in \[0, 7\)"),
            ):
                batch = [*map(np.array, draw(random, np.arange(7))[:2]), np.ones(7, bool)]
                batch[column][place] = wrong
                result = coordinator.schedule(step, args=tuple(map(tf.constant, batch)))
                for wait in (result.fetch, coordinator.join):
                    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                        wait()
                assert [array.tobytes() for array in servers.read(centers)] == before
    coordinator.schedule(step, args=draw(random, np.arange(7)))  # and it goes on
    coordinator.join()
    assert [array.tobytes() for array in servers.read(centers)] != before


def reads(coordinator):
    ctrs = np.random.RandomState(0).randn(7, 5).astype(np.float32)
    centers = coordinator.create(7, 5, initializer=ctrs, initial_counts=np.arange(7))
    rows, labels = ctrs[[6, 1, 3]] + np.float32(0.1), np.array([6, 1, 3])
    squared = np.square(rows[:, np.newaxis] - ctrs).sum(2)
    np.testing.assert_array_equal(
        coordinator.run(lambda own: tf_centers.lookup_embed_centers(own, centers), labels),
        ctrs[labels],
    )
    nearest = coordinator.run(lambda own: tf_centers.nearest_centers(own, centers, k=7), rows)
    np.testing.assert_array_equal(nearest.labels[:, :6], 1 + np.argsort(squared[:, 1:], axis=1))
    assert (np.array(nearest.labels)[:, 6] == -1).all()  # class 0 was never seen
    distances = coordinator.run(lambda own: tf_centers.center_distances(own, centers), rows)
    np.testing.assert_allclose(distances, squared, 1e-4, 1e-4)
    with coordinator.strategy.scope():
        own = tf.Variable(ctrs, trainable=False)
        counts = tf.Variable(np.zeros(7, np.int64), trainable=False)
    own = tf_centers.EmbedCenters(own, counts)
    after = coordinator.run(updater_step(own, use_locking=True), rows, labels, np.ones(3, bool))
    np.testing.assert_allclose(after, rows, 1e-6)


def checkpoints(coordinator):
    """Saves a checkpoint, and restores those of every number of shards so far."""
    random = np.random.RandomState(0)
    ctrs, counts = random.randn(7, 5).astype(np.float32), random.randint(9, size=7)
    table = "ctrs/.ATTRIBUTES/VARIABLE_VALUE"

    def compare(found):
        for array, expected in zip(found, (ctrs, counts)):
            np.testing.assert_array_equal(array, expected)

    centers = coordinator.create(7, 5, initializer=ctrs, initial_counts=counts)
    path = str(coordinator.folder / f"shards{coordinator.shards}")
    tf.train.Checkpoint(**centers._asdict()).write(path)
    for index in coordinator.folder.glob("*.index"):
        path = str(index.with_suffix(""))
        for centers in (coordinator.create(7, 5), tf_centers.create_embed_centers(7, 5)):
            tf.train.Checkpoint(**centers._asdict()).read(path).assert_consumed()
            compare(servers.read(centers))
        centers = coordinator.create(7, 5)
        tf_centers.warm_start_embed_centers(path, centers, table, counts)
        compare(servers.read(centers))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        split = tf.compat.v1.fixed_size_partitioner(4)
        with tf.compat.v1.variable_scope("", partitioner=split):
            centers = tf_centers.create_embed_centers(7, 5)
        session.run(tf_centers.warm_start_embed_centers(path, centers, table, counts))
        compare([np.concatenate(session.run(list(variable))) for variable in centers])
        saved = tf.compat.v1.train.Saver().save(session, str(coordinator.folder / "1" / "a"))
    centers = coordinator.create(7, 5)
    tf_centers.warm_start_embed_centers(saved, centers)
    compare(servers.read(centers))


def traffic(coordinator):
    """Only the rows of a batch cross the network, in every call, not the table of 100 MB."""
    centers, table_bytes = coordinator.create(400_000, DIMS), 400_000 * DIMS * 4
    how = {"updater": MEAN, "centers": centers, "use_locking": True}
    batch = tf.ones([ROWS, DIMS]), tf.constant(np.random.randint(400_000, size=ROWS))

    def update(embeds, labels):
        tf_centers.update_embed_centers(embeds, labels, **how)

    for call in (
        update,
        lambda embeds, labels: tf_centers.get_embed_centers(embeds, labels, **how),
        lambda embeds, labels: tf_centers.lookup_embed_centers(labels, centers),
    ):
        step, before = tf.function(call), received_bytes()
        for _ in range(20):
            coordinator.schedule(step, args=batch)
        coordinator.join()
        # Much less than a table each time, though other tests may use this network as well.
        assert received_bytes() - before < 5 * table_bytes


def received_bytes():
    """All that the loopback device has received."""
    lines = pathlib.Path("/proc/net/dev").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.split()[0] == "lo:")


def late_batch(coordinator):
    """No lock is held while a batch is on its way, so the other workers go on."""
    centers = coordinator.create(7, 5)
    with coordinator.strategy.scope():
        gate = tf.Variable(0.0, trainable=False)

    @tf.function
    def late():
        value = gate.read_value()
        while value < 1.0:
            value = gate.read_value()
        embeds = tf.fill([3, 5], value)
        return tf_centers.get_embed_centers(embeds, [1, 1, 2], MEAN, centers, use_locking=True)

    rows, step = coordinator.schedule(late), updater_step(centers, use_locking=True)
    for _ in range(6):
        coordinator.schedule(step, args=draw(np.random, np.arange(7))).fetch()
    gate.assign(1.0)
    assert rows.fetch().shape == (3, 5)
    coordinator.join()


def keras_fit(coordinator):
    """`fit` of Keras 2 locks by itself; that of Keras 3 does not support the strategy."""
    keras = tf.keras
    if not hasattr(keras.utils, "experimental"):
        return
    from tf_centers.keras import ComputeCenter

    with coordinator.strategy.scope():
        labels, embeds = keras.Input([1], dtype="int64"), keras.Input([DIMS])
        layer = ComputeCenter(SHARED, MEAN)
        model = keras.Model([labels, embeds], layer([labels, embeds]))
        model.compile("sgd")
    random = np.random.RandomState(0)
    own = random.randint(SHARED, size=[400, 1]), random.randn(400, DIMS).astype(np.float32)

    def read(context):
        return tf.data.Dataset.from_tensor_slices((own, np.zeros(400))).batch(400).repeat()

    model.fit(keras.utils.experimental.DatasetCreator(read), steps_per_epoch=30, verbose=0)
    expected = [own[1][own[0][:, 0] == label].mean(0) for label in range(SHARED)]
    ctrs, counts = servers.read([layer.ctrs, layer.counts])
    np.testing.assert_allclose(ctrs, expected, 1e-4, 1e-4)
    np.testing.assert_array_equal(counts, 30 * np.bincount(own[0][:, 0], minlength=SHARED))


def lost_server(coordinator):
    centers = coordinator.create(7, 5)
    step = updater_step(centers, use_locking=True)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        for _ in range(6):
            coordinator.schedule(step, args=draw(np.random, np.arange(7)))
        coordinator.join()
    except tf.errors.UnavailableError:
        print("lost", flush=True)
    os._exit(0)  # A usual exit waits for the server.


IN_SHARDS = locked, updaters, errors, reads, checkpoints, keras_fit


def main(checks, cluster, folder):
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: WARNINGS.append(record.getMessage())
    coordinator = Coordinator(json.loads(cluster), pathlib.Path(folder))
    logger = logging.getLogger("tensorflow")
    logger.handlers, logger.propagate = [handler], False
    for name in checks.split(","):
        check = globals()[name]
        for shards in (1, 2, 3) if check in IN_SHARDS else (2,):
            coordinator.shards = shards
            check(coordinator)
        print(f"{name}: done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
