"""The one path of every update: check, group, weigh, sum, write."""

from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments, checks, variables
from tf_centers.grouping import Groups, group_rows, sum_by_group
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
    caller: str,
    centers: EmbedCenters,
    embed_batch: Any,
    label_batch: Any,
    mask: Any,
    validate: bool,
) -> Batch:
    """Converts and checks the arguments of a batch, drops its masked rows and casts the rest."""
    num_classes, num_dims = centers.ctrs.shape.as_list()
    embeds = arguments.as_floats(caller, "embed_batch", embed_batch)
    labels = arguments.as_labels(caller, "label_batch", label_batch)
    if mask is not None:
        mask = arguments.as_mask(caller, "mask", mask)
    embeds, labels, mask = checks.batch_rows(caller, embeds, labels, mask, num_dims, validate)
    embeds = tf.cast(embeds, centers.ctrs.dtype.base_dtype)
    kept, all_embeds = None, embeds
    if mask is not None:
        kept = tf.reshape(tf.where(mask), [-1])
        embeds, labels = tf.gather(embeds, kept), tf.gather(labels, kept)
    labels = checks.in_range(caller, labels, num_classes, validate)
    return Batch(embeds, labels, all_embeds, kept)


def update_rows(
    caller: str, centers: EmbedCenters, updater: Updater, batch: Batch, validate: bool
) -> Update:
    """The one path of every update: group, weigh, sum, write."""
    ctrs, counts = centers
    groups = group_rows(batch.labels)
    seen = None if counts is None else variables.read_rows(counts, groups.labels)
    weights = updater.row_weights(groups, seen)
    old = variables.read_rows(ctrs, groups.labels)
    new = _move(old, batch.embeds, weights, groups)
    must_pass = updater.assertions(caller) if validate else []
    if validate:
        must_pass.append(checks.assert_finite(caller, batch.embeds))
    # The new rows wait for everything that is read: no count changes before it was used.
    with tf.control_dependencies(must_pass + [new]):
        writes = [variables.write_rows(ctrs, groups.labels, new)]
        if seen is not None:
            total = seen + tf.cast(groups.sizes, tf.int64)
            writes.append(variables.write_rows(counts, groups.labels, total))
    return Update(old, new, groups.index, writes)


def _move(old: tf.Tensor, embeds: tf.Tensor, weights: tf.Tensor, groups: Groups) -> tf.Tensor:
    # Half precision would lose small steps before they are summed; it is only stored.
    dtype = tf.float64 if old.dtype == tf.float64 else tf.float32
    weights = tf.cast(weights, dtype)
    pull = sum_by_group(tf.expand_dims(weights, 1) * tf.cast(embeds, dtype), groups)
    total = tf.expand_dims(sum_by_group(weights, groups), 1)
    wide = tf.cast(old, dtype)
    return tf.cast(wide + (pull - total * wide), old.dtype)


def update_if(
    caller: str,
    training: tf.Tensor,
    centers: EmbedCenters,
    updater: Updater,
    batch: Batch,
    read: str,
    validate: bool,
) -> tf.Tensor:
    """Updates where `training` is true at run time, and returns the rows of the batch.

    When it is false the update is one of no rows. No `tf.cond`: a ref variable cannot enter one
    everywhere.
    """
    size = tf.where(training, tf.size(batch.labels), 0)
    updated = batch._replace(embeds=batch.embeds[:size], labels=batch.labels[:size])
    if read == "before":
        rows = variables.read_rows(centers.ctrs, batch.labels)
        with tf.control_dependencies([rows]):
            update = update_rows(caller, centers, updater, updated, validate)
        with tf.control_dependencies(update.writes):
            return tf.identity(rows)
    update = update_rows(caller, centers, updater, updated, validate)
    with tf.control_dependencies(update.writes):
        return variables.read_rows(centers.ctrs, batch.labels)


def fill_in(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """Puts the rows of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.kept is not None:
        rows = tf.tensor_scatter_nd_update(batch.all_embeds, tf.expand_dims(batch.kept, 1), rows)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return tf.stop_gradient(rows)
