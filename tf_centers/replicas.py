"""Replicas of a `tf.distribute` strategy, each of which has a copy of the table.

An update gathers the rows of all replicas and makes the same update on every copy. So all copies
hold the same bits as in a single process that gets the batches of all replicas joined into one.
"""

from typing import Any, List, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import distribute

from tf_centers.access import take
from tf_centers.checks import Checks, Shaped, check_shapes

# From TensorFlow 2.4 on, replicas can gather.
SUPPORTED = hasattr(distribute.ReplicaContext, "all_gather")


def count_here() -> int:
    """How many replicas run the current code; 1 outside of a replica context."""
    context = distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def count_of(variable: Any) -> int:
    """How many replicas, on all machines, have a copy of a variable; 1 if it is not copied."""
    plain = copies(variable)[0] is variable
    return 1 if plain else int(variable.distribute_strategy.num_replicas_in_sync)


def copies(variable: Any) -> List[Any]:
    """The copies of a variable on this machine, one for each replica."""
    values = getattr(variable, "values", None)
    return list(values) if isinstance(values, (tuple, list)) else [variable]


def own_place(count: int) -> int:
    """Which of the copies on this machine belongs to this replica; outside of one, the first."""
    if count == 1 or count_here() == 1:
        return 0
    return int(tf.get_static_value(_own_id())) % count


def join(
    embeds: tf.Tensor, labels: tf.Tensor, stop_gradient: bool
) -> Tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gathers embeddings `[B, D]` and labels `[B]`; B may differ among replicas.

    Unless stopped, the gradient of an embedding is that of the sum of all replicas' losses.

    Returns:
      The embeddings `[R, D]` and labels `[R]`, int64, of all replicas in the order of their ids,
      and the places of the rows that came from this replica.
    """
    own_id = tf.cast(_own_id(), tf.int64)  # as labels may be on another replica
    tags = tf.stack([tf.cast(labels, tf.int64), tf.fill(tf.shape(labels), own_id)], axis=1)
    # TensorFlow cannot gather if no replica has a row, so each adds a spare one.
    tags = gather(tf.pad(tags, [[0, 1], [0, 0]], constant_values=-1))
    rows = gather(tf.pad(embeds, [[0, 1], [0, 0]]), stop_gradient)
    with tf.control_dependencies([tags, rows]):  # No check may fail during the other gather.
        tags, rows = tf.identity(tags), tf.identity(rows)
    places = _where(tags[:, 1] >= 0)
    tags, rows = tf.gather(tags, places), take(rows, places, dense=not stop_gradient)
    return rows, tags[:, 0], _where(tf.equal(tags[:, 1], own_id))


def agree(condition: tf.Tensor) -> tf.Tensor:
    """A condition as it is on each replica, `[replicas]`."""
    return gather(tf.reshape(condition, [1]))


def barrier(ops: List[Any]) -> Any:
    """An op that runs once these have run on every replica; if one fails, on none."""
    with tf.control_dependencies(ops):
        return gather(tf.zeros([1], tf.int32))


def scalar(checks: Checks, name: str, value: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor is a scalar, and the same one on all replicas that make this update."""
    several = count_here() > 1
    (value,) = check_shapes(checks, [Shaped(name, value, "")], agree=agree if several else None)
    if several:
        found = gather(checks.guard(tf.reshape(value, [1])))
        checks.require(
            lambda: tf.reduce_all(tf.equal(found, found[0])),
            f"{name} to be the same on every replica, found",
            found,
        )
        value = found[0]
    return value


def gather(value: tf.Tensor, stop_gradient: bool = True) -> tf.Tensor:
    """Concatenates the values of all replicas along the first axis."""
    # In a graph of TensorFlow 1, a gather with a gradient fails on values that other replicas
    # computed from variables.
    value = tf.stop_gradient(value) if stop_gradient else value
    # TensorFlow cannot gather bfloat16, of which float32 keeps every bit, or bool.
    sent = {tf.bfloat16: tf.float32, tf.bool: tf.int32}.get(value.dtype, value.dtype)
    gathered = distribute.get_replica_context().all_gather(tf.cast(value, sent), axis=0)
    # A gather loses the static shape, and its gradient does not accept IndexedSlices.
    return tf.cast(tf.reshape(gathered, [-1] + value.shape.as_list()[1:]), value.dtype)


def _own_id() -> Any:
    return distribute.get_replica_context().replica_id_in_sync_group


def _where(condition: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.where(condition), [-1])
