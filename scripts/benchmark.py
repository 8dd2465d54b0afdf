"""Times the updaters against the circulating recipe, in one run, as ratios of medians.

  python scripts/benchmark.py [--json=PATH] [--plot=PATH] [--grid=C/D/B,C/D/B,...]

All contenders of a size take turns in one process on two threads, each with variables of its own,
all run-time checks on. The labels are drawn at random from all classes.
"""

import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# PyTorch's threads would otherwise spin through the turn of whoever comes next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import benchmark_contenders as contenders  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from absl import app, flags  # noqa: E402
from mnist_run import InputError, Settings, write_json  # noqa: E402

Size = Tuple[int, int, int]

_SIZES = (
    (10, 2, 128),
    (10, 64, 512),
    (1_000, 128, 256),
    (1_000, 128, 1_024),
    (10_000, 512, 256),
    (10_000, 512, 1_024),
    (1_000_000, 128, 1_024),
    (100_000, 512, 4_096),
)
# For the two curves of the plot, beside what of _SIZES lies on them.
_CURVES = tuple((c, 128, 1_024) for c in (10_000, 100_000)) + tuple(
    (10_000, 128, b) for b in (64, 256, 4_096)
)

flags.DEFINE_list(
    "grid",
    ["/".join(map(str, size)) for size in _SIZES + _CURVES],
    "Sizes to time: classes/dims/rows of a batch, each at least 1.",
)
flags.DEFINE_integer("runs", 200, "Timed runs of each contender at each size.", lower_bound=5)
flags.DEFINE_integer("threads", 2, "Threads, within and between ops.", lower_bound=1)
flags.DEFINE_boolean("static_batch", True, "Whether the graph knows the size of the batch.")
flags.DEFINE_boolean("train_step", True, "Time a step of train_mnist.py, with and without centers.")
flags.DEFINE_string("json", "", "Where to write the figures; empty: nowhere.")
flags.DEFINE_string("plot", "", "Where to draw cost against C and against B; empty: nowhere.")


class Timing(NamedTuple):
    """What one contender took at one size."""

    classes: int
    dims: int
    rows: int
    contender: str
    median_us: float
    spread: float  # half the range of the middle half of the runs, over the median
    ratio: float  # of the median to that of the baseline


def time_in_turns(steps: Dict[str, Callable[[], Any]], runs: int) -> Dict[str, np.ndarray]:
    """Seconds of each run of each step.

    They take turns, so that disturbances hit all alike, in an order drawn anew every time, since
    each leaves its successor the caches and the memory as it found them fit.
    """
    taken: Dict[str, List[float]] = {name: [] for name in steps}
    warm_up = max(5, runs // 10)
    order, random = list(steps), np.random.RandomState(0)
    for run in range(warm_up + runs):
        random.shuffle(order)
        for name in order:
            began = time.perf_counter()
            steps[name]()
            if run >= warm_up:
                taken[name].append(time.perf_counter() - began)
    return {name: np.array(seconds) for name, seconds in taken.items()}


def time_size(size: Size, runs: int, config: tf.ConfigProto, static_batch: bool) -> List[Timing]:
    """Times every contender at one size, which the graph knows or does not."""
    classes, dims, rows = size
    random = np.random.RandomState(0)
    embeds = random.randn(rows, dims).astype(np.float32)
    labels = random.randint(0, classes, rows).astype(np.int64)
    steps: Dict[str, Callable[[], Any]] = {}
    with tf.Graph().as_default():
        # Held by the session, so that no contender pays for feeding.
        held = [
            tf.get_variable(name, initializer=value, trainable=False)
            for name, value in (("embeds", embeds), ("labels", labels))
        ]
        known = rows if static_batch else None
        fed = [tf.placeholder_with_default(held[0].read_value(), [known, dims])]
        fed.append(tf.placeholder_with_default(held[1].read_value(), [known]))
        fetches = {}
        for place, (name, build) in enumerate(contenders.builders(classes, rows).items()):
            with tf.variable_scope(f"contender_{place}"):
                ctrs = tf.get_variable("ctrs", [classes, dims], initializer=tf.zeros_initializer())
                fetches[name] = build(ctrs, *fed)
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            for name, fetch in fetches.items():
                steps[name] = session.make_callable(fetch)
            torch_step = contenders.torch_step(
                classes, embeds, labels, config.intra_op_parallelism_threads
            )
            if torch_step is not None:
                steps["PyTorch index_add_"] = torch_step
            taken = time_in_turns(steps, runs)
    baseline = float(np.median(taken[contenders.BASELINE]))
    return [_timing(size, name, seconds, baseline) for name, seconds in taken.items()]


def time_training(runs: int, config: tf.ConfigProto) -> Dict[str, float]:
    """Milliseconds of a step of `train_mnist.py`, with softmax alone and with center loss."""
    import mnist_model

    base = dict(
        data_dir="", network="light", decay=0.95, alpha=0.5, center_loss_weight=0.1,
        embed_dims=64, batch_size=128, train_steps=1000, learning_rate=1e-3, seed=1, eval_every=0,
        model_dir="",
    )  # fmt: skip
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (128, 28, 28)).astype(np.uint8)
    labels = random.randint(0, 10, 128)
    steps = {}
    for updater in ("none", "exponential", "cumulative", "wen"):
        with tf.Graph().as_default():
            model = mnist_model.build_model(Settings(updater=updater, **base), (28, 28), 10)
            session = tf.Session(config=config)
            session.run(tf.global_variables_initializer())
            feed = {model.images: images, model.labels: labels, model.is_training: True}
            fetches = (model.train, model.losses)
            steps[updater] = lambda s=session, f=fetches, d=feed: s.run(f, d)
    taken = time_in_turns(steps, runs)
    return {name: 1e3 * float(np.median(seconds)) for name, seconds in taken.items()}


def parse_grid(texts: List[str]) -> List[Size]:
    """Sizes from texts of the form C/D/B.

    Raises:
      InputError: a text of another form, or a number below 1.
    """
    sizes = []
    for text in texts:
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise InputError(
                f"flag --grid: expected classes/dims/rows, each at least 1, found {text!r}"
            )
        sizes.append((int(parts[0]), int(parts[1]), int(parts[2])))
    return sizes


def print_table(timings: List[Timing]) -> None:
    """The figures of one size."""
    first = timings[0]
    print(f"C={first.classes:,} D={first.dims:,} B={first.rows:,}")
    for timing in timings:
        print(
            f"  {timing.contender:<24}{timing.median_us:>12,.0f} us  +-{timing.spread:4.0%}"
            f"{timing.ratio:>8.2f}"
        )
    sys.stdout.flush()


def _timing(size: Size, name: str, seconds: np.ndarray, baseline: float) -> Timing:
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return Timing(*size, name, 1e6 * median, (high - low) / 2 / median, median / baseline)


def _run(values: flags.FlagValues) -> None:
    sizes = parse_grid(values.grid)
    for path in (values.json, values.plot):
        if path and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise InputError(f"{path}: expected a path in a folder that exists")
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    config = tf.ConfigProto(
        intra_op_parallelism_threads=values.threads, inter_op_parallelism_threads=values.threads
    )
    print(f"TensorFlow {tf.__version__}, {values.threads} threads; median, spread, ratio")
    timings: List[Timing] = []
    for size in sizes:
        found = time_size(size, values.runs, config, values.static_batch)
        print_table(found)
        timings += found
    figures: Dict[str, Any] = {
        "tensorflow": tf.__version__,
        "threads": values.threads,
        "runs": values.runs,
        "static_batch": values.static_batch,
        "timings": [timing._asdict() for timing in timings],
    }
    if values.train_step:
        steps = time_training(values.runs, config)
        figures["train_step_ms"] = steps
        print("a step of train_mnist.py")
        for name, milliseconds in steps.items():
            more = milliseconds / steps["none"] - 1
            print(f"  --updater={name:<14}{milliseconds:>12,.2f} ms  {more:+.1%}")
    if values.json:
        write_json(values.json, json.loads(json.dumps(figures)))
    if values.plot:
        import benchmark_figures

        benchmark_figures.write_curves(values.plot, timings)


def main(argv: List[str]) -> int:
    """Runs the script; returns 2 after wrong input, which is told in one line."""
    try:
        if argv[1:]:
            raise InputError(f"expected flags only, found {argv[1]!r}")
        _run(flags.FLAGS)
    except (InputError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main)
