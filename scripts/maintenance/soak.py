"""Runs a million updates in one process, and checks memory, graph size and precision.

  python scripts/maintenance/soak.py [--updates=1000000] [--classes=1000]

Runs `get_embed_centers` with `CumulativeMean` on random batches, and compares the centers with
float64 means of the same rows. Prints ten lines of progress, and exits with 1 if the
graph or memory has grown since the first line, a center is too far from its mean, or a count is
wrong.
"""

import os
import resource
import sys
from typing import List, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from absl import app, flags  # noqa: E402
from tqdm import tqdm  # noqa: E402

import tf_centers  # noqa: E402

flags.DEFINE_integer("updates", 1_000_000, "Total number of updates.", lower_bound=10)
flags.DEFINE_integer("classes", 1_000, "Classes of the table.", lower_bound=1)
flags.DEFINE_integer("dims", 16, "Dims of the embeddings.", lower_bound=1)
flags.DEFINE_integer("batch_size", 8, "Rows of a batch.", lower_bound=1)
flags.DEFINE_boolean("use_resource", True, "Resource variables rather than ref ones.")
flags.DEFINE_boolean("use_locking", False, "Update under the lock.")

_LINES = 10
# Of the distance of a center to its mean in float64, over the norm of the mean.
_MOST_ERROR = 3e-6
# The allocator and Python's own caches go on settling by a little after the first tenth.
_MOST_GROWTH_MB = 5.0


class Reading(NamedTuple):
    """How it goes after so many updates."""

    updates: int
    ops: int
    memory_mb: float
    error: float
    miscounted: int  # classes whose count is not that of the rows that were fed


def largest_error(ctrs: np.ndarray, means: np.ndarray) -> float:
    """The largest distance of a center to its mean, over the norm of the mean."""
    distances = np.linalg.norm(ctrs - means, axis=1)
    return float(np.max(distances / np.linalg.norm(means, axis=1)))


def soak(values: flags.FlagValues) -> List[Reading]:
    """Runs the updates, and reads and prints how it goes after each tenth of them."""
    readings: List[Reading] = []
    random, size = np.random.RandomState(1), (values.classes, values.dims)
    points = 3 * random.randn(*size) + np.linspace(-2, 5, values.dims)  # each dim differs
    sums, expected = np.zeros(size), np.zeros(values.classes, int)
    config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with tf.Graph().as_default() as graph, tf.Session(config=config) as session:
        with tf.variable_scope("", use_resource=values.use_resource):
            centers = tf_centers.create_embed_centers(*size)
        batch = tf.placeholder(tf.float32, [None, values.dims]), tf.placeholder(tf.int64, [None])
        how = dict(centers=centers, use_locking=values.use_locking)
        rows = tf_centers.get_embed_centers(*batch, tf_centers.CumulativeMean(), **how)
        session.run(tf.global_variables_initializer())
        update, read = session.make_callable(rows, list(batch)), session.make_callable(centers)
        for done in tqdm(range(1, values.updates + 1), "updates", disable=None):
            labels = random.randint(0, values.classes, values.batch_size)
            # Half the rows are of the class of the one before, so that labels repeat.
            labels[1:] = np.where(random.rand(len(labels) - 1) < 0.5, labels[:-1], labels[1:])
            embeds = (points[labels] + random.randn(len(labels), values.dims)).astype(np.float32)
            update(embeds, labels)
            np.add.at(sums, labels, embeds.astype(np.float64))
            np.add.at(expected, labels, 1)
            if done * _LINES // values.updates > len(readings):
                ctrs, counts = read()
                seen = expected > 0
                means = sums[seen] / expected[seen, np.newaxis]
                peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                found = largest_error(ctrs[seen], means), int(np.sum(counts != expected))
                readings.append(Reading(done, len(graph.get_operations()), peak_mb, *found))
                print("{:>12,}{:>10,}{:>14.1f}{:>12.1e}{:>14}".format(*readings[-1]), flush=True)
    return readings


def find_faults(readings: List[Reading]) -> List[str]:
    """What went wrong, in a line each."""
    first, last = readings[0], readings[-1]
    growth = last.memory_mb - first.memory_mb
    worst = np.max([reading.error for reading in readings])  # a NaN too, unlike max
    faults = {
        f"a graph of {first.ops} ops throughout, found {last.ops}": last.ops != first.ops,
        f"at most {_MOST_GROWTH_MB} MB of growth, found {growth:.1f}": growth > _MOST_GROWTH_MB,
        f"an error of at most {_MOST_ERROR}, found {worst:.1e}": not worst <= _MOST_ERROR,
        f"every row to be counted, found {last.miscounted} classes miscounted": last.miscounted,
    }
    return [f"expected {fault}" for fault, is_found in faults.items() if is_found]


def main(argv: List[str]) -> int:
    """Runs the script."""
    if argv[1:]:
        print(f"soak.py: expected flags only, found {argv[1]!r}", file=sys.stderr)
        return 2
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    print(f"TensorFlow {tf.__version__}")
    print(f"{'updates':>12}{'ops':>10}{'peak MB':>14}{'error':>12}{'miscounted':>14}")
    faults = find_faults(soak(flags.FLAGS))
    for fault in faults:
        print(f"soak.py: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    app.run(main)
