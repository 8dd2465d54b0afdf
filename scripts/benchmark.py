"""Times updaters against the usual recipe, and searches against a product and `top_k`.

  python scripts/benchmark.py [--json=PATH] [--sizes=C/D/B,C/D/B,...] [--searches=C/D/B,...]
    [--options=C/D/B,...]
  python scripts/benchmark.py --table=PATH,PATH

Prints ratios of medians within one run. The second form prints what several runs wrote, such as
one for each version of TensorFlow, as tables in Markdown.

All contenders of a size take turns in one process, each with its own table and every run-time check
on. The graph does not know the batch size, and the batch is kept in the session, so that feeding is
not timed. Labels are drawn at random from all classes. TensorFlow 1.15 uses ref variables, its
default, and 2.x resource variables. Searched tables have been updated once, since TensorFlow then
reads a resource variable in another way.
"""

import json
import os
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from absl import app, flags  # noqa: E402

import tf_centers  # noqa: E402

Contenders = Dict[str, Callable[..., Any]]
DECAY, ALPHA, FADE = 0.95, 0.5, 0.99
SIZES = "10/2/128,10/64/512,1000/128/256,1000/128/1024,10000/512/256,10000/512/1024,"
SIZES += "1000000/128/1024,100000/512/4096"
SEARCHES = "64/64/64,64/64/4096,64/512/64,1000/128/64,1024/128/1024,4096/64/64,4096/128/64,"
SEARCHES += "4096/512/64,4096/128/1024,65536/128/64"
# TensorFlow's executor needs some hundred steps to learn which ops are cheap.
WARM_UP = 300
# One-hot matrices of more elements than this are not worth waiting for.
MOST_ONE_HOT = 2 * 10**7

flags.DEFINE_list("sizes", SIZES.split(","), "Sizes to time: classes/dims/rows of a batch.")
flags.DEFINE_list("searches", SEARCHES.split(","), "Sizes to time searches of, in the same form.")
flags.DEFINE_list("options", [], "Sizes to time options of one updater, in the same form.")
flags.DEFINE_integer("runs", 200, "Timed steps of each contender at each size.", lower_bound=5)
flags.DEFINE_integer("threads", 2, "Threads, within and between ops.", lower_bound=1)
flags.DEFINE_boolean("feed", False, "Feed the batch from NumPy in every step.")
flags.DEFINE_string("json", "", "Where to write the figures; empty: nowhere.")
flags.DEFINE_list("table", [], "Files of figures to print as one table, in place of a run.")


class Timing(NamedTuple):
    """The time of one contender at one size."""

    size: str
    contender: str
    median_us: float
    spread: float  # half the range of the middle half of the steps, over the median
    ratio: float  # of the median to that of the first contender


def recipe(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor, weights: Any = 1 - DECAY) -> tf.Tensor:
    """The usual recipe, but ordered by hand, since resource variables would never move."""
    old = tf.gather(ctrs, labels)
    update = tf.scatter_sub(ctrs, labels, weights * (old - embeds))
    with tf.control_dependencies([update.op]):
        return tf.gather(ctrs, labels)


def equation_4(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Eq. (4) of Wen et al., ECCV 2016, as public code writes it, but ordered by hand."""
    _, index, sizes = tf.unique_with_counts(labels)
    weights = ALPHA / (1.0 + tf.cast(tf.gather(sizes, index), tf.float32))
    return recipe(ctrs, embeds, labels, tf.expand_dims(weights, 1))


def dense(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Sums and sizes of every class, present or not, as codebooks with moving averages take."""
    one_hot = tf.one_hot(labels, ctrs.shape.as_list()[0])
    sizes = tf.expand_dims(tf.reduce_sum(one_hot, axis=0), 1)
    means = tf.math.divide_no_nan(tf.matmul(one_hot, embeds, transpose_a=True), sizes)
    step = (1 - DECAY) * tf.cast(sizes > 0, tf.float32) * (ctrs - means)
    update = tf.assign_sub(ctrs, step)
    with tf.control_dependencies([update.op]):
        return tf.gather(ctrs, labels)


def dense_codebook(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The codebook that VQ-VAE averages, by one-hot rows: `FadingMean` on every class."""
    num_classes, num_dims = ctrs.shape.as_list()
    how = {"initializer": tf.ones_initializer(), "trainable": False}
    sizes = tf.get_variable("n", [num_classes], **how)
    sums = tf.get_variable("m", ctrs.shape, **how)
    one_hot = tf.one_hot(labels, num_classes)
    more = tf.reduce_sum(one_hot, axis=0), tf.matmul(one_hot, embeds, transpose_a=True)
    faded = [FADE * v.read_value() + (1 - FADE) * own for v, own in zip((sizes, sums), more)]
    writes = [tf.assign(v, new) for v, new in zip((sizes, sums), faded)]
    writes.append(tf.assign(ctrs, faded[1] / tf.expand_dims(faded[0], 1)))
    with tf.control_dependencies([write.op for write in writes]):
        return tf.gather(ctrs, labels)


def ours(updater: tf_centers.Updater) -> Callable[..., tf.Tensor]:
    """`get_embed_centers` with one updater."""
    return lambda ctrs, embeds, labels: tf_centers.get_embed_centers(embeds, labels, updater, ctrs)


# Every updater of the package, as it is by default.
UPDATERS = {
    name: item
    for name, item in vars(tf_centers).items()
    if isinstance(item, type) and tf_centers.Updater in item.__bases__
}
CONTENDERS = {
    "recipe": recipe,
    **{name: ours(updater()) for name, updater in sorted(UPDATERS.items())},
    "eq. (4)": equation_4,
    "dense one-hot": dense,
    "dense codebook": dense_codebook,
}
ONE_HOT = ("dense one-hot", "dense codebook")


def option(shards: int = 0, **given: Any) -> Callable[..., tf.Tensor]:
    """`get_embed_centers` with arguments, which may be functions of the labels."""

    def build(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        if shards:
            with tf.variable_scope("sharded", partitioner=tf.fixed_size_partitioner(shards)):
                ctrs = tf.get_variable("ctrs", ctrs.shape, trainable=False)
        ready = {name: arg(labels) if callable(arg) else arg for name, arg in given.items()}
        return tf_centers.get_embed_centers(embeds, labels, None, ctrs, **ready)

    return build


OPTIONS = {
    "plain": option(),
    "validate_args=False": option(validate_args=False),
    "mask": option(mask=lambda labels: labels >= 0),
    "is_training tensor": option(is_training=lambda _: tf.placeholder_with_default(True, [])),
    "use_locking": option(use_locking=True),
    "2 shards": option(2),
    "4 shards": option(4),
    "4 shards, use_locking": option(4, use_locking=True),
    "lookup": lambda ctrs, _, labels: tf_centers.lookup_embed_centers(labels, ctrs),
}


# The nearest class of each row; labels take no part.
SEARCHERS = {
    "product and top_k": lambda ctrs, embeds, labels: tf.nn.top_k(
        tf.matmul(embeds, ctrs, transpose_b=True)
    ),
    "nearest_centers": lambda ctrs, embeds, labels: tf_centers.nearest_centers(embeds, ctrs),
}


def time_size(contenders: Contenders, size: str, values: flags.FlagValues) -> List[Timing]:
    """Times every contender at one size."""
    classes, dims, rows = parse_size(size)
    threads = {f"{where}_op_parallelism_threads": values.threads for where in ("intra", "inter")}
    config = tf.ConfigProto(**threads)
    random = np.random.RandomState(0)
    batch = random.randn(rows, dims).astype(np.float32), random.randint(0, classes, rows)
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        held = [
            tf.get_variable(name, initializer=value, trainable=False).read_value()
            for name, value in zip(("embeds", "labels"), batch)
        ]
        embeds = tf.placeholder_with_default(held[0], [None, dims])
        labels = tf.placeholder_with_default(held[1], [None])
        fetches, updates = {}, []
        for place, (name, build) in enumerate(contenders.items()):
            if name in ONE_HOT and classes * rows > MOST_ONE_HOT:
                continue
            with tf.variable_scope(f"contender_{place}"):
                initial = tf.random_normal_initializer(seed=0)
                ctrs = tf.get_variable("ctrs", [classes, dims], initializer=initial)
                updates.append(tf_centers.update_embed_centers(embeds, labels, centers=ctrs))
                fetches[name] = build(ctrs, embeds, labels)
        session.run(tf.global_variables_initializer())
        session.run(updates)
        # An empty list of feeds would take a slower way through the session.
        holders, fed = ([embeds, labels], batch) if values.feed else (None, ())
        calls = {name: session.make_callable(fetch, holders) for name, fetch in fetches.items()}
        steps = {name: lambda f=f: f(*fed) for name, f in calls.items()}
        taken = time_in_turns(steps, values.runs)
    timings, baseline = [], float(np.median(taken[next(iter(contenders))]))
    for name, seconds in taken.items():
        low, median, high = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
        spread = (high - low) / 2 / median
        timings.append(Timing(size, name, 1e6 * median, spread, median / baseline))
    return timings


def time_in_turns(steps: Dict[str, Callable[[], Any]], runs: int) -> Dict[str, np.ndarray]:
    """Seconds of each run of each step, by name.

    They take turns, so that disturbances hit all alike, in an order drawn anew every time, since
    each leaves caches and memory to the next as it found them fit.
    """
    taken: Dict[str, List[float]] = {name: [] for name in steps}
    order, random = list(steps), np.random.RandomState(0)
    for run in range(WARM_UP + runs):
        random.shuffle(order)
        for name in order:
            began = time.perf_counter()
            steps[name]()
            if run >= WARM_UP:
                taken[name].append(time.perf_counter() - began)
    return {name: np.array(seconds) for name, seconds in taken.items()}


def parse_size(text: str) -> Tuple[int, int, int]:
    """Classes, dims and rows; a text of another form is a `ValueError`."""
    numbers = [int(part) if part.isdigit() else 0 for part in text.split("/")]
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"--sizes: expected classes/dims/rows, each at least 1, found {text!r}")
    return numbers[0], numbers[1], numbers[2]


def geometric_means(timings: List[Timing]) -> Dict[str, float]:
    """Of the ratios of each contender that ran at every size."""
    sizes = {timing.size for timing in timings}
    ratios: Dict[str, List[float]] = {}
    for timing in timings:
        ratios.setdefault(timing.contender, []).append(timing.ratio)
    return {
        name: float(np.exp(np.mean(np.log(values))))
        for name, values in ratios.items()
        if len(values) == len(sizes)
    }


def format_table(runs: List[Dict[str, Any]]) -> str:
    """Figures of one or more runs in Markdown, versions side by side."""
    lines = [f"TensorFlow {' / '.join(run['tensorflow'] for run in runs)}"]
    for key, names in (("timings", CONTENDERS), ("searches", SEARCHERS)):
        first, *others = [name for name in names if name not in ONE_HOT]
        lines += ["", f"| C / D / B | {first}, us | " + " | ".join(others) + " |"]
        lines += ["| --- " * (len(others) + 2) + "|"]
        timings = [[Timing(**timing) for timing in run[key]] for run in runs]
        for size in dict.fromkeys(timing.size for run in timings for timing in run):
            found = [{t.contender: t for t in run if t.size == size} for run in timings]
            found = [run for run in found if run]  # A run may have left the size out.
            cells = [" / ".join(f"{int(part):,}" for part in size.split("/"))]
            cells += [" / ".join(f"{run[first].median_us:,.0f}" for run in found)]
            cells += [" / ".join(f"{run[name].ratio:.2f}" for run in found) for name in others]
            lines.append("| " + " | ".join(cells) + " |")
        means = [geometric_means(run) for run in timings]
        cells = [" / ".join(f"{run[name]:.2f}" for run in means) for name in (first, *others)]
        lines.append("| geometric mean | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def time_sizes(
    contenders: Contenders, sizes: List[str], values: flags.FlagValues
) -> List[Dict[str, Any]]:
    """Times all sizes and prints each as it is done."""
    timings: List[Timing] = []
    for size in sizes:
        found = time_size(contenders, size, values)
        print(size)
        for _, name, median, spread, ratio in found:
            print(f"  {name:<20}{median:>12,.0f} us  +-{spread:4.0%}{ratio:>8.2f}", flush=True)
        timings += found
    print("geometric mean")
    for name, mean in geometric_means(timings).items():
        print(f"  {name:<20}{mean:>31.2f}")
    return [timing._asdict() for timing in timings]


def main(argv: List[str]) -> int:
    """Runs the script; returns 2 after wrong input, which is told in one line."""
    values = flags.FLAGS
    try:
        if argv[1:]:
            raise ValueError(f"expected flags only, found {argv[1]!r}")
        if values.table:
            runs = []
            for path in values.table:
                with open(path, encoding="utf-8") as file:
                    runs.append(json.load(file))
            print(format_table(runs))
            return 0
        for size in values.sizes + values.searches + values.options:
            parse_size(size)
        if values.json and not os.path.isdir(os.path.dirname(os.path.abspath(values.json))):
            raise ValueError(f"--json={values.json}: expected a path in a folder that exists")
        tf.logging.set_verbosity(tf.logging.ERROR)
        tf.disable_eager_execution()
        print(f"TensorFlow {tf.__version__}, {values.threads} threads; median, spread, ratio")
        figures = {
            "tensorflow": tf.__version__,
            "threads": values.threads,
            "runs": values.runs,
            "fed": values.feed,
            "timings": time_sizes(CONTENDERS, values.sizes, values),
            "searches": time_sizes(SEARCHERS, values.searches, values),
            "options": time_sizes(OPTIONS, values.options, values),
        }
        if values.json:
            with open(values.json, "w", encoding="utf-8") as file:
                json.dump(figures, file, indent=2)
    except (OSError, ValueError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main)
