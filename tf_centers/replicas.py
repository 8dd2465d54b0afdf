"""Replicas of a `tf.distribute` strategy, each of which has a copy of the table.

An update gathers the rows of all replicas and makes the same update on every copy. So all copies
hold the same bits, those of a single process that is fed the batches one after the other.
"""

from typing import Any, List, NamedTuple

import tensorflow.compat.v1 as tf
from tensorflow import distribute

# TensorFlow can gather within replicas, from 2.4 on.
SUPPORTED = hasattr(distribute.ReplicaContext, "all_gather")


class Joined(NamedTuple):
    """The rows of all replicas, in the order of their ids.

    Attributes:
      embeds: `[R, D]`.
      labels: int64 `[R]`.
      own: int64, the places of the rows that came from this replica.
    """

    embeds: tf.Tensor
    labels: tf.Tensor
    own: tf.Tensor


def count_here() -> int:
    """How many replicas run what is called here; 1 outside of a replica context."""
    context = distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def count_of(variable: Any) -> int:
    """How many replicas, on all machines, have a copy of a variable; 1 if it is a plain one."""
    plain = copies(variable)[0] is variable
    return 1 if plain else int(variable.distribute_strategy.num_replicas_in_sync)


def copies(variable: Any) -> List[Any]:
    """The plain variables on this machine that a variable consists of, one for each replica."""
    values = getattr(variable, "values", None)
    return list(values) if isinstance(values, (tuple, list)) else [variable]


def own_place(count: int) -> int:
    """Which of so many copies on this machine is that of this replica; outside of one the first."""
    if count == 1 or count_here() == 1:
        return 0
    return int(tf.get_static_value(_own_id())) % count


def join(embeds: tf.Tensor, labels: tf.Tensor, stop_gradient: bool) -> Joined:
    """Gathers embeddings `[B, D]` and labels `[B]`, of whichever B on each replica.

    Unless stopped, the gradient of an embedding is that of the sum of the replicas' losses.
    """
    own_id = tf.cast(_own_id(), tf.int64)  # as labels may be on another replica
    tags = tf.stack([tf.cast(labels, tf.int64), tf.fill(tf.shape(labels), own_id)], axis=1)
    # TensorFlow gathers nothing where no replica has a row. With a spare one each it does.
    tags = gather(tf.pad(tags, [[0, 1], [0, 0]], constant_values=-1))
    rows = gather(tf.pad(embeds, [[0, 1], [0, 0]]), stop_gradient)
    with tf.control_dependencies([tags, rows]):  # No check may fail while the other is under way.
        tags, rows = tf.identity(tags), tf.identity(rows)
    places = _where(tags[:, 1] >= 0)
    tags, rows = tf.gather(tags, places), tf.gather(rows, places)
    return Joined(rows, labels=tags[:, 0], own=_where(tf.equal(tags[:, 1], own_id)))


def gather(value: tf.Tensor, stop_gradient: bool = True) -> tf.Tensor:
    """Concatenates what the replicas have, by its first axis."""
    # In a graph of TensorFlow 1 a gather whose gradient is wanted fails on what other replicas
    # computed from variables.
    value = tf.stop_gradient(value) if stop_gradient else value
    # TensorFlow gathers no bfloat16, of which float32 keeps every bit, and no bool.
    sent = {tf.bfloat16: tf.float32, tf.bool: tf.int32}.get(value.dtype, value.dtype)
    gathered = distribute.get_replica_context().all_gather(tf.cast(value, sent), axis=0)
    # What is static is lost in a gather, and its gradient takes no IndexedSlices.
    return tf.cast(tf.reshape(gathered, [-1] + value.shape.as_list()[1:]), value.dtype)


def _own_id() -> Any:
    return distribute.get_replica_context().replica_id_in_sync_group


def _where(condition: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.where(condition), [-1])
