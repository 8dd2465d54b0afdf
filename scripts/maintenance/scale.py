"""Measures the peak memory of every call on a large table.

  python scripts/maintenance/scale.py [--classes=2000000] [--dims=256]

Prints the peak resident memory after each step, in all and as a multiple of the table.
"""

import os
import resource
import sys
from typing import List

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from absl import app, flags  # noqa: E402
from tqdm import tqdm  # noqa: E402

import tf_centers  # noqa: E402

flags.DEFINE_integer("classes", 2_000_000, "Classes of the table.", lower_bound=1)
flags.DEFINE_integer("dims", 256, "Dims of the embeddings.", lower_bound=1)
flags.DEFINE_integer("batch_size", 1_000, "Rows of a batch.", lower_bound=1)
flags.DEFINE_integer("updates", 100, "Updates of the table.", lower_bound=1)
flags.DEFINE_boolean("use_resource", True, "Resource variables rather than ref ones.")


def report(step: str, table_bytes: int) -> None:
    """Prints the most memory that this process has had resident so far."""
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{step:<32}{peak / 1e9:8.2f} GB{peak / table_bytes:8.2f} times the table", flush=True)


def measure(values: flags.FlagValues) -> None:
    """Creates, updates, looks up and searches a table of the size of the flags."""
    random, table_bytes = np.random.RandomState(0), 4 * values.classes * values.dims
    with tf.variable_scope("", use_resource=values.use_resource):
        centers = tf_centers.create_embed_centers(values.classes, values.dims)
    embeds = tf.placeholder(tf.float32, [None, values.dims])
    labels = tf.placeholder(tf.int64, [None])
    update = tf_centers.get_embed_centers(embeds, labels, tf_centers.CumulativeMean(), centers)
    found = tf_centers.lookup_embed_centers(labels, centers)
    nearest = tf_centers.nearest_centers(embeds, centers, k=5)
    config = tf.ConfigProto(intra_op_parallelism_threads=2, inter_op_parallelism_threads=2)
    with tf.Session(config=config) as session:
        report("before", table_bytes)
        session.run(centers.ctrs.initializer)
        session.run(centers.counts.initializer)
        report("created", table_bytes)
        for _ in tqdm(range(values.updates), desc="updates", disable=None):
            batch = random.randn(values.batch_size, values.dims).astype(np.float32)
            batch_labels = random.randint(0, values.classes, values.batch_size)
            session.run(update, {embeds: batch, labels: batch_labels})
        report(f"updated {values.updates} times", table_bytes)
        rows = session.run(found, {labels: batch_labels})
        report("looked up", table_bytes)
        best = session.run(nearest.labels, {embeds: rows[:100]})
        report("searched for 100 embeddings", table_bytes)
    hits = np.mean(best[:, 0] == batch_labels[:100])
    print(f"{hits:.0%} of the searched centers were found first")


def main(argv: List[str]) -> int:
    """Runs the script."""
    if argv[1:]:
        print(f"scale.py: expected flags only, found {argv[1]!r}", file=sys.stderr)
        return 2
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    measure(flags.FLAGS)
    return 0


if __name__ == "__main__":
    app.run(main)
