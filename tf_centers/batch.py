"""Batches: checked, flattened and freed of masked rows on the way in, restored on the way out."""

from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers import replicas
from tf_centers.access import in_tf2_code, take
from tf_centers.checks import Checks, Shaped, as_floats, as_labels, as_mask, check_shapes
from tf_centers.tables import Table


class Batch(NamedTuple):
    """The unmasked rows of a batch, of the right shapes; for an update, those of all replicas.

    `embeds [R, D]` has the dtype of the centers. Values are checked where they are used. `restore`
    turns rows `[R, D]` into those of the batch as it was passed, on this replica.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    stop_gradient: bool
    restore: Callable[[tf.Tensor], tf.Tensor]


def check_batch(
    checks: Checks,
    table: Table,
    embed_batch: Any,
    label_batch: Any,
    mask: Any = None,
    updates: bool = True,
    stop_gradient: bool = True,
) -> Batch:
    """Converts and checks the arguments of a batch, drops its masked rows, and joins replicas.

    A plain lookup, where `updates` is False, needs no other replica.
    """
    embeds = as_floats(checks.caller, "embed_batch", embed_batch)
    axes = "BT" if embeds.shape.ndims == 3 else "B"
    labels = as_labels(checks.caller, "label_batch", label_batch)
    tensors = [
        Shaped("embed_batch", embeds, axes + "D"),
        Shaped("label_batch", labels, axes, axes == "B"),
    ]
    if mask is not None:
        tensors.append(Shaped("mask", as_mask(checks.caller, "mask", mask), axes))
    joins = updates and _joins_replicas(checks, table, stop_gradient)
    agree = replicas.agree if joins else None
    given, labels, *masks = check_shapes(checks, tensors, {"D": table.shape[1]}, agree)

    everything = embeds = tf.cast(_flatten(given, axes, table.shape[1:]), table.dtype)
    labels = _flatten(labels, axes)
    places = own = None
    if masks:
        places = tf.reshape(tf.where(_flatten(masks[0], axes)), [-1])
        embeds, labels = take(embeds, places, dense=not stop_gradient), tf.gather(labels, places)
    if joins:
        embeds, labels, own = replicas.join(embeds, labels, stop_gradient)

    def restore(rows: tf.Tensor) -> tf.Tensor:
        if own is not None:
            rows = take(rows, own, dense=not stop_gradient)
        if places is not None:
            size = tf.shape(everything)[0]
            at = [tf.range(size), tf.cast(places, tf.int32)]
            rows = stitch(at, [tf.stop_gradient(everything), rows], size)
        if not tf.executing_eagerly():
            rows.set_shape(everything.shape)
        return rows if axes == "B" else tf.reshape(rows, tf.shape(given))

    return Batch(embeds, labels, stop_gradient, restore)


def check_labels(
    checks: Checks, label_batch: Any
) -> Tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The checked labels of a lookup as `[B]`, and what `Batch.restore` is."""
    labels = as_labels(checks.caller, "label_batch", label_batch)
    if labels.shape.ndims == 2 and labels.shape.as_list()[1] != 1:
        axes = tf.shape(labels)
        return tf.reshape(labels, [-1]), lambda rows: tf.reshape(
            rows, tf.concat([axes, rows.shape.as_list()[1:]], axis=0)
        )
    (labels,) = check_shapes(checks, [Shaped("label_batch", labels, "B", column=True)])
    return labels, lambda rows: rows


def stitch(places: List[tf.Tensor], rows: List[tf.Tensor], size: tf.Tensor) -> tf.Tensor:
    """Puts rows in their places in [0, size); the last of several rows for one place wins."""
    # Sliced, since in TensorFlow 1.15 the static size of no rows is 1.
    return tf.dynamic_stitch(places, rows)[:size]


def _flatten(value: tf.Tensor, axes: str, rest: Optional[List[int]] = None) -> tf.Tensor:
    return value if axes == "B" else tf.reshape(value, [-1] + (rest or []))


def _joins_replicas(checks: Checks, table: Table, stop_gradient: bool) -> bool:
    here = replicas.count_here()
    if here != table.replicas:
        raise ValueError(
            f"{checks.caller}: {table.name} has copies on {table.replicas} replicas, but this "
            f"update runs on {here}; create the centers in the scope of the strategy, and update "
            "them in the function that strategy.run calls"
        )
    if here > 1 and not stop_gradient and not in_tf2_code():
        raise ValueError(
            f"{checks.caller}: stop_gradient=False on {here} replicas needs a tf.function of TF2 "
            "code, got a graph of TensorFlow 1, in which no gradient passes between replicas"
        )
    return here > 1
