"""Batches: checked and freed of masked rows on the way in, completed again on the way out."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments, replicas
from tf_centers.access import outside_graphs
from tf_centers.centers import Table
from tf_centers.checks import Checks, batch_rows, in_range
from tf_centers.sharding import classes_at_run_time, stitch


class Batch(NamedTuple):
    """A checked batch, in the dtype of the centers.

    Attributes:
      embeds: `[R, D]`, the unmasked rows; for an update, those of all replicas.
      labels: `[R]`, theirs.
      own: int64, where among them the rows of this replica are; None where all are.
      all_embeds: `[B, D]`, all rows of this replica.
      places: int64, where among them the unmasked ones are; None without a mask.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    own: Optional[tf.Tensor]
    all_embeds: tf.Tensor
    places: Optional[tf.Tensor]


def check_batch(
    checks: Checks,
    table: Table,
    embed_batch: Any,
    label_batch: Any,
    mask: Any,
    updates: bool = True,
    stop_gradient: bool = True,
) -> Batch:
    """Converts and checks the arguments of a batch, drops its masked rows, and joins replicas.

    `updates` says whether the batch is to be written; the labels of a plain lookup are checked
    against the static shape alone, so that its graph can be frozen. `stop_gradient` says whether
    what other replicas make of the embeddings has no gradient here.
    """
    num_classes, num_dims = table.shape
    embeds = arguments.as_floats(checks.caller, "embed_batch", embed_batch)
    labels, given_dtype = arguments.as_labels(checks.caller, "label_batch", label_batch)
    if mask is not None:
        mask = arguments.as_mask(checks.caller, "mask", mask)
    joins = updates and _joins_replicas(checks, table, stop_gradient)
    checks.on_every_replica = joins
    embeds, labels, mask = batch_rows(checks, embeds, labels, mask, num_dims)
    checks.on_every_replica = False  # From here on all replicas check the same.
    embeds = all_embeds = tf.cast(embeds, table.dtype)
    places = None
    if mask is not None:
        places = tf.reshape(tf.where(mask), [-1])
        embeds, labels = tf.gather(embeds, places), tf.gather(labels, places)
    own = None
    if joins:
        embeds, labels, own = replicas.join(embeds, labels, stop_gradient)
    present = None
    if updates and len(table.shards) == 1:
        present = classes_at_run_time(table.shards[0], labels.dtype)
    labels = in_range(checks, labels, num_classes, given_dtype, present)
    return Batch(embeds, labels, own, all_embeds, places)


def complete(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """The `rows [R, D]` that are of this replica, among the embeddings of masked rows: `[B, D]`."""
    if batch.own is not None:
        rows = tf.gather(rows, batch.own)
    if batch.places is not None:
        size = tf.shape(batch.all_embeds)[0]
        places = [tf.range(size), tf.cast(batch.places, tf.int32)]
        rows = stitch(places, [tf.stop_gradient(batch.all_embeds), rows], size)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return rows


def _joins_replicas(checks: Checks, table: Table, stop_gradient: bool) -> bool:
    here = replicas.count_here()
    if here != table.replicas:
        raise ValueError(
            f"{checks.caller}: expected an update on as many replicas as have a copy of "
            f"{table.name}, {table.replicas}, found one on {here}; create the centers in the scope "
            "of the strategy, and update them in the function that strategy.run calls"
        )
    if here > 1 and not stop_gradient and not outside_graphs():
        raise ValueError(
            f"{checks.caller}: stop_gradient=False on {here} replicas needs a tf.function of TF2 "
            "code, got a graph of TensorFlow 1, in which no gradient passes between replicas"
        )
    return here > 1
