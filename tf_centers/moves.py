"""How the centers of a batch move, in two formulations of one recipe: sum, weigh, write."""

import contextlib
from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers.checks import Checks, on_host
from tf_centers.grouping import Groups, count_later_rows, group_rows, last_rows, sum_by_group
from tf_centers.rows import read_rows, write_rows
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Rows, Updater

# Up to so many classes, a batch is expected to repeat most of its own.
_FEW_CLASSES = 4096
# Up to so many, it repeats each of them many times; also, so many rows float32 adds well enough.
_VERY_FEW_CLASSES = 64
_FEW_ROWS = 32
# Elements of a part of the batch: it fits a cache, and needs no new pages of memory.
_PART_SIZE = 16 * 1024
_MOST_PARTS = 16
# Rows that a batch is taken to have where their number is not known while the graph is built.
_USUAL_ROWS = 1024
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
      updater: gives the weights of the rows; prepared.
      embeds: `[B, D]`, not yet known to be finite.
      labels: `[B]`, each in [0, C).
      read: "after", "before" or None.
    """
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
    exact = very_few or old.dtype != tf.float32
    new = _weighted_means(updater, old, seen, embeds, groups, exact)
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
    means = _weighted_means(
        updater,
        read_rows(centers.ctrs, groups.labels),
        None if seen is None else tf.gather(seen, last_rows(groups)),
        embeds,
        groups,
        exact=True,
    )
    first = [means] if before is None else [means, before]
    with checks.done(), tf.control_dependencies(first):
        writes = [write_rows(centers.ctrs, groups.labels, means)]
        if seen is not None:
            counts = seen + tf.cast(sizes, tf.int64)
            writes.append(write_rows(centers.counts, labels, counts))

    weights = tf.where(alone, weights, tf.zeros_like(weights))
    steps = _split_rows(
        tf.where(tame, size, 0),
        _count_parts(embeds),
        labels,
        embeds,
        tf.expand_dims(weights, 1),
    )
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


def _count_parts(embeds: tf.Tensor) -> int:
    rows, dims = embeds.shape.as_list()
    elements = (_USUAL_ROWS if rows is None else rows) * dims
    return int(min(max(1, elements // _PART_SIZE), _MOST_PARTS))


def _split_rows(size: tf.Tensor, parts: int, *tensors: tf.Tensor) -> List[List[tf.Tensor]]:
    """The first `size` rows of each tensor in so many parts, which share aligned memory."""
    sizes = size // parts + tf.cast(tf.range(parts, dtype=size.dtype) < size % parts, size.dtype)
    rest = tf.shape(tensors[0])[:1] - size
    sizes = tf.concat([sizes, rest], axis=0)

    def split(tensor: tf.Tensor) -> List[tf.Tensor]:
        with on_host() if tensor.dtype.is_integer else contextlib.nullcontext():
            return list(tf.split(tensor, sizes, num=parts + 1)[:parts])

    return [split(tensor) for tensor in tensors]


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


def _weighted_means(
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
        return old + (sum_by_group(pulls, groups) - tf.cast(total, tf.float32) * old)

    if exact:
        return in_float64()
    many = tf.reduce_max(groups.sizes) > _FEW_ROWS
    large = tf.reduce_max(total) >= 0.5
    return tf.cond(tf.logical_or(many, large), in_float64, in_float32)


def _wide(dtype: tf.DType) -> tf.DType:
    return tf.float64 if dtype == tf.float64 else tf.float32
