"""Batches: checked and freed of masked rows on the way in, filled up again on the way out."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.tables import Table


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
    checks: Checks, table: Table, embed_batch: Any, label_batch: Any, mask: Any
) -> Batch:
    """Converts and checks the arguments of a batch, drops its masked rows and casts the rest."""
    num_classes, num_dims = table.shape
    embeds = arguments.as_floats(checks.caller, "embed_batch", embed_batch)
    labels, given = arguments.as_labels(checks.caller, "label_batch", label_batch)
    if mask is not None:
        mask = arguments.as_mask(checks.caller, "mask", mask)
    embeds, labels, mask = batch_rows(checks, embeds, labels, mask, num_dims)
    embeds = tf.cast(embeds, table.dtype)
    kept, all_embeds = None, embeds
    if mask is not None:
        kept = tf.reshape(tf.where(mask), [-1])
        embeds, labels = tf.gather(embeds, kept), tf.gather(labels, kept)
    labels = in_range(checks, labels, num_classes, given)
    return Batch(embeds, labels, all_embeds, kept)


def fill_in(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """Puts the rows of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.all_embeds.shape.as_list()[0] == 0:
        # TensorFlow 1.15 takes the static size of no rows for 1.
        with tf.control_dependencies([rows]):
            return tf.stop_gradient(tf.identity(batch.all_embeds))
    if batch.kept is not None:
        # Half precision has no GPU kernel here.
        dtype = rows.dtype
        wide = tf.float32 if dtype.size < tf.float32.size else dtype
        filled = tf.tensor_scatter_nd_update(
            tf.cast(batch.all_embeds, wide), tf.expand_dims(batch.kept, 1), tf.cast(rows, wide)
        )
        rows = tf.cast(filled, dtype)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return tf.stop_gradient(rows)
