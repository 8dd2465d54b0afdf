"""The one path of every call that updates: check the batch, move the centers, return its rows."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.moves import move_centers
from tf_centers.rows import read_rows
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
    before = [read_rows(centers.ctrs, batch.labels)] if read == "before" else []
    with tf.control_dependencies(before):
        moved = move_centers(
            checks, centers, updater, batch.embeds[:size], batch.labels[:size], None
        )
    with tf.control_dependencies(moved.writes):
        return tf.identity(before[0]) if before else read_rows(centers.ctrs, batch.labels)


def fill_in(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """Puts the rows of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.kept is not None:
        rows = tf.tensor_scatter_nd_update(batch.all_embeds, tf.expand_dims(batch.kept, 1), rows)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return tf.stop_gradient(rows)
