"""One new row per class of the batch: for few classes, when most rows are repeated."""

from typing import Optional

import tensorflow.compat.v1 as tf

from tf_centers.checks import Checks
from tf_centers.grouping import Groups, count_later_rows, group_rows, sum_by_group
from tf_centers.moved import Moved
from tf_centers.rows import read_rows, write_rows
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Rows, Updater

# Up to so many classes have many rows each; up to so many rows float32 adds well enough.
_CROWDED_CLASSES = 64
_FEW_ROWS = 32


def move_by_group(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """Moves the centers of checked `labels [B]`, in float32 where that serves as well."""
    checks.require_finite(embeds)
    groups = group_rows(labels)
    old = read_rows(centers.ctrs, groups.labels)
    seen = None if centers.counts is None else read_rows(centers.counts, groups.labels)
    crowded = centers.ctrs.shape.as_list()[0] <= _CROWDED_CLASSES
    exact = crowded or old.dtype != tf.float32
    new = weighted_means(updater, old, seen, embeds, groups, exact)
    with checks.done():
        writes = [write_rows(centers.ctrs, groups.labels, new)]
        if seen is not None:
            counts = seen + tf.cast(groups.sizes, tf.int64)
            writes.append(write_rows(centers.counts, groups.labels, counts))
    if read is None:
        return Moved(None, writes)
    with tf.control_dependencies(writes):
        if read == "after":
            return Moved(read_rows(centers.ctrs, labels), writes)
        return Moved(tf.gather(old, tf.dynamic_stitch([groups.order], [groups.index])), writes)


def weighted_means(
    updater: Updater,
    old: tf.Tensor,
    seen: Optional[tf.Tensor],
    embeds: tf.Tensor,
    groups: Groups,
    exact: bool,
) -> tf.Tensor:
    """The new centers of the classes of `groups`, `[U, D]`, from their `old` ones and counts.

    In float64, since a sum of many rows in float32 loses digits, and half precision small steps.
    Unless `exact` is set, float32 serves where it is as good: where no class has many rows, nor a
    step so large that the digits of its rows would be lost beside those of a far larger center.
    """
    rows = Rows(
        sizes=tf.gather(groups.sizes, groups.index),
        later=count_later_rows(groups),
        seen=None if seen is None else tf.gather(seen, groups.index),
    )
    weights = tf.expand_dims(updater.row_weights(rows), 1)
    total = sum_by_group(weights, groups)
    embeds = tf.gather(embeds, groups.order)
    dtype = tf.float64 if exact else tf.float32
    pulls = tf.cast(weights, dtype) * tf.cast(embeds, dtype)

    def in_float64() -> tf.Tensor:
        pull = sum_by_group(tf.cast(pulls, tf.float64), groups)
        return tf.cast((1.0 - total) * tf.cast(old, tf.float64) + pull, old.dtype)

    def in_float32() -> tf.Tensor:
        # One pass for both sums; in this order, since the first two are small beside `old`.
        return tf.add_n([sum_by_group(pulls, groups), tf.cast(-total, tf.float32) * old, old])

    if exact:
        return in_float64()
    many = tf.reduce_max(groups.sizes) > _FEW_ROWS
    large = tf.reduce_max(total) >= 0.5
    return tf.cond(tf.logical_or(many, large), in_float64, in_float32)
