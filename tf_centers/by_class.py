"""One new row for every class there is: for very few classes of few dimensions.

At such sizes the number of ops is the cost, and this takes the fewest.
"""

from typing import Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.checks import Checks
from tf_centers.moved import Moved
from tf_centers.rows import add_to_rows, read_all_rows, write_rows
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Classes, Updater


def move_by_class(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """Moves the centers of checked `labels [B]`; writes those of the batch alone."""
    num_classes = centers.ctrs.shape.as_list()[0]
    old = read_all_rows(centers.ctrs)
    seen = None if centers.counts is None else read_all_rows(centers.counts)
    ones = tf.ones_like(labels, dtype=tf.float64)
    sizes = tf.math.unsorted_segment_sum(ones, labels, num_classes)
    # A class without any row is weighed as if it had one: its weight goes nowhere, but an Inf would
    # alarm TensorFlow's debuggers.
    classes = Classes(tf.maximum(sizes, 1.0), seen)
    if updater.orders_rows:
        ordered, order, later = _sort_rows(labels, ones, sizes)
    else:
        size = tf.size(labels, out_type=labels.dtype)
        ordered, order, later = labels, tf.range(size, dtype=labels.dtype), None
    totals, weights = updater.weigh(classes, ordered, later)
    pulls = tf.raw_ops.SparseTensorDenseMatMul(
        a_indices=tf.stack([ordered, tf.cast(order, labels.dtype)], axis=1),
        a_values=weights,
        a_shape=tf.stack([num_classes, tf.size(labels, out_type=tf.int64)]),
        b=tf.cast(embeds, tf.float64),
    )
    if embeds.dtype == tf.float64:
        checks.require_finite(embeds)  # of finite ones, the sum may be infinite
    else:
        checks.require_finite_sums(pulls, embeds.dtype)
    keep = tf.expand_dims(1.0 - totals, 1)
    new = tf.cast(keep * tf.cast(old, tf.float64) + pulls, old.dtype)

    # Not the whole table: others may be moving the classes that are absent here.
    rows = tf.gather(new, labels)
    before = tf.gather(old, labels) if read == "before" else None
    with checks.done(), tf.control_dependencies([rows] if before is None else [rows, before]):
        writes = [write_rows(centers.ctrs, labels, rows)]
        if seen is not None:
            ones = tf.ones_like(labels, dtype=tf.int64)
            writes.append(add_to_rows(centers.counts, labels, ones))
    if read is None:
        return Moved(None, writes)
    with tf.control_dependencies(writes):
        return Moved(tf.identity(rows if before is None else before), writes)


def _sort_rows(
    labels: tf.Tensor, ones: tf.Tensor, sizes: tf.Tensor
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Sorts the rows by their labels, and within a class in the order in which they came.

    Returns:
      For each sorted row its label, its place in the batch, and the rows of its class after it.
    """
    ordered, order = tf.nn.top_k(labels, tf.size(labels))
    # Labels fall: behind the rows of a class come those of all lower ones.
    behind = tf.cumsum(ones, exclusive=True, reverse=True)
    lower = tf.gather(tf.cumsum(sizes, exclusive=True), ordered)
    return ordered, order, behind - lower
