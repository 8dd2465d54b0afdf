"""One new row per row of the batch: for many classes, when few rows are repeated."""

from typing import Any, Callable, List, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.by_group import weigh_groups, weighted_means
from tf_centers.checks import Checks
from tf_centers.grouping import group_rows, last_rows
from tf_centers.moved import Moved
from tf_centers.parts import count_parts, share, split_rows, write_in_turns
from tf_centers.rows import add_to_rows, read_rows, write_rows
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Classes, Updater

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
    weights = updater.class_weights(Classes(sizes, seen))  # of a row that is alone, its own
    # A large step would lose the digits of the embedding beside those of a far larger center.
    alone = tf.logical_and(tf.logical_and(tf.equal(sizes, 1), weights < 0.5), tame)
    apart = tf.reshape(tf.where(tf.logical_not(alone)), [-1])
    groups = group_rows(tf.gather(labels, apart))
    groups = groups._replace(order=tf.gather(apart, groups.order))
    weighed = weigh_groups(
        updater, groups, None if seen is None else tf.gather(seen, last_rows(groups))
    )
    means = weighted_means(read_rows(centers.ctrs, groups.labels), embeds, weighed)
    first = [means] if before is None else [means, before]
    with checks.done(), tf.control_dependencies(first):
        writes = [write_rows(centers.ctrs, groups.labels, means)]
        if seen is not None:
            ones = tf.ones_like(labels, dtype=tf.int64)
            writes.append(add_to_rows(centers.counts, labels, ones))

    weights = tf.where(alone, weights, tf.zeros_like(weights))
    weights = tf.expand_dims(tf.cast(weights, _wide(embeds.dtype)), 1)
    steps = _split_batch(tf.where(tame, size, 0), labels, embeds, weights)
    writers = [_writer(centers.ctrs, *step) for step in steps]
    writes = writes[1:] + write_in_turns(writes[0], writers)
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


def _split_batch(
    size: tf.Tensor, labels: tf.Tensor, embeds: tf.Tensor, weights: tf.Tensor
) -> List[Tuple[tf.Tensor, ...]]:
    """The first `size` rows of all three in parts."""
    parts = count_parts(embeds, _USUAL_ROWS)
    sizes = tf.concat([share(size, parts), tf.shape(embeds)[:1] - size], axis=0)
    split = [split_rows(rows, sizes, parts + 1)[:parts] for rows in (labels, embeds, weights)]
    return list(zip(*split))


def _writer(
    ctrs: Any, labels: tf.Tensor, embeds: tf.Tensor, weights: tf.Tensor
) -> Callable[[], Any]:
    """What moves the centers of rows that are alone, or have a weight of 0, and writes them."""

    def write() -> Any:
        dtype = _wide(ctrs.dtype.base_dtype)
        old = tf.cast(read_rows(ctrs, labels), dtype)
        step = weights * (tf.cast(embeds, dtype) - old)
        return write_rows(ctrs, labels, tf.cast(old + step, ctrs.dtype.base_dtype))

    return write


def _wide(dtype: tf.DType) -> tf.DType:
    return tf.float64 if dtype == tf.float64 else tf.float32
