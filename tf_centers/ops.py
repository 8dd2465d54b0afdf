"""The calls that look centers up and update them."""

from typing import Any, Optional, Union

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.arguments import no_autograph
from tf_centers.batch import Batch, check_batch, check_labels
from tf_centers.checks import Checks
from tf_centers.replicas import scalar
from tf_centers.row_weights import Updater
from tf_centers.sharding import read_table, update_table
from tf_centers.tables import Table
from tf_centers.typing import CentersLike, Read, Tensor, TensorLike
from tf_centers.updaters import as_updater
from tf_centers.variables import find_table


@no_autograph
def get_embed_centers(
    embed_batch: TensorLike,
    label_batch: TensorLike,
    updater: Optional[Updater] = None,
    centers: CentersLike = "embed",
    mask: Optional[TensorLike] = None,
    is_training: Union[bool, Tensor] = True,
    read: Read = "after",
    use_locking: bool = False,
    validate_args: bool = True,
    stop_gradient: bool = True,
    name: Optional[str] = None,
) -> tf.Tensor:
    """Updates the centers of a batch's classes and returns the center of each row.

    With row weights `w [B]`, which the updater gives, this does what the recipe

        old  = gather(ctrs, labels)
        ctrs = scatter_sub(ctrs, labels, w[:, None] * (old - embed))
        return gather(ctrs, labels)

    is meant to do, even with repeated labels, and with both ref and resource variables. Nothing is
    written, in any shard or copy, before every check of the batch has passed. On the replicas of a
    distribution strategy, every copy is updated with the rows of all replicas. XLA cannot compile
    updates or masks; under XLA a lookup of a bad label returns NaN rows.

    Args:
      embed_batch: floating `[B, D]`, cast to the dtype of the centers; or, where the static shape
        has three axes, `[B, T, D]`, a batch of `B * T` rows in row-major order.
      label_batch: integers `[B]` or `[B, 1]` in [0, C); `[B, T]` for embeddings `[B, T, D]`.
      updater: `CumulativeMean`, `FadingMean`, `ExponentialWindow`, `WenUpdate` or an `Updater` of
        your own; None is `ExponentialWindow(0.95)`.
      centers: name of the variable scope that holds `ctrs` (below the current one, else
        absolute), an `EmbedCenters`, or the variable `ctrs [C, D]` itself, whole or split by
        rows under a partitioner. Inside a `tf.function`, pass variables instead of a name.
      mask: bool `[B]`, or `[B, T]`, or None. Rows that are False change nothing, their labels are
        not read, and they get their own embedding back as their center.
      is_training: bool or scalar bool tensor; False only looks centers up.
      read: "after" returns the centers after the update, "before" those before it. In both cases
        the update has been applied when the result is available.
      use_locking: makes the update atomic among all threads and workers that also lock. Without
        it, updates of one table that run at the same time may overwrite each other, which a graph
        that allows it logs as a warning. A step that is cancelled between the writes of two shards
        may have written only the first. CPU only.
      validate_args: False drops the checks at run time.
      stop_gradient: if False, which needs `read="after"`, returned row i has derivative `w_j` with
        respect to each row j of its class in the batch. None flows to the table or through masked
        rows. On several replicas it is that of the sum of their losses, in a `tf.function` only.
      name: name of the scope of the ops.

    Returns:
      `[B, D]`, or `[B, T, D]`, in the dtype of the centers.

    Raises:
      TypeError: embeddings that are not floating, labels that are not integers, a mask or an
        `is_training` that is not bool, an updater of another class.
      ValueError: static shapes that do not fit, missing centers, an unknown `read`,
        `stop_gradient=False` with `read="before"`; an update on other replicas than those that have
        a copy of the table.
      tf.errors.InvalidArgumentError: at run time, for a label outside [0, C), a NaN or Inf in an
        unmasked row, shapes or a table of another size, a tensor `decay` or `alpha` out of range.

    Examples:
      >>> with tf.variable_scope("embed"):
      ...     ctrs = tf.get_variable("ctrs", [10, 2], initializer=tf.zeros_initializer())
      >>> rows = get_embed_centers([[1.0, 2.0], [3.0, 4.0]], [7, 7])
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows).round(4)
      array([[0.1975, 0.295 ],
             [0.1975, 0.295 ]], dtype=float32)
    """
    caller = "get_embed_centers"
    with tf.name_scope(name, caller, [embed_batch, label_batch]):
        updater = as_updater(caller, updater)
        arguments.check_choice(caller, "read", read, ("after", "before"))
        use_locking = arguments.check_bool(caller, "use_locking", use_locking)
        training = arguments.as_switch(caller, "is_training", is_training)
        stop_gradient = arguments.check_bool(caller, "stop_gradient", stop_gradient)
        if read == "before" and not stop_gradient:
            raise ValueError(
                f"{caller}: stop_gradient=False needs read='after', got 'before': rows from before "
                "the update do not depend on this batch"
            )
        checks = Checks(caller, arguments.check_bool(caller, "validate_args", validate_args))
        updates = training is not False
        stops = stop_gradient or not updates
        table = find_table(caller, centers, counts_for(updater, updates))
        batch = check_batch(checks, table, embed_batch, label_batch, mask, updates, stops)
        rows = update_or_look_up(checks, table, updater, batch, training, read, use_locking)
        rows = batch.restore(rows)
        return tf.stop_gradient(rows) if stops else rows


@no_autograph
def update_embed_centers(
    embed_batch: TensorLike,
    label_batch: TensorLike,
    updater: Optional[Updater] = None,
    centers: CentersLike = "embed",
    mask: Optional[TensorLike] = None,
    use_locking: bool = False,
    validate_args: bool = True,
    name: Optional[str] = None,
) -> Optional[tf.Operation]:
    """Returns an op that updates the centers as `get_embed_centers` does.

    For graphs that look up the centers elsewhere and run the update with their train op. A lookup
    and an update in one step are not ordered; see `lookup_embed_centers`.

    Args:
      embed_batch: floating `[B, D]` or `[B, T, D]`, as in `get_embed_centers`.
      label_batch: integers `[B]` or `[B, 1]` in [0, C); `[B, T]` for embeddings `[B, T, D]`.
      updater: as in `get_embed_centers`.
      centers: as in `get_embed_centers`.
      mask: bool `[B]`, or `[B, T]`, or None; rows that are False change nothing.
      use_locking: as in `get_embed_centers`.
      validate_args: False drops the checks at run time.
      name: name of the scope of the ops.

    Returns:
      A `tf.Operation`; None in eager execution, where the update is already done.

    Raises:
      TypeError, ValueError, tf.errors.InvalidArgumentError: as `get_embed_centers`.

    Examples:
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
        updater = as_updater(caller, updater)
        use_locking = arguments.check_bool(caller, "use_locking", use_locking)
        checks = Checks(caller, arguments.check_bool(caller, "validate_args", validate_args))
        table = find_table(caller, centers, counts_for(updater))
        batch = check_batch(checks, table, embed_batch, label_batch, mask)
        _, writes = update_table(checks, table, updater, batch, "before", use_locking)
        return tf.group(*writes)


@no_autograph
def lookup_embed_centers(
    label_batch: TensorLike, centers: CentersLike = "embed", name: Optional[str] = None
) -> tf.Tensor:
    """Returns the center of each label. Changes nothing.

    What is returned is a copy, which no later update changes. A lookup and an update in one step
    are in no order. For the centers as they were before the update:

        with tf.control_dependencies([rows]):
            update = update_embed_centers(embed_batch, label_batch)

    Args:
      label_batch: integers `[B]` or `[B, 1]` in [0, C), or `[B, T]` if the static shape has two
        axes and T is not known to be 1.
      centers: as in `get_embed_centers`.
      name: name of the scope of the ops.

    Returns:
      `[B, D]`, or `[B, T, D]` for labels `[B, T]`, in the dtype of the centers, without a gradient.
      Under XLA, which drops every assertion, all rows are NaN if any label is out of range.

    Raises:
      TypeError: labels that are not integers.
      ValueError: labels of another shape, missing centers.
      tf.errors.InvalidArgumentError: at run time, for labels out of range or of another shape.

    Examples:
      >>> centers = create_embed_centers(2, 1, initializer=[[1.0], [3.0]])
      >>> rows = lookup_embed_centers([1, 1, 0], centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)[:, 0]
      array([3., 3., 1.], dtype=float32)
    """
    caller = "lookup_embed_centers"
    with tf.name_scope(name, caller, [label_batch]):
        checks = Checks(caller)
        table = find_table(caller, centers, "ignore")
        labels, restore = check_labels(checks, label_batch)
        return restore(read_table(checks, table, labels))


def counts_for(updater: Updater, updates: bool = True) -> Any:
    """What `find_table` does about counts."""
    if not updates:
        return "ignore"
    if updater.count_decay is not None:
        return tf.float64
    return tf.int64 if updater.needs_counts else "existing"


def update_or_look_up(
    checks: Checks,
    table: Table,
    updater: Updater,
    batch: Batch,
    training: Any,
    read: str,
    lock: bool,
) -> tf.Tensor:
    """The center of each row `[R, D]`, with an update if `training`, a bool or a tensor."""
    if training is False:
        return read_table(checks, table, batch.labels)
    others = None
    if training is not True:
        # Either the update or the lookup gets no rows. Not tf.cond, which a ref variable cannot
        # always enter and which cannot be placed on two devices.
        training = scalar(checks, "is_training", training)
        size = tf.where(training, tf.size(batch.labels), 0)
        others = batch.labels[size:]
        batch = batch._replace(embeds=batch.embeds[:size], labels=batch.labels[:size])
    rows, writes = update_table(checks, table, updater, batch, read, lock)
    with tf.control_dependencies(writes):
        rows = tf.identity(rows)
    if others is None:
        return rows
    return tf.concat([rows, read_table(checks, table, others)], axis=0)
