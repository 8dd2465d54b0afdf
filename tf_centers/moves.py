"""How the centers of a batch move, in two formulations of one recipe: sum, weigh, write."""

from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers.checks import Checks
from tf_centers.grouping import Groups, count_later_rows, group_rows, last_rows, sum_by_group
from tf_centers.rows import read_rows, write_rows
from tf_centers.updaters import Rows, Updater
from tf_centers.variables import EmbedCenters

# Up to so many classes, a batch is expected to repeat most of its own.
_FEW_CLASSES = 4096
# Up to so many, it repeats each of them many times; also, so many rows float32 adds well enough.
_VERY_FEW_CLASSES = 64
_FEW_ROWS = 32
# Of so many parts, each is small enough for a cache, and is allocated without new pages.
_PARTS = 16
# Times a value no larger than 2^-30 of the range of its dtype, this is finite.
_TAME_SCALE = 2.0**30


class Moved(NamedTuple):
    """An update that has been built.

    Attributes:
      rows: `[B, D]`, the centers of the rows of the batch as the caller wants to read them: to be
        used after `writes`. None where nothing was to be read.
      writes: what has to run for the update to be done.
    """

    rows: Optional[tf.Tensor]
    writes: List[Any]


def move_centers(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """Moves the centers of checked `labels [B]` by `embeds [B, D]` of their dtype.

    Args:
      checks: the checks that have to pass before anything is written.
      centers: what to move.
      updater: gives the weights of the rows.
      embeds: `[B, D]`, not yet known to be finite.
      labels: `[B]`, each in [0, C).
      read: "after", "before" or None.
    """
    updater = updater.prepare(checks)
    many_classes = centers.ctrs.shape.as_list()[0] > _FEW_CLASSES
    move = _move_row_by_row if many_classes else _move_by_group
    return move(checks, centers, updater, embeds, labels, read)


def _move_by_group(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """One new row per class of the batch: for few classes, when most rows are repeated."""
    checks.require_finite(embeds)
    groups = group_rows(labels)
    old = read_rows(centers.ctrs, groups.labels)
    seen = None if centers.counts is None else read_rows(centers.counts, groups.labels)
    very_few = centers.ctrs.shape.as_list()[0] <= _VERY_FEW_CLASSES
    means = _exact_means if very_few or old.dtype != tf.float32 else _quick_means
    new = means(updater, old, seen, embeds, groups)
    with checks.done():
        writes = [write_rows(centers.ctrs, groups.labels, new)]
        if seen is not None:
            counts = seen + tf.cast(groups.sizes, tf.int64)
            writes.append(write_rows(centers.counts, groups.labels, counts))
    if read is None:
        return Moved(None, writes)
    places = tf.dynamic_stitch([groups.order], [groups.index])
    with tf.control_dependencies(writes):
        return Moved(tf.gather(new if read == "after" else old, places), writes)


def _move_row_by_row(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """One new row per row of the batch: for many classes, when few rows are repeated.

    Most rows are alone in their class, and small in value and in weight: a step
    `old + w (embed - old)` in the dtype of the centers serves them. The classes of the others are
    moved first, by group, and their rows then go along with a weight of 0.
    """
    before = read_rows(centers.ctrs, labels) if read == "before" else None
    tame = _are_tame(embeds)
    size = tf.size(labels)
    checks.require_finite(embeds[: tf.where(tame, 0, size)])

    seen = None if centers.counts is None else read_rows(centers.counts, labels)
    _, index, sizes = tf.unique_with_counts(labels)
    sizes = tf.gather(sizes, index)
    weights = updater.row_weights(Rows(sizes, tf.zeros_like(sizes), seen))
    # A large step would lose the digits of the embedding beside those of a far larger center.
    alone = tf.logical_and(tf.logical_and(tf.equal(sizes, 1), weights < 0.5), tame)
    apart = tf.reshape(tf.where(tf.logical_not(alone)), [-1])
    groups = group_rows(tf.gather(labels, apart))
    groups = groups._replace(order=tf.gather(apart, groups.order))
    means = _exact_means(
        updater,
        read_rows(centers.ctrs, groups.labels),
        None if seen is None else tf.gather(seen, last_rows(groups)),
        embeds,
        groups,
    )
    first = [means] if before is None else [means, before]
    with checks.done(), tf.control_dependencies(first):
        writes = [write_rows(centers.ctrs, groups.labels, means)]
        if seen is not None:
            counts = seen + tf.cast(sizes, tf.int64)
            writes.append(write_rows(centers.counts, labels, counts))

    weights = tf.where(alone, weights, tf.zeros_like(weights))
    steps = _split_rows(tf.where(tame, size, 0), labels, embeds, tf.expand_dims(weights, 1))
    writes = writes[1:] + _step_in_parts(centers.ctrs, writes[0], *steps)
    if read is None:
        return Moved(None, writes)
    with tf.control_dependencies(writes):
        rows = read_rows(centers.ctrs, labels) if before is None else tf.identity(before)
    return Moved(rows, writes)


def _are_tame(embeds: tf.Tensor) -> tf.Tensor:
    """Whether all values are finite, and so small that no difference to a center overflows."""
    dtype = _wide(embeds.dtype)
    scale = tf.fill([embeds.shape.as_list()[1], 1], tf.constant(_TAME_SCALE, dtype))
    return tf.reduce_all(tf.is_finite(tf.matmul(tf.cast(embeds, dtype), scale)))


def _split_rows(size: tf.Tensor, *tensors: tf.Tensor) -> List[List[tf.Tensor]]:
    """The first `size` rows of each tensor in `_PARTS` parts, which share its memory."""
    places = tf.range(_PARTS, dtype=size.dtype)
    sizes = size // _PARTS + tf.cast(places < size % _PARTS, size.dtype)
    rest = tf.shape(tensors[0])[:1] - size
    sizes = tf.concat([sizes, rest], axis=0)
    return [tf.split(tensor, sizes, num=_PARTS + 1)[:_PARTS] for tensor in tensors]


def _step_in_parts(
    ctrs: Any,
    ready: Any,
    labels: List[tf.Tensor],
    embeds: List[tf.Tensor],
    weights: List[tf.Tensor],
) -> List[Any]:
    """Moves the centers of rows that are alone, or have a weight of 0; returns the writes."""
    dtype = _wide(ctrs.dtype.base_dtype)
    writes = [ready, ready]
    for part_labels, part_embeds, part_weights in zip(labels, embeds, weights):
        # Two parts at a time: what one leaves in the cache and in the allocator serves another.
        with tf.control_dependencies([writes[-2]]):
            old = tf.cast(read_rows(ctrs, part_labels), dtype)
        step = tf.cast(part_weights, dtype) * (tf.cast(part_embeds, dtype) - old)
        new = tf.cast(old + step, ctrs.dtype.base_dtype)
        writes.append(write_rows(ctrs, part_labels, new))
    return writes[2:]


def _exact_means(
    updater: Updater,
    old: tf.Tensor,
    seen: Optional[tf.Tensor],
    embeds: tf.Tensor,
    groups: Groups,
) -> tf.Tensor:
    """The new centers of the classes of `groups`, `[U, D]`, from their `old` ones and counts.

    In float64: a sum of many rows in float32 loses digits, and half precision small steps.
    """
    weights = _group_weights(updater, seen, groups)
    pull = sum_by_group(weights * tf.cast(tf.gather(embeds, groups.order), tf.float64), groups)
    keep = 1.0 - sum_by_group(weights, groups)
    return tf.cast(keep * tf.cast(old, tf.float64) + pull, old.dtype)


def _quick_means(
    updater: Updater,
    old: tf.Tensor,
    seen: Optional[tf.Tensor],
    embeds: tf.Tensor,
    groups: Groups,
) -> tf.Tensor:
    """The same in float32, with the sums in float64 where a class has many rows."""
    weights = _group_weights(updater, seen, groups)
    rows = tf.gather(embeds, groups.order)
    pull = tf.cond(
        tf.reduce_max(groups.sizes) > _FEW_ROWS,
        lambda: tf.cast(sum_by_group(weights * tf.cast(rows, tf.float64), groups), tf.float32),
        lambda: sum_by_group(tf.cast(weights, tf.float32) * rows, groups),
    )
    total = sum_by_group(weights, groups)
    # Of a small step the digits are in `pull - w old`, of a large one in `pull`.
    small = total < 0.5
    keep = tf.cast(tf.where(small, tf.ones_like(total), 1.0 - total), tf.float32)
    leave = tf.cast(tf.where(small, total, tf.zeros_like(total)), tf.float32)
    return keep * old + (pull - leave * old)


def _group_weights(updater: Updater, seen: Optional[tf.Tensor], groups: Groups) -> tf.Tensor:
    """The weights of the sorted rows, float64 `[R, 1]`, from the counts `seen [U]`."""
    rows = Rows(
        sizes=tf.gather(groups.sizes, groups.index),
        later=count_later_rows(groups),
        seen=None if seen is None else tf.gather(seen, groups.index),
    )
    return tf.expand_dims(updater.row_weights(rows), 1)


def _wide(dtype: tf.DType) -> tf.DType:
    return tf.float64 if dtype == tf.float64 else tf.float32
