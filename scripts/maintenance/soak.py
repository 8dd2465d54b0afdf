"""Runs a million updates in one process, and checks memory, graph size and precision.

  python scripts/maintenance/soak.py [--updates=1000000] [--classes=1000]

Runs `get_embed_centers` with `CumulativeMean` on batches from a fixed pool, and compares the
centers with float64 means of the same rows. Prints ten lines of progress, and exits with 1 if the
graph or memory has grown since the first line, a center is too far from its mean, or a count is
wrong.
"""

import os
import resource
import sys
from typing import List

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from absl import app, flags  # noqa: E402
from soak_measures import Reading, find_faults, largest_error, make_pool  # noqa: E402
from tqdm import tqdm  # noqa: E402

import tf_centers  # noqa: E402

flags.DEFINE_integer("updates", 1_000_000, "Total number of updates.", lower_bound=10)
flags.DEFINE_integer("classes", 1_000, "Classes of the table.", lower_bound=1)
flags.DEFINE_integer("dims", 16, "Dims of the embeddings.", lower_bound=1)
flags.DEFINE_integer("batch_size", 8, "Rows of a batch.", lower_bound=1)
flags.DEFINE_boolean("use_resource", True, "Resource variables rather than ref ones.")
flags.DEFINE_boolean("use_locking", False, "Update under the lock.")

_LINES = 10


def peak_mb() -> float:
    """The most memory that this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def soak(values: flags.FlagValues) -> List[Reading]:
    """Runs the updates, and reads and prints how it goes after each tenth of them."""
    pool = make_pool(values.classes, values.dims, values.batch_size)
    uses, random = np.zeros(len(pool.labels)), np.random.RandomState(1)
    readings: List[Reading] = []
    config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with tf.Graph().as_default() as graph:
        with tf.variable_scope("", use_resource=values.use_resource):
            centers = tf_centers.create_embed_centers(values.classes, values.dims)
        embeds = tf.placeholder(tf.float32, [None, values.dims])
        labels = tf.placeholder(tf.int64, [None])
        rows = tf_centers.get_embed_centers(
            embeds,
            labels,
            tf_centers.CumulativeMean(),
            centers,
            use_locking=values.use_locking,
        )
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            update = session.make_callable(rows, [embeds, labels])
            read = session.make_callable(centers)
            for done in tqdm(range(1, values.updates + 1), "updates", disable=None):
                batch = random.randint(len(uses))
                update(pool.embeds[batch], pool.labels[batch])
                uses[batch] += 1
                if done * _LINES // values.updates > len(readings):
                    ctrs, counts = read()
                    means, expected = pool.means(uses, values.classes)
                    reading = Reading(
                        updates=done,
                        ops=len(graph.get_operations()),
                        memory_mb=peak_mb(),
                        error=largest_error(ctrs, means),
                        miscounted=int(np.sum(counts != expected)),
                    )
                    print("{:>12,}{:>10,}{:>14.1f}{:>12.1e}{:>14}".format(*reading), flush=True)
                    readings.append(reading)
    return readings


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
