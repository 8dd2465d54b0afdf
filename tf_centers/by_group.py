"""One new row per class of the batch: for few classes, when most rows are repeated."""

import functools
from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers.checks import Checks
from tf_centers.grouping import Groups, count_later_rows, group_rows
from tf_centers.moved import Moved
from tf_centers.parts import count_parts, share, split_rows, write_in_turns
from tf_centers.rows import add_to_rows, read_rows, write_rows
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Classes, Updater

# Up to so many classes have many rows each; up to so many rows float32 adds well enough.
_CROWDED_CLASSES = 64
_FEW_ROWS = 32
# A part costs some twenty ops, which a batch of unknown size may not be worth.
_USUAL_ROWS = 0


class WeighedGroups(NamedTuple):
    """R rows sorted by class, and what they weigh.

    Attributes:
      labels: `[U]`, the different classes.
      totals: float64 `[U]`, what the rows of each weigh together.
      order: int `[R]`, for each row, where it stood before sorting.
      index: int32 `[R]`, for each row, its class as a place in `labels`; ascending.
      weights: float64 `[R]`.
    """

    labels: tf.Tensor
    totals: tf.Tensor
    order: tf.Tensor
    index: tf.Tensor
    weights: tf.Tensor


def move_by_group(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """Moves the centers of checked `labels [B]`, in float32 where that serves as well."""
    before = read_rows(centers.ctrs, labels) if read == "before" else None
    checks.require_finite(embeds)
    groups = group_rows(labels)
    seen = None if centers.counts is None else read_rows(centers.counts, groups.labels)
    weighed = weigh_groups(updater, groups, seen)
    # Of crowded classes each may be a large part of the batch.
    crowded = centers.ctrs.shape.as_list()[0] <= _CROWDED_CLASSES
    exact: Any = True
    if not crowded and centers.ctrs.dtype.base_dtype == tf.float32:
        exact = _need_float64(groups, weighed)
    parts = _split_groups(weighed, 1 if crowded else count_parts(embeds, _USUAL_ROWS))

    def move(part: WeighedGroups) -> Any:
        means = weighted_means(read_rows(centers.ctrs, part.labels), embeds, part, exact)
        return write_rows(centers.ctrs, part.labels, means)

    with checks.done(), tf.control_dependencies([] if before is None else [before]):
        ready = tf.no_op()
    writes = write_in_turns(ready, [functools.partial(move, part) for part in parts])
    if seen is not None:
        with tf.control_dependencies([ready, weighed.totals]):
            ones = tf.ones_like(labels, dtype=tf.int64)
            writes.append(add_to_rows(centers.counts, labels, ones))
    if read is None:
        return Moved(None, writes)
    with tf.control_dependencies(writes):
        rows = read_rows(centers.ctrs, labels) if before is None else tf.identity(before)
    return Moved(rows, writes)


def weigh_groups(updater: Updater, groups: Groups, seen: Optional[tf.Tensor]) -> WeighedGroups:
    """Weighs the rows of groups, whose classes have `seen [U]` rows before."""
    classes = Classes(groups.sizes, seen)
    later = count_later_rows(groups) if updater.orders_rows else None
    totals, weights = updater.weigh(classes, groups.index, later)
    return WeighedGroups(groups.labels, totals, groups.order, groups.index, weights)


def weighted_means(
    old: tf.Tensor, embeds: tf.Tensor, weighed: WeighedGroups, exact: Any = True
) -> tf.Tensor:
    """The new centers `[U, D]` of classes, from their `old` ones and the embeddings `[B, D]`.

    In float64, since a sum of many rows in float32 loses digits, and half precision small steps.
    Where `exact` is a tensor, of float32 centers, the sums alone are, and only if it is true.
    """
    dtype = tf.float64 if exact is True else tf.float32
    rows = tf.cast(tf.gather(embeds, weighed.order), dtype)
    pulls = _column(weighed.weights, dtype) * rows

    def in_float64() -> tf.Tensor:
        pull = tf.math.segment_sum(tf.cast(pulls, tf.float64), weighed.index)
        keep = _column(1.0 - weighed.totals, tf.float64)
        return tf.cast(keep * tf.cast(old, tf.float64) + pull, old.dtype)

    def in_float32() -> tf.Tensor:
        pull = tf.math.segment_sum(pulls, weighed.index)
        # One pass for both sums; in this order, since the first two are small beside `old`.
        return tf.add_n([pull, _column(-weighed.totals, tf.float32) * old, old])

    return in_float64() if exact is True else tf.cond(exact, in_float64, in_float32)


def _need_float64(groups: Groups, weighed: WeighedGroups) -> tf.Tensor:
    """Whether a class has many rows, or a step too large for float32.

    The digits of its rows would be lost beside those of a far larger center.
    """
    hard = tf.logical_or(groups.sizes > _FEW_ROWS, weighed.totals >= 0.5)
    return tf.reduce_any(hard)


def _column(weights: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.expand_dims(tf.cast(weights, dtype), 1)


def _split_groups(weighed: WeighedGroups, parts: int) -> List[WeighedGroups]:
    """Splits groups into so many parts of as many classes."""
    if parts == 1:
        return [weighed]
    classes = share(tf.size(weighed.labels), parts)
    ends = tf.cumsum(classes)
    row_ends = tf.searchsorted(weighed.index, ends)
    rows = row_ends - tf.concat([[0], row_ends[:-1]], axis=0)
    starts = tf.unstack(ends - classes, num=parts)
    labels, totals = [split_rows(of, classes, parts) for of in (weighed.labels, weighed.totals)]
    order, index, weights = [
        split_rows(of, rows, parts) for of in (weighed.order, weighed.index, weighed.weights)
    ]
    index = [places - start for places, start in zip(index, starts)]
    return [WeighedGroups(*part) for part in zip(labels, totals, order, index, weights)]
