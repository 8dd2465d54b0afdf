"""One new row per row of the batch: for many classes, when few rows are repeated."""

import contextlib
from typing import Any, List, Optional

import tensorflow.compat.v1 as tf

from tf_centers.by_group import weighted_means
from tf_centers.checks import Checks, on_host
from tf_centers.grouping import group_rows, last_rows
from tf_centers.moved import Moved
from tf_centers.rows import read_rows, write_rows
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Rows, Updater

# Elements of a part of the batch: of float32, malloc takes 96 kB from memory that it has already.
_PART_SIZE = 24 * 1024
_MOST_PARTS = 64
# Rows that a batch is taken to have where their number is not known while the graph is built.
_USUAL_ROWS = 1024
# Times a value no larger than 2^-30 of the range of its dtype, this is finite.
_TAME_SCALE = 2.0**30


def move_by_row(
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
    means = weighted_means(
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


def _wide(dtype: tf.DType) -> tf.DType:
    return tf.float64 if dtype == tf.float64 else tf.float32
