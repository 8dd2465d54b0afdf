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
    copied = isinstance(getattr(variable, "values", None), (tuple, list))
    return int(variable.distribute_strategy.num_replicas_in_sync) if copied else 1


def copies(variable: Any) -> List[Any]:
    """The plain variables on this machine that a variable consists of, one for each replica."""
    values = getattr(variable, "values", None)
    return list(values) if isinstance(values, (tuple, list)) else [variable]


def own_copy(variable: Any) -> Any:
    """The copy of this replica; outside of a replica context the first."""
    found = copies(variable)
    if len(found) == 1 or count_here() == 1:
        return found[0]
    return found[int(tf.get_static_value(_own_id())) % len(found)]


def join(embeds: tf.Tensor, labels: tf.Tensor) -> Joined:
    """Gathers embeddings `[B, D]` and labels `[B]`, of whichever B on each replica."""
    own_id = tf.cast(_own_id(), tf.int64)  # as labels may be on another replica
    tags = tf.stack([tf.cast(labels, tf.int64), tf.fill(tf.shape(labels), own_id)], axis=1)
    # TensorFlow gathers nothing where no replica has a row. With a spare one each it does.
    tags = tf.pad(tags, [[0, 1], [0, 0]], constant_values=-1)
    tags, rows = _gather(tags), _gather(tf.pad(embeds, [[0, 1], [0, 0]]))
    places = _where(tags[:, 1] >= 0)
    tags = tf.reshape(tf.gather(tags, places), [-1, 2])
    rows = tf.reshape(tf.gather(rows, places), [-1, embeds.shape.as_list()[1]])
    return Joined(rows, tags[:, 0], own=_where(tf.equal(tags[:, 1], own_id)))


def gather_scalars(value: tf.Tensor) -> tf.Tensor:
    """The scalars of all replicas, `[replicas]`."""
    return _gather(tf.reshape(value, [1]))


def _gather(value: tf.Tensor) -> tf.Tensor:
    # TensorFlow gathers no bfloat16, of which float32 keeps every bit, and no bool.
    sent = {tf.bfloat16: tf.float32, tf.bool: tf.int32}.get(value.dtype, value.dtype)
    gathered = distribute.get_replica_context().all_gather(tf.cast(value, sent), axis=0)
    return tf.cast(gathered, value.dtype)


def _own_id() -> Any:
    return distribute.get_replica_context().replica_id_in_sync_group


def _where(condition: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.where(condition), [-1])
