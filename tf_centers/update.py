"""The one path of every update: check, group, weigh, sum, write."""

from typing import Any, List, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.grouping import (
    Groups,
    count_later_rows,
    group_rows,
    last_rows,
    sum_by_group,
)
from tf_centers.rows import read_rows, write_rows
from tf_centers.updaters import Rows, Updater
from tf_centers.variables import EmbedCenters

# Up to so many classes, a batch is expected to repeat most of its own.
_FEW_CLASSES = 4096


class Batch(NamedTuple):
    """A checked batch: `embeds [B, D]` and `labels [B]` of the unmasked rows.

    Where there is a mask, `all_embeds` holds the rows before it was applied and `kept` the
    positions of those it kept.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    all_embeds: tf.Tensor
    kept: Optional[tf.Tensor]


class Update(NamedTuple):
    """New values for R rows of the variables, and how the rows of the batch find theirs.

    Attributes:
      labels: `[R]`, the rows to write; where one is repeated, its values are too.
      old: `[R, D]`, the centers before.
      new: `[R, D]`, the centers after.
      counts: int64 `[R]`, the counts after, or None.
      places: int `[B]`, where among the R each row of the batch finds its own; None: in its place.
    """

    labels: tf.Tensor
    old: tf.Tensor
    new: tf.Tensor
    counts: Optional[tf.Tensor]
    places: Optional[tf.Tensor]


def check_batch(
    checks: Checks, centers: EmbedCenters, embed_batch: Any, label_batch: Any, mask: Any
) -> Batch:
    """Converts and checks the arguments of a batch, drops its masked rows and casts the rest."""
    num_classes, num_dims = centers.ctrs.shape.as_list()
    embeds = arguments.as_floats(checks.caller, "embed_batch", embed_batch)
    labels = arguments.as_labels(checks.caller, "label_batch", label_batch)
    if mask is not None:
        mask = arguments.as_mask(checks.caller, "mask", mask)
    embeds, labels, mask = batch_rows(checks, embeds, labels, mask, num_dims)
    embeds = tf.cast(embeds, centers.ctrs.dtype.base_dtype)
    kept, all_embeds = None, embeds
    if mask is not None:
        kept = tf.reshape(tf.where(mask), [-1])
        embeds, labels = tf.gather(embeds, kept), tf.gather(labels, kept)
    labels = in_range(checks, labels, num_classes)
    return Batch(embeds, labels, all_embeds, kept)


def update_rows(
    checks: Checks, centers: EmbedCenters, updater: Updater, batch: Batch
) -> Tuple[Update, List[Any]]:
    """The one path of every update: read, weigh and sum, write. Returns the writes beside it."""
    updater = updater.prepare(checks)
    checks.require_finite(batch.embeds)
    many_classes = centers.ctrs.shape.as_list()[0] > _FEW_CLASSES
    move = _move_row_by_row if many_classes else _move_by_group
    update = move(centers, updater, batch.embeds, batch.labels)
    with checks.done():
        writes = [write_rows(centers.ctrs, update.labels, update.new)]
        if update.counts is not None:
            writes.append(write_rows(centers.counts, update.labels, update.counts))
    return update, writes


def updated_rows(update: Update, read: str) -> tf.Tensor:
    """The rows `[B, D]` of a batch, after its update or before."""
    rows = update.new if read == "after" else update.old
    return tf.identity(rows) if update.places is None else tf.gather(rows, update.places)


def update_rows_if(
    checks: Checks,
    training: tf.Tensor,
    centers: EmbedCenters,
    updater: Updater,
    batch: Batch,
    read: str,
) -> tf.Tensor:
    """Updates where `training` is true at run time, and returns the rows of the batch.

    When it is false the update is one of no rows. No `tf.cond`: a ref variable cannot enter one
    everywhere.
    """
    size = tf.where(training, tf.size(batch.labels), 0)
    updated = batch._replace(embeds=batch.embeds[:size], labels=batch.labels[:size])
    if read == "before":
        rows = read_rows(centers.ctrs, batch.labels)
        with tf.control_dependencies([rows]):
            _, writes = update_rows(checks, centers, updater, updated)
        with tf.control_dependencies(writes):
            return tf.identity(rows)
    _, writes = update_rows(checks, centers, updater, updated)
    with tf.control_dependencies(writes):
        return read_rows(centers.ctrs, batch.labels)


def fill_in(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """Puts the rows of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.kept is not None:
        rows = tf.tensor_scatter_nd_update(batch.all_embeds, tf.expand_dims(batch.kept, 1), rows)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return tf.stop_gradient(rows)


def _move_by_group(
    centers: EmbedCenters, updater: Updater, embeds: tf.Tensor, labels: tf.Tensor
) -> Update:
    """One new row per class of the batch; for few classes, when most rows are repeated."""
    groups = group_rows(labels)
    old = read_rows(centers.ctrs, groups.labels)
    seen = None if centers.counts is None else read_rows(centers.counts, groups.labels)
    return Update(
        labels=groups.labels,
        old=old,
        new=_weighted_means(updater, old, seen, embeds, groups),
        counts=None if seen is None else seen + tf.cast(groups.sizes, tf.int64),
        places=tf.dynamic_stitch([groups.order], [groups.index]),
    )


def _move_row_by_row(
    centers: EmbedCenters, updater: Updater, embeds: tf.Tensor, labels: tf.Tensor
) -> Update:
    """One new row per row of the batch; for many classes, when few rows are repeated.

    Most rows are alone in their class and take a small step, `old + (w embed - w old)`. Only the
    others, and those whose large step would lose the digits of the embedding, are grouped.
    """
    old = read_rows(centers.ctrs, labels)
    seen = None if centers.counts is None else read_rows(centers.counts, labels)
    _, index, sizes = tf.unique_with_counts(labels)
    sizes = tf.gather(sizes, index)
    weights = updater.row_weights(Rows(sizes, tf.zeros_like(sizes), seen))
    apart = tf.reshape(tf.where(tf.logical_or(sizes > 1, weights >= 0.5)), [-1])
    groups = group_rows(tf.gather(labels, apart))
    groups = groups._replace(order=tf.gather(apart, groups.order))
    last = last_rows(groups)
    means = _weighted_means(
        updater,
        tf.gather(old, last),
        None if seen is None else tf.gather(seen, last),
        embeds,
        groups,
    )

    dtype = tf.float64 if old.dtype == tf.float64 else tf.float32
    wide = tf.cast(old, dtype)
    small = tf.expand_dims(tf.cast(weights, dtype), 1)
    # Each weighed by itself: the difference of two finite rows may overflow.
    step = small * tf.cast(embeds, dtype) - small * wide
    new = tf.tensor_scatter_nd_update(
        tf.cast(wide + step, old.dtype),
        tf.expand_dims(groups.order, 1),
        tf.gather(means, groups.index),
    )
    counts = None if seen is None else seen + tf.cast(sizes, tf.int64)
    return Update(labels, old, new, counts, places=None)


def _weighted_means(
    updater: Updater,
    old: tf.Tensor,
    seen: Optional[tf.Tensor],
    embeds: tf.Tensor,
    groups: Groups,
) -> tf.Tensor:
    """The new centers of the classes of `groups`, `[U, D]`, from their `old` ones and counts."""
    rows = Rows(
        sizes=tf.gather(groups.sizes, groups.index),
        later=count_later_rows(groups),
        seen=None if seen is None else tf.gather(seen, groups.index),
    )
    # In float64: a sum of many rows in float32 loses digits, and half precision small steps.
    weights = tf.expand_dims(updater.row_weights(rows), 1)
    pull = sum_by_group(weights * tf.cast(tf.gather(embeds, groups.order), tf.float64), groups)
    keep = 1.0 - sum_by_group(weights, groups)
    return tf.cast(keep * tf.cast(old, tf.float64) + pull, old.dtype)
