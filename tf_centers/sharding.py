"""Where lookups and updates run: on the machine of each shard, with or without its lock."""

import functools
from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers.access import on_machine_of, read_rows, rows_at_run_time
from tf_centers.centers import EmbedCenters, Table
from tf_centers.checks import Checks
from tf_centers.locking import locked, warn_of_overlap
from tf_centers.update import Update, update_rows
from tf_centers.updaters import Updater


class Part(NamedTuple):
    """The rows of a batch whose classes one shard holds.

    Attributes:
      places: int32, their places in the batch; None for all of it, where the table is whole.
      labels: their labels, counted from the first class of the shard.
    """

    places: Optional[tf.Tensor]
    labels: tf.Tensor


def read_table(table: Table, labels: tf.Tensor) -> tf.Tensor:
    """Gathers the centers of checked `labels [B]`; only they cross the network."""
    parts = _split(table, labels)
    rows = []
    for shard, part in zip(table.shards, parts):
        with on_machine_of(shard.ctrs):
            rows.append(read_rows(shard.ctrs, part.labels))
    return _join(parts, rows, labels)


def update_table(
    checks: Checks,
    table: Table,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: str = "after",
    use_locking: bool = False,
) -> Update:
    """Updates the centers of `labels [B]` with `embeds [B, D]`.

    Args:
      checks: must pass before any shard is written or any lock is taken.
      table: what to update.
      updater: gives the row weights.
      embeds: `[B, D]` in the dtype of the centers, not yet known to be finite.
      labels: `[B]`, checked.
      read: "after" or "before".
      use_locking: whether the update of each shard is atomic among all callers that lock.
    """
    checks.require_finite(embeds)
    updater = updater._prepare(checks)
    parts = _split(table, labels)
    if len(parts) > 1:
        for shard, part in zip(table.shards, parts):
            _check_part(checks, shard, part)
        parts = [part._replace(labels=checks.guard(part.labels)) for part in parts]
    updates = []
    for shard, part in zip(table.shards, parts):
        own = embeds if part.places is None else tf.gather(embeds, part.places)
        with on_machine_of(shard.ctrs):
            update = _update_locked if use_locking else update_rows
            updates.append(update(checks, shard, updater, own, part.labels, read))
    warn_of_overlap(checks.caller, table, embeds.device, use_locking)
    return Update(
        rows=_join(parts, [update.rows for update in updates], labels),
        writes=[write for update in updates for write in update.writes],
    )


def classes_at_run_time(shard: EmbedCenters, dtype: tf.DType) -> Any:
    """How many rows ctrs and counts have when the graph runs; None if neither can change."""
    found = [rows_at_run_time(v, dtype) for v in shard if v is not None]
    found = [rows for rows in found if rows is not None]
    return functools.reduce(tf.minimum, found) if found else None


def stitch(places: List[tf.Tensor], rows: List[tf.Tensor], size: tf.Tensor) -> tf.Tensor:
    """Puts rows in their places in [0, size); the last of several rows for one place wins."""
    # Sliced, since in TensorFlow 1.15 the static size of no rows is 1.
    return tf.dynamic_stitch(places, rows)[:size]


def _update_locked(
    checks: Checks,
    shard: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: str,
) -> Update:
    # The batch has been checked and has arrived before the lock is taken, and so has what else the
    # update takes from outside. It may depend on another update that needs the same lock.
    embeds, labels = checks.guard(embeds), checks.guard(labels)
    given = [value for value in vars(updater).values() if tf.is_tensor(value)]

    def body() -> tf.Tensor:
        inside = Checks(checks.caller, checks.validate)
        update = update_rows(inside, shard, updater, embeds, labels, read)
        with tf.control_dependencies(update.writes):
            return tf.identity(update.rows)

    with tf.control_dependencies([embeds, labels] + given):
        rows = locked(shard.ctrs, body)
    return Update(rows, [rows])


def _check_part(checks: Checks, shard: EmbedCenters, part: Part) -> None:
    present = classes_at_run_time(shard, part.labels.dtype)
    if present is not None:
        highest = tf.reduce_max(part.labels)
        checks.require(
            lambda: highest < present,
            f"every label in the rows that {shard.ctrs.name} has at run time, found row",
            highest,
            "of",
            present,
        )


def _split(table: Table, labels: tf.Tensor) -> List[Part]:
    if len(table.shards) == 1:
        return [Part(None, labels)]
    starts = table.starts
    shard_of = tf.searchsorted(tf.constant(starts[1:-1], labels.dtype), labels, side="right")
    places = tf.dynamic_partition(tf.range(tf.size(labels)), shard_of, len(table.shards))
    return [Part(at, tf.gather(labels, at) - start) for at, start in zip(places, starts)]


def _join(parts: List[Part], rows: List[tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
    """The rows of all shards in the order of the batch."""
    if len(parts) == 1:
        return rows[0]
    return stitch([part.places for part in parts], rows, tf.size(labels))
