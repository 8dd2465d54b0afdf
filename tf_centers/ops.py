"""The calls that look centers up and update them."""

from typing import Any, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.autograph import as_written
from tf_centers.batches import check_batch, fill_in
from tf_centers.checks import Checks, in_range, label_vector
from tf_centers.sharding import move_table, read_table
from tf_centers.updaters import ExponentialWindow, Updater
from tf_centers.variables import CentersLike, find_table


@as_written
def get_embed_centers(
    embed_batch: Any,
    label_batch: Any,
    updater: Optional[Updater] = None,
    centers: CentersLike = "embed",
    mask: Any = None,
    is_training: Any = True,
    read: str = "after",
    use_locking: bool = False,
    validate_args: bool = True,
    name: Optional[str] = None,
) -> tf.Tensor:
    """Moves the centers of a batch's classes and returns the center of each row.

    With row weights `w [B]`, which the updater gives, this does what the recipe

        old  = gather(ctrs, labels)
        ctrs = scatter_sub(ctrs, labels, w[:, None] * (old - embed))
        return gather(ctrs, labels)

    means to do, for repeated labels and for ref and resource variables alike. No gradient flows
    into the returned rows or through the update. Nothing is written before every check of the
    batch has passed.

    Args:
      embed_batch: floating `[B, D]`, cast to the dtype of the centers.
      label_batch: integers `[B]` or `[B, 1]` in [0, C).
      updater: `CumulativeMean`, `ExponentialWindow` or `WenUpdate`; None is
        `ExponentialWindow(0.95)`.
      centers: name of the variable scope that holds `ctrs` (below the current one, else
        absolute), an `EmbedCenters`, or the variable `ctrs [C, D]` itself, whole or split by
        rows under a partitioner. Inside a `tf.function` pass variables.
      mask: bool `[B]` or None. Rows that are False touch nothing, their labels are not read, and
        they get their own embedding back as their center.
      is_training: bool or scalar bool tensor; False looks the centers up and changes nothing.
      read: "after" returns the rows after the update, "before" as they were. Either way the
        update has been applied once the result is there.
      use_locking: makes the update one step, for all threads of a session and all workers of a
        cluster that lock too: the cumulative mean is then that of all their rows. On a CPU only.
      validate_args: False drops the checks at run time.
      name: name of the scope of the ops.

    Returns:
      `[B, D]` in the dtype of the centers.

    Raises:
      TypeError: embeddings that are not floating, labels that are not integers, a mask or an
        `is_training` that is not bool, an updater that is none.
      ValueError: shapes known not to fit, missing centers, an unknown `read`.
      tf.errors.InvalidArgumentError: at run time, for a label out of range or a NaN or Inf in an
        unmasked row, shapes that turn out not to fit, or a tensor `decay` or `alpha` out of range.

    Example:
      >>> with tf.variable_scope("embed"):
      ...     ctrs = tf.get_variable("ctrs", [10, 2], initializer=tf.zeros_initializer())
      >>> embeds = tf.constant([[1.0, 2.0], [3.0, 4.0]])
      >>> rows = get_embed_centers(embeds, tf.constant([7, 7]))
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows).round(4)
      array([[0.1975, 0.295 ],
             [0.1975, 0.295 ]], dtype=float32)
    """
    caller = "get_embed_centers"
    with tf.name_scope(name, caller, [embed_batch, label_batch]):
        updater = _as_updater(caller, updater)
        arguments.check_choice(caller, "read", read, ("after", "before"))
        use_locking = arguments.check_bool(caller, "use_locking", use_locking)
        training = arguments.as_switch(caller, "is_training", is_training)
        checks = Checks(caller, arguments.check_bool(caller, "validate_args", validate_args))
        needs_counts = training is not False and updater.needs_counts
        table = find_table(caller, centers, needs_counts)
        batch = check_batch(checks, table, embed_batch, label_batch, mask)
        if training is False:
            rows = read_table(table, batch.labels)
        else:
            how = (updater, batch.embeds, batch.labels, read, training, use_locking)
            rows = move_table(checks, table, *how).rows
        return fill_in(batch, rows)


@as_written
def update_embed_centers(
    embed_batch: Any,
    label_batch: Any,
    updater: Optional[Updater] = None,
    centers: CentersLike = "embed",
    mask: Any = None,
    use_locking: bool = False,
    validate_args: bool = True,
    name: Optional[str] = None,
) -> Any:
    """Moves the centers as `get_embed_centers` does, and returns the op that does it.

    For graphs that look the centers up elsewhere and run the update with their train op.

    Args:
      embed_batch: floating `[B, D]`, cast to the dtype of the centers.
      label_batch: integers `[B]` or `[B, 1]` in [0, C).
      updater: as in `get_embed_centers`.
      centers: as in `get_embed_centers`.
      mask: bool `[B]` or None; rows that are False touch nothing.
      use_locking: as in `get_embed_centers`.
      validate_args: False drops the checks at run time.
      name: name of the scope of the ops.

    Returns:
      A `tf.Operation`; None where TensorFlow executes eagerly, since the update is done then.

    Raises:
      TypeError, ValueError, tf.errors.InvalidArgumentError: as `get_embed_centers`.

    Example:
      >>> centers = create_embed_centers(num_classes=10, num_dims=2)
      >>> update = update_embed_centers([[1.0, 2.0]], [7], CumulativeMean(), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(update)
      >>> sess.run(centers.counts)
      array([0, 0, 0, 0, 0, 0, 0, 1, 0, 0])
    """
    caller = "update_embed_centers"
    with tf.name_scope(name, caller, [embed_batch, label_batch]):
        updater = _as_updater(caller, updater)
        use_locking = arguments.check_bool(caller, "use_locking", use_locking)
        checks = Checks(caller, arguments.check_bool(caller, "validate_args", validate_args))
        table = find_table(caller, centers, updater.needs_counts)
        batch = check_batch(checks, table, embed_batch, label_batch, mask)
        how = (updater, batch.embeds, batch.labels)
        moved = move_table(checks, table, *how, read=None, use_locking=use_locking)
        return tf.group(*moved.writes)


@as_written
def lookup_embed_centers(
    label_batch: Any, centers: CentersLike = "embed", name: Optional[str] = None
) -> tf.Tensor:
    """Returns the center of each label, and changes nothing.

    Args:
      label_batch: integers `[B]` or `[B, 1]` in [0, C).
      centers: as in `get_embed_centers`.
      name: name of the scope of the ops.

    Returns:
      `[B, D]` in the dtype of the centers; no gradient flows into it.

    Raises:
      TypeError: labels that are not integers.
      ValueError: labels of another shape, missing centers.
      tf.errors.InvalidArgumentError: at run time, for a label out of range or labels that turn
        out to have another shape.

    Example:
      >>> centers = create_embed_centers(2, 2, initializer=[[1.0, 2.0], [3.0, 4.0]])
      >>> rows = lookup_embed_centers([1, 1, 0], centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)
      array([[3., 4.],
             [3., 4.],
             [1., 2.]], dtype=float32)
    """
    caller = "lookup_embed_centers"
    with tf.name_scope(name, caller, [label_batch]):
        checks = Checks(caller)
        table = find_table(caller, centers, with_counts=False)
        labels, given = arguments.as_labels(caller, "label_batch", label_batch)
        labels = label_vector(checks, labels)
        labels = in_range(checks, labels, table.shape[0], given)
        return tf.stop_gradient(read_table(table, labels))


def _as_updater(caller: str, updater: Any) -> Updater:
    if updater is None:
        return ExponentialWindow()
    if not isinstance(updater, Updater):
        raise TypeError(
            f"{caller}: updater must be a CumulativeMean(), ExponentialWindow() or WenUpdate(), "
            f"got {updater!r}"
        )
    return updater
