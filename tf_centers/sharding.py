"""Where lookups and updates run: on the machine of each shard, with or without its lock."""

from functools import partial, reduce
from typing import Any, Callable, List, Sequence, Tuple, TypeVar

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
from tf_centers.tables import Table
from tf_centers.update import ShardUpdate

_T = TypeVar("_T")


def read_table(checks: Checks, table: Table, labels: tf.Tensor, field: str = "ctrs") -> tf.Tensor:
    """Gathers the centers (or "counts") of `labels [R]`; only they cross the network."""
    parts, places = _split(checks, table, labels, updates=False)
    variables = [getattr(shard, field) for shard in table.shards]
    rows = _on_each(table, read_rows, variables, parts)
    return tf.stop_gradient(checks.nan_unless_passed(_join(places, rows, labels)))


def update_table(
    checks: Checks, table: Table, updater: Updater, batch: Batch, read: str, use_locking: bool
) -> Tuple[tf.Tensor, List[Any]]:
    """Updates the centers with a batch, in all shards or in none.

    Returns the center of each row, `[R, D]`, "before" or "after" the update, and the ops that have
    to run for the update to be done.
    """
    labels, places = _split(checks, table, batch.labels, updates=True)
    checks.require_finite(batch.embeds)  # after the split, which so need not wait for it
    weigher = Weigher(checks, updater, tf.size(batch.labels))
    dense, replicated = not batch.stop_gradient, table.replicas > 1
    # Taken here, so that each machine is sent only its own rows.
    embeds = [take(batch.embeds, own, dense) for own in places] or [batch.embeds]
    prepare = partial(ShardUpdate, weigher, table, dense)
    updates = _on_each(table, prepare, table.shards, embeds, labels)
    locks: List[Any] = []
    try:
        with uninterrupted():
            if use_locking:
                inputs = sum(_on_each(table, ShardUpdate.inputs, updates), checks.ops)
                # No replica may wait for another while it holds a lock.
                with tf.control_dependencies([barrier(inputs)] if replicated else inputs):
                    locks += take_locks(table.shards)
            with tf.control_dependencies(locks):
                ready = sum(_on_each(table, ShardUpdate.compute, updates), checks.ops)
            if places:
                ready = [tf.group(*ready)]  # which gathers them once for each machine
            if replicated and not use_locking:
                ready = [barrier(ready)]
            with tf.control_dependencies(ready):
                writes = _on_each(table, ShardUpdate.write, updates)
            with tf.control_dependencies(sum(writes, [])):
                writes.append(release_locks(table.shards, locks))
    finally:
        locks.clear()  # In eager code, the traceback of an error would go on holding them.
    rows = _on_each(table, partial(ShardUpdate.rows, read=read), updates)
    warn_of_overlap(checks, table, batch.embeds.device, use_locking)
    return _join(places, rows, batch.labels), sum(writes, [])


def _on_each(table: Table, call: Callable[..., _T], *columns: Sequence[Any]) -> List[_T]:
    """The results of a call for each shard, made on its machine from its place in each column."""
    results = []
    for shard, own in zip(table.shards, zip(*columns)):
        with on_machine_of(shard.ctrs):
            results.append(call(*own))
    return results


def _split(
    checks: Checks, table: Table, labels: tf.Tensor, updates: bool
) -> Tuple[List[tf.Tensor], List[tf.Tensor]]:
    """Checks the labels, and splits them by shard, in each of which they count from 0.

    An update holds them against the rows that each variable has when the graph runs. A lookup does
    not, so that its graph can be frozen. Also returns the places of each shard's rows in the batch,
    or nothing if the table is whole.
    """
    shard_of: Any = None
    starts = table.starts[:-1]
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
        return [labels], []
    labels -= tf.gather(tf.constant(starts, labels.dtype), shard_of)
    places = tf.dynamic_partition(tf.range(tf.size(labels)), shard_of, len(starts))
    return [tf.gather(labels, own) for own in places], places


def _check_range(checks: Checks, table: Table, labels: Any, shard_of: Any, sized: bool) -> None:
    """Checks that labels `[R]`, in shards `[R]` if there are several, are in [0, C).

    If `sized`, each variable must also have a row for each of its labels when the graph runs, and
    no more rows than the graph knows.
    """
    dtype, num_classes = labels.dtype, table.shape[0]
    with on_host():
        # With its sign bit flipped, a negative label becomes huge, so one pass finds both kinds.
        # Not every version can take the maximum of unsigned integers.
        lowest = tf.constant(dtype.min, dtype)
        highest = tf.reduce_max(tf.bitwise.bitwise_xor(labels, lowest))
        found: List[Any] = [tf.bitwise.bitwise_xor(highest, lowest)]
    least, most = [], []
    if sized:
        rows = [[rows_at_run_time(v, dtype) for v in s if v is not None] for s in table.shards]
        with on_host():
            least = [reduce(tf.minimum, own) for own in rows]
            most = [reduce(tf.maximum, own) for own in rows]
        has = "the table has" if shard_of is None else "each shard has"
        found += [f"while {has} at run time", least, "rows"]

    def fits() -> tf.Tensor:
        with on_host():
            if not sized:
                return highest < num_classes + lowest
            if shard_of is None:
                return tf.logical_and(highest < least[0] + lowest, most[0] <= num_classes)
            starts = tf.constant(table.starts, dtype)
            held = tf.reduce_all(labels < tf.gather(tf.stack(least) + starts[:-1], shard_of))
            known = tf.reduce_all(tf.stack(most) <= starts[1:] - starts[:-1])
            return held & known & (highest < num_classes + lowest)

    checks.require(fits, f"every label in [0, {num_classes}), found", *found)


def _join(places: List[tf.Tensor], rows: List[tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
    """The rows of all shards in the order of the batch."""
    if not places:
        return rows[0]
    joined = stitch(places, rows, tf.size(labels))
    if not tf.executing_eagerly():
        joined.set_shape([labels.shape.as_list()[0] or None, *rows[0].shape.as_list()[1:]])
    return joined
