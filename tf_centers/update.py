"""The one path of every update: check, group, weigh, sum, write."""

from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.grouping import Groups, group_rows, sum_by_group
from tf_centers.rows import read_rows, write_rows
from tf_centers.updaters import Updater
from tf_centers.variables import EmbedCenters


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
    """An update: rows `[U, D]` of the batch's classes, and the index `[B]` of each row's own."""

    old: tf.Tensor
    new: tf.Tensor
    index: tf.Tensor
    writes: List[Any]


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


def update_rows(checks: Checks, centers: EmbedCenters, updater: Updater, batch: Batch) -> Update:
    """The one path of every update: group, weigh, sum, write."""
    ctrs, counts = centers
    updater = updater.prepare(checks)
    checks.require_finite(batch.embeds)
    groups = group_rows(batch.labels)
    seen = None if counts is None else read_rows(counts, groups.labels)
    weights = updater.row_weights(groups, seen)
    old = read_rows(ctrs, groups.labels)
    new = _move(old, batch.embeds, weights, groups)
    with checks.done():
        writes = [write_rows(ctrs, groups.labels, new)]
        if seen is not None:
            total = seen + tf.cast(groups.sizes, tf.int64)
            writes.append(write_rows(counts, groups.labels, total))
    return Update(old, new, groups.index, writes)


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
            update = update_rows(checks, centers, updater, updated)
        with tf.control_dependencies(update.writes):
            return tf.identity(rows)
    update = update_rows(checks, centers, updater, updated)
    with tf.control_dependencies(update.writes):
        return read_rows(centers.ctrs, batch.labels)


def fill_in(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """Puts the rows of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.kept is not None:
        rows = tf.tensor_scatter_nd_update(batch.all_embeds, tf.expand_dims(batch.kept, 1), rows)
    return tf.stop_gradient(rows)


def _move(old: tf.Tensor, embeds: tf.Tensor, weights: tf.Tensor, groups: Groups) -> tf.Tensor:
    # In float64: a sum of many rows in float32 loses digits, and half precision small steps.
    weights = tf.expand_dims(weights, 1)
    wide = tf.cast(old, tf.float64)
    pull = sum_by_group(weights * tf.cast(embeds, tf.float64), groups)
    return tf.cast((1.0 - sum_by_group(weights, groups)) * wide + pull, old.dtype)
