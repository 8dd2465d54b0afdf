"""Batches: checked and freed of masked rows on the way in, completed again on the way out."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import rows_at_run_time
from tf_centers.centers import Table
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.sharding import stitch


class Batch(NamedTuple):
    """A checked batch, in the dtype of the centers.

    Attributes:
      embeds: `[R, D]`, the unmasked rows.
      labels: `[R]`, theirs.
      given: `[B, D]`, all rows.
      places: int64 `[R]`, where among them the unmasked ones are; None without a mask.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    given: tf.Tensor
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
    embeds = given = tf.cast(embeds, table.dtype)
    places = None
    if mask is not None:
        places = tf.reshape(tf.where(mask), [-1])
        embeds, labels = tf.gather(embeds, places), tf.gather(labels, places)
    present = None
    if updates and len(table.shards) == 1:
        present = rows_at_run_time(table.shards[0].ctrs, labels.dtype)
    labels = in_range(checks, labels, num_classes, given_dtype, present)
    return Batch(embeds, labels, given, places)


def complete(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """The `rows [R, D]` of the unmasked among the masked rows' own embeddings: `[B, D]`."""
    if batch.places is not None:
        size = tf.shape(batch.given)[0]
        places = [tf.range(size), tf.cast(batch.places, tf.int32)]
        rows = stitch(places, [tf.stop_gradient(batch.given), rows], size)
    if not tf.executing_eagerly():
        rows.set_shape(batch.given.shape)
    return rows
