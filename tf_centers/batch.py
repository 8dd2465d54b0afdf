"""Batches: checked and freed of masked rows on the way in, completed again on the way out."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.centers import Table
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.sharding import classes_at_run_time, stitch


class Batch(NamedTuple):
    """A checked batch, in the dtype of the centers.

    Attributes:
      embeds: `[R, D]`, the unmasked rows.
      labels: `[R]`, theirs.
      all_embeds: `[B, D]`, all rows.
      places: int64 `[R]`, where among them the unmasked ones are; None without a mask.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    all_embeds: tf.Tensor
    places: Optional[tf.Tensor]


def check_batch(
    checks: Checks,
    table: Table,
    embed_batch: Any,
    label_batch: Any,
    mask: Any,
    updates: bool = True,
) -> Batch:
    """Converts and checks the arguments of a batch, and drops its masked rows.

    `updates` says whether the batch is to be written; the labels of a plain lookup are checked
    against the static shape alone, so that its graph can be frozen.
    """
    num_classes, num_dims = table.shape
    embeds = arguments.as_floats(checks.caller, "embed_batch", embed_batch)
    labels, given_dtype = arguments.as_labels(checks.caller, "label_batch", label_batch)
    if mask is not None:
        mask = arguments.as_mask(checks.caller, "mask", mask)
    embeds, labels, mask = batch_rows(checks, embeds, labels, mask, num_dims)
    embeds = all_embeds = tf.cast(embeds, table.dtype)
    places = None
    if mask is not None:
        places = tf.reshape(tf.where(mask), [-1])
        embeds, labels = tf.gather(embeds, places), tf.gather(labels, places)
    present = None
    if updates and len(table.shards) == 1:
        present = classes_at_run_time(table.shards[0], labels.dtype)
    labels = in_range(checks, labels, num_classes, given_dtype, present)
    return Batch(embeds, labels, all_embeds, places)


def complete(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """The `rows [R, D]` of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.places is not None:
        size = tf.shape(batch.all_embeds)[0]
        places = [tf.range(size), tf.cast(batch.places, tf.int32)]
        rows = stitch(places, [tf.stop_gradient(batch.all_embeds), rows], size)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return rows
