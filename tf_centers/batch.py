"""Batches: checked, flattened and freed of masked rows on the way in, restored on the way out."""

from typing import Any, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers import arguments, replicas
from tf_centers.access import outside_graphs
from tf_centers.centers import Table
from tf_centers.checks import Checks, batch_rows, in_range, label_vector
from tf_centers.sharding import classes_at_run_time, stitch


class Batch(NamedTuple):
    """A checked batch, in the dtype of the centers. Of `[B, T, D]`, B here stands for `B * T`.

    Attributes:
      embeds: `[R, D]`, the unmasked rows; for an update, those of all replicas.
      labels: `[R]`, theirs.
      own: int64, where among them the rows of this replica are; None where all are.
      all_embeds: `[B, D]`, all rows of this replica.
      places: int64, where among them the unmasked ones are; None without a mask.
      axes: int32 `[2]`, B and T of embeddings `[B, T, D]`; None for `[B, D]`.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    own: Optional[tf.Tensor]
    all_embeds: tf.Tensor
    places: Optional[tf.Tensor]
    axes: Optional[tf.Tensor]


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

    `updates` is False for a plain lookup, whose labels are only checked against the static shape,
    so that its graph can be frozen. `stop_gradient` stops gradients from other replicas.
    """
    num_classes, num_dims = table.shape
    embeds = arguments.as_floats(checks.caller, "embed_batch", embed_batch)
    labels, given_dtype = arguments.as_labels(checks.caller, "label_batch", label_batch)
    if mask is not None:
        mask = arguments.as_mask(checks.caller, "mask", mask)
    joins = updates and _joins_replicas(checks, table, stop_gradient)
    checks.on_every_replica = joins
    axes = None
    if embeds.shape.ndims == 3:
        embeds, labels, mask, axes = _flatten(checks, embeds, labels, mask, num_dims)
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
    return Batch(embeds, labels, own, all_embeds, places, axes)


def check_labels(
    checks: Checks, table: Table, label_batch: Any
) -> Tuple[tf.Tensor, Optional[tf.Tensor]]:
    """Converts and checks the labels of a lookup; returns `[B]`, and the axes of `[B, T]`."""
    labels, given_dtype = arguments.as_labels(checks.caller, "label_batch", label_batch)
    axes = None
    if labels.shape.ndims == 2 and labels.shape.as_list()[1] not in (None, 1):
        axes, labels = tf.shape(labels), tf.reshape(labels, [-1])
    labels = label_vector(checks, labels)
    return in_range(checks, labels, table.shape[0], given_dtype), axes


def complete(batch: Batch, rows: tf.Tensor) -> tf.Tensor:
    """Puts the masked rows back, with their own embeddings, and restores the shape."""
    if batch.own is not None:
        rows = tf.gather(rows, batch.own)
    if batch.places is not None:
        size = tf.shape(batch.all_embeds)[0]
        places = [tf.range(size), tf.cast(batch.places, tf.int32)]
        rows = stitch(places, [tf.stop_gradient(batch.all_embeds), rows], size)
    if not tf.executing_eagerly():
        rows.set_shape(batch.all_embeds.shape)
    return unflatten(rows, batch.axes)


def unflatten(rows: tf.Tensor, axes: Optional[tf.Tensor]) -> tf.Tensor:
    """Reshapes rows `[B * T, D]` to `[B, T, D]` if the batch had these axes."""
    if axes is None:
        return rows
    return tf.reshape(rows, tf.concat([axes, rows.shape.as_list()[1:]], axis=0))


def _flatten(
    checks: Checks, embeds: tf.Tensor, labels: tf.Tensor, mask: Optional[tf.Tensor], num_dims: int
) -> Tuple[tf.Tensor, tf.Tensor, Optional[tf.Tensor], tf.Tensor]:
    """Embeddings `[B, T, D]`, labels and a mask `[B, T]` as `B * T` rows; and B and T."""
    form = f"[B, {num_dims}] or [B, T, {num_dims}]"
    shape, found = embeds.shape, tf.shape(embeds)
    if not shape.is_compatible_with([None, None, num_dims]):
        raise ValueError(f"{checks.caller}: embed_batch must have shape {form}, got {shape}")
    if shape.as_list()[2] is None:
        checks.require(
            lambda: tf.equal(found[2], num_dims), f"embed_batch of shape {form}, found shape", found
        )
    axes = _check_axes(checks, "label_batch", labels, shape[:2], found)
    if mask is not None:
        axes = _check_axes(checks, "mask", mask, axes, found)
        mask = tf.reshape(mask, [-1])
    embeds = checks.guard(embeds, axes.concatenate([num_dims]))
    rows = tf.reshape(embeds, [-1, num_dims])
    return rows, tf.reshape(labels, [-1]), mask, tf.shape(embeds)[:2]


def _check_axes(
    checks: Checks, name: str, value: tf.Tensor, axes: tf.TensorShape, shape: tf.Tensor
) -> tf.TensorShape:
    """Checks that a tensor is `[B, T]`; returns what is then known of both."""
    if not value.shape.is_compatible_with(axes):
        raise ValueError(
            f"{checks.caller}: {name} must have shape [B, T] for embed_batch [B, T, D], here "
            f"{axes}, got {value.shape}"
        )
    found = tf.shape(value)

    def fits() -> tf.Tensor:
        # Of any rank, so that no other op fails before this one says why.
        sizes = tf.stack([tf.size(found), tf.reduce_prod(found[:1]), tf.reduce_prod(found[1:])])
        return tf.reduce_all(tf.equal(sizes, tf.stack([2, shape[0], shape[1]])))

    if not (axes.is_fully_defined() and value.shape.is_fully_defined()):
        expected = f"{name} of shape [B, T] for embed_batch [B, T, D], found shape"
        checks.require(fits, expected, found, "and embed_batch of shape", shape)
    return axes.merge_with(value.shape)


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
