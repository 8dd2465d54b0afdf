"""Where lookups and updates run: on the machine of each shard, with or without its lock."""

import functools
from typing import Any, Callable, List, NamedTuple, Optional, Tuple, TypeVar

import tensorflow.compat.v1 as tf

from tf_centers.access import (
    is_ref,
    on_host,
    on_machine_of,
    read_rows,
    rows_at_run_time,
    take,
    uninterrupted,
)
from tf_centers.batch import Batch, stitch
from tf_centers.checks import Checks
from tf_centers.locking import release_locks, take_locks, warn_of_overlap
from tf_centers.replicas import barrier
from tf_centers.row_weights import Updater, Weigher
from tf_centers.tables import EmbedCenters, Table
from tf_centers.update import ShardUpdate

_T = TypeVar("_T")


class Part(NamedTuple):
    """The rows of a batch whose classes one shard holds.

    `places` is None for all of it, where the table is whole. `labels` count from the first class of
    the shard.
    """

    places: Optional[tf.Tensor]
    labels: tf.Tensor


def read_table(checks: Checks, table: Table, labels: tf.Tensor, field: str = "ctrs") -> tf.Tensor:
    """Gathers the centers (or "counts") of `labels [R]`; only they cross the network."""
    parts = _split(checks, table, labels, updates=False)
    rows = _on_each(table, lambda shard, p: read_rows(getattr(shard, field), p.labels), parts)
    return tf.stop_gradient(checks.nan_unless_passed(_join(parts, rows, labels)))


def update_table(
    checks: Checks,
    table: Table,
    updater: Updater,
    batch: Batch,
    read: str,
    use_locking: bool,
) -> Tuple[tf.Tensor, List[Any]]:
    """Updates the centers with a batch, in all shards or in none.

    Returns:
      The center of each row, `[R, D]`, before or after the update, and the ops that have to run for
      the update to be done.
    """
    checks.require_finite(batch.embeds)
    parts = _split(checks, table, batch.labels, updates=True)
    weigher = Weigher(checks, updater)
    dense, replicated = not batch.stop_gradient, table.replicas > 1

    embeds = [batch.embeds]
    if len(parts) > 1:  # Here, so that each machine is sent only its own rows.
        embeds = [take(batch.embeds, part.places, dense) for part in parts]
    updates = _on_each(
        table,
        lambda shard, own: ShardUpdate(weigher, shard, own[0], own[1].labels, dense),
        list(zip(embeds, parts)),
    )
    locks: List[Any] = []
    try:
        with uninterrupted():
            if use_locking:
                inputs = sum(
                    _on_each(table, lambda _, update: update.inputs(), updates), checks.ops
                )
                # No replica may wait for another while it holds a lock.
                with tf.control_dependencies([barrier(inputs)] if replicated else inputs):
                    locks += take_locks(table.shards)
            with tf.control_dependencies(locks):
                new = _on_each(table, lambda _, update: update.compute(), updates)
            ready = checks.ops + new
            if len(parts) > 1:
                ready = [tf.group(*ready)]  # which gathers them once for each machine
            if replicated and not use_locking:
                ready = [barrier(ready)]
            with tf.control_dependencies(ready):
                writes = _on_each(table, lambda _, update: update.write(), updates)
            with tf.control_dependencies(sum(writes, [])):
                writes.append(release_locks(table.shards, locks))
    finally:
        locks.clear()  # In eager code, the traceback of an error would go on holding them.
    rows = _on_each(table, lambda _, update: update.rows(read), updates)
    warn_of_overlap(checks, table, batch.embeds.device, use_locking)
    return _join(parts, rows, batch.labels), sum(writes, [])


def _on_each(
    table: Table, function: Callable[[EmbedCenters, Any], _T], each: List[Any]
) -> List[_T]:
    """The results of a function of each shard and what belongs to it, on its machine."""
    results = []
    for shard, own in zip(table.shards, each):
        with on_machine_of(shard.ctrs):
            results.append(function(shard, own))
    return results


def _split(checks: Checks, table: Table, labels: tf.Tensor, updates: bool) -> List[Part]:
    """Checks the labels, and splits them by shard.

    An update holds them against the rows that each variable has when the graph runs. A lookup does
    not, so that its graph can be frozen.
    """
    starts, shard_of = table.starts[:-1], None
    if len(starts) > 1:
        # Not tf.searchsorted, before which TensorFlow 1.15 rewrites reshapes wrongly.
        later = tf.constant(starts[1:], labels.dtype)
        shard_of = tf.reduce_sum(tf.cast(labels[:, tf.newaxis] >= later, tf.int32), axis=1)
    _check_range(checks, table, labels, shard_of, updates and not is_ref(table.shards[0].ctrs))
    if updates:
        with tf.control_dependencies(checks.ops):
            # Hides constants from TensorFlow's optimizer. If it knows that there are no rows, it
            # divides by their number and crashes the process.
            labels = tf.placeholder_with_default(labels, [labels.shape.as_list()[0] or None])
    else:
        labels = checks.guard(labels)
    if shard_of is None:
        return [Part(None, labels)]
    labels -= tf.gather(tf.constant(starts, labels.dtype), shard_of)
    places = tf.dynamic_partition(tf.range(tf.size(labels)), shard_of, len(starts))
    return [Part(at, tf.gather(labels, at)) for at in places]


def _check_range(
    checks: Checks,
    table: Table,
    labels: tf.Tensor,
    shard_of: Optional[tf.Tensor],
    at_run_time: bool,
) -> None:
    """Checks that labels `[R]`, in shards `[R]` if there are several, are in [0, C).

    If `at_run_time`, each variable must also have a row for each of its labels when the graph runs,
    and no more rows than the graph knows.
    """
    dtype, num_classes = labels.dtype, table.shape[0]
    with on_host():
        # With its sign bit flipped, a negative label becomes huge, so one pass finds both kinds.
        # Not every version can take the maximum of unsigned integers.
        lowest = tf.constant(dtype.min, dtype)
        highest = tf.reduce_max(tf.bitwise.bitwise_xor(labels, lowest))
        found: List[Any] = [tf.bitwise.bitwise_xor(highest, lowest)]
    least, most = [], []
    if at_run_time:
        rows = [[rows_at_run_time(v, dtype) for v in s if v is not None] for s in table.shards]
        with on_host():
            least = [functools.reduce(tf.minimum, own) for own in rows]
            most = [functools.reduce(tf.maximum, own) for own in rows]
        has = "the table has" if shard_of is None else "each shard has"
        found += [f"while {has} at run time", least, "rows"]

    def fits() -> tf.Tensor:
        with on_host():
            if not at_run_time:
                return highest < num_classes + lowest
            if shard_of is None:
                return tf.logical_and(highest < least[0] + lowest, most[0] <= num_classes)
            starts, sizes = table.starts, [shard.ctrs.shape.as_list()[0] for shard in table.shards]
            ends = tf.stack(least) + tf.constant(starts[:-1], dtype)
            held = tf.reduce_all(labels < tf.gather(ends, shard_of))
            known = tf.reduce_all(tf.stack(most) <= tf.constant(sizes, dtype))
            return held & known & (highest < num_classes + lowest)

    checks.require(fits, f"every label in [0, {num_classes}), found", *found)


def _join(parts: List[Part], rows: List[tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
    """The rows of all shards in the order of the batch."""
    if len(parts) == 1:
        return rows[0]
    return stitch([part.places for part in parts], rows, tf.size(labels))
