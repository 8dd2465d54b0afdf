"""The recipe: how the rows of a batch move the centers of their classes.

    old  = gather(ctrs, labels)
    ctrs = scatter_sub(ctrs, labels, w[:, None] * (old - embed))
    return gather(ctrs, labels)

Done row by row, this overshoots on repeated labels, and the last line may run before the second.
Here the rows of a class are first summed with their weights, so that each class of the batch gets
one new row:

    new = old - (sum(w) * old - sum(w * embed))
"""

from typing import Any, List, NamedTuple

import tensorflow.compat.v1 as tf

from tf_centers.access import add_to_rows, read_rows, write_rows
from tf_centers.centers import EmbedCenters
from tf_centers.checks import Checks
from tf_centers.updaters import Rows, Updater, weigh


class Update(NamedTuple):
    """An update that has been built.

    Attributes:
      rows: `[B, D]`, the center of each row, to be used after `writes`.
      writes: the ops that have to run for the update to be done.
    """

    rows: tf.Tensor
    writes: List[Any]


def update_rows(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: str,
) -> Update:
    """Updates whole variables with a batch.

    Args:
      checks: must pass before anything is written.
      centers: ctrs `[C, D]` and counts `[C]` or None.
      updater: gives the row weights; prepared.
      embeds: `[B, D]` in the dtype of ctrs.
      labels: int32 or int64 `[B]`, each in [0, C).
      read: "after" for the rows after the update, "before" for the rows before it.
    """
    dtype = centers.ctrs.dtype.base_dtype
    # Centers of half precision would stop moving.
    wide = tf.float64 if dtype == tf.float64 else tf.float32

    # Group by class: the i-th row belongs to classes[index[i]]. Sorting keeps the batch order
    # within each class, since top_k takes the first of equals first.
    labels = _hide_constants(labels)
    classes, index, sizes = tf.unique_with_counts(labels)
    group, order = tf.nn.top_k(-index, tf.size(labels))
    group = -group

    # Weigh.
    seen = [read_rows(centers.counts, classes)] if updater.needs_counts else []
    rows = Rows(wide, group, sizes, *seen)
    weights = tf.expand_dims(tf.stop_gradient(weigh(checks, updater, rows)), 1)

    # Sum. In this order, since the first two terms are small next to old: (1 - total) * old would
    # lose precision if the weights are small.
    old = tf.stop_gradient(read_rows(centers.ctrs, classes))
    total = tf.segment_sum(weights, group)
    pull = tf.segment_sum(weights * tf.cast(tf.gather(embeds, order), wide), group)
    wide_old = tf.cast(old, wide)
    new = tf.cast(tf.add_n([-total * wide_old, pull, wide_old]), dtype)

    # Write. Nothing is written before everything is read.
    result = tf.gather(new if read == "after" else old, index)
    more = tf.cast(sizes, tf.int64)
    with tf.control_dependencies(checks.ops + [new, old] + seen):
        writes = [write_rows(centers.ctrs, classes, new)]
        if centers.counts is not None:
            writes.append(add_to_rows(centers.counts, classes, more))
    return Update(result, writes)


def _hide_constants(labels: tf.Tensor) -> tf.Tensor:
    """The same labels, hidden from TensorFlow's constant folding.

    If it knows that there are no rows, it divides by their number and crashes the process.
    """
    return tf.placeholder_with_default(labels, [labels.shape.as_list()[0] or None])
