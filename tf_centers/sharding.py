"""Rows to the shards of a table and back: what runs where, and what travels."""

from typing import Any, List, NamedTuple, Optional, Union

import tensorflow.compat.v1 as tf

from tf_centers.checks import Checks
from tf_centers.locking import locked
from tf_centers.moved import Moved
from tf_centers.moves import move_centers
from tf_centers.rows import on_machine_of, read_rows
from tf_centers.tables import EmbedCenters, Table
from tf_centers.updaters import Updater


class Route(NamedTuple):
    """Where the rows of a batch go, for each shard.

    Attributes:
      places: int32, the rows of the batch whose classes the shard holds.
      labels: the same rows' labels, counted from the first class of the shard.
    """

    places: List[tf.Tensor]
    labels: List[tf.Tensor]


def read_table(table: Table, labels: tf.Tensor) -> tf.Tensor:
    """Gathers the centers of checked `labels [B]`; only they cross the network."""
    if len(table.shards) == 1:
        with on_machine_of(table.shards[0].ctrs):
            return read_rows(table.shards[0].ctrs, labels)
    route = _route(table, labels)
    rows = []
    for shard, own_labels in zip(table.shards, route.labels):
        with on_machine_of(shard.ctrs):
            rows.append(read_rows(shard.ctrs, own_labels))
    return _put_in_order(route, rows, labels)


def move_table(
    checks: Checks,
    table: Table,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
    training: Union[bool, tf.Tensor] = True,
    use_locking: bool = False,
) -> Moved:
    """Moves the centers of checked `labels [B]` by `embeds [B, D]`, on the machines of the shards.

    Args:
      checks: the checks that have to pass before anything is written.
      table: what to move.
      updater: gives the weights of the rows.
      embeds: `[B, D]` in the dtype of the centers, not yet known to be finite.
      labels: `[B]`, each in [0, C).
      read: "after", "before" or None.
      training: where it is false at run time, the centers are only read.
      use_locking: whether the update is one step for all other callers that lock.
    """
    updater = updater.prepare(checks)
    shards = table.shards
    if len(shards) == 1 and not use_locking:
        with on_machine_of(shards[0].ctrs):
            return _move_shard(checks, shards[0], updater, embeds, labels, read, training)

    # No shard is written, and no lock taken, before every check of the batch has passed.
    moving = embeds if training is True else embeds[: tf.where(training, tf.size(labels), 0)]
    checks.require_finite(moving)
    embeds, labels = checks.guard(embeds), checks.guard(labels)
    if len(shards) == 1:
        return _send_and_move(shards[0], updater, embeds, labels, read, training, use_locking)
    route = _route(table, labels)
    moved = [
        _send_and_move(
            shard, updater, tf.gather(embeds, places), own_labels, read, training, use_locking
        )
        for shard, places, own_labels in zip(shards, *route)
    ]
    writes = [write for one in moved for write in one.writes]
    if read is None:
        return Moved(None, writes)
    with tf.control_dependencies(writes):
        rows = _put_in_order(route, [one.rows for one in moved], labels)
        return Moved(rows, writes)


def _route(table: Table, labels: tf.Tensor) -> Route:
    starts, count = table.starts, len(table.shards)
    ends = tf.constant(starts[1:-1], labels.dtype)
    shard_of = tf.searchsorted(ends, labels, side="right")
    places = tf.dynamic_partition(tf.range(tf.size(labels)), shard_of, count)
    own_labels = [tf.gather(labels, at) - start for at, start in zip(places, starts)]
    return Route(places, own_labels)


def _put_in_order(route: Route, rows: List[Any], labels: tf.Tensor) -> tf.Tensor:
    """The rows of all shards in the order of the batch."""
    ordered = tf.dynamic_stitch(route.places, rows)
    # TensorFlow 1.15 takes the static size of no rows for 1.
    return ordered[:0] if labels.shape.as_list()[0] == 0 else ordered


def _send_and_move(
    shard: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
    training: Union[bool, tf.Tensor],
    use_locking: bool,
) -> Moved:
    """Moves the centers of one shard by rows that passed every check and are sent there first."""
    passed = Checks("", validate=False)
    with on_machine_of(shard.ctrs):
        embeds, labels = tf.identity(embeds), tf.identity(labels)
        updater = updater.prepare(passed)
        if training is not True:
            training = tf.identity(training)
        arrived = [embeds, labels]

        def move() -> Moved:
            return _move_shard(passed, shard, updater, embeds, labels, read, training)

        if not use_locking:
            return move()

        def body() -> tf.Tensor:
            moved = move()
            with tf.control_dependencies(moved.writes):
                return tf.zeros([]) if moved.rows is None else tf.identity(moved.rows)

        with tf.control_dependencies(arrived):
            done = locked(shard.ctrs, body)
        return Moved(None if read is None else done, [done])


def _move_shard(
    checks: Checks,
    shard: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
    training: Union[bool, tf.Tensor],
) -> Moved:
    if training is True:
        return move_centers(checks, shard, updater, embeds, labels, read)
    # When it is false the update is one of no rows. No tf.cond: a ref variable cannot enter one
    # everywhere.
    size = tf.where(training, tf.size(labels), 0)
    before = [read_rows(shard.ctrs, labels)] if read == "before" else []
    with tf.control_dependencies(before):
        writes = move_centers(checks, shard, updater, embeds[:size], labels[:size], None).writes
    with tf.control_dependencies(writes):
        return Moved(tf.identity(before[0]) if before else read_rows(shard.ctrs, labels), writes)
