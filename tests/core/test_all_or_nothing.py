"""After any error nothing has been written, in no shard, whichever of them the error concerns.

The copies of replicas are in replica_shapes_program.py.
"""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import initialized_session, state_bits

import tf_centers

CLASSES, DIMS, ROWS = 12, 3, 24
SHARDS = pytest.mark.parametrize("shards", [2, 3])
LOCKING = pytest.mark.parametrize("locking", [False, True], ids=["unlocked", "locked"])
LABELS = np.arange(ROWS) % CLASSES


class BadWhereMany(tf_centers.Updater):
    """Weights that are bad for a class with more than two rows in the batch."""

    def __init__(self, bad, needs_counts=False):
        self.bad, self.needs_counts = bad, needs_counts

    def row_weights(self, rows):
        factor = rows.seen / rows.seen if self.needs_counts else 1.0
        return tf.where(rows.sizes > 2.5, self.bad + 0 * rows.sizes, factor / rows.sizes)


def make_shards(shards, use_resource):
    with tf.variable_scope(
        "", partitioner=tf.fixed_size_partitioner(shards), use_resource=use_resource
    ):
        return tf_centers.create_embed_centers(CLASSES, DIMS, initial_counts=1)


def parts(centers):
    return list(centers.ctrs) + list(centers.counts)


@SHARDS
@LOCKING
@pytest.mark.parametrize("call", ["get", "get before", "update", "switch"])
@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_bad_weights_in_one_shard(bad, call, locking, shards, use_resource):
    centers = make_shards(shards, use_resource)
    labels = tf.placeholder(tf.int64, [None])
    how = dict(centers=centers, use_locking=locking, updater=BadWhereMany(bad, "before" in call))
    embeds = tf.ones([ROWS, DIMS])
    if call == "update":
        result = tf_centers.update_embed_centers(embeds, labels, **how)
    else:
        how["read"] = "before" if "before" in call else "after"
        how["is_training"] = tf.placeholder_with_default(True, []) if "switch" in call else True
        result = tf_centers.get_embed_centers(embeds, labels, **how)
    with initialized_session() as session:
        for shard in range(shards):
            before = state_bits(session, *parts(centers))
            with pytest.raises(tf.errors.InvalidArgumentError, match="row_weights"):
                session.run(result, {labels: one_thrice(shard * CLASSES // shards)})
            assert state_bits(session, *parts(centers)) == before
        session.run(result, {labels: LABELS})
        assert session.run(list(centers.counts))[0].tolist() == [3] * (CLASSES // shards)


def one_thrice(label):
    """Two rows of each class, but three of this one and one of its neighbour."""
    labels = LABELS.copy()
    labels[np.flatnonzero(labels == label ^ 1)[0]] = label
    return labels


@SHARDS
@LOCKING
@pytest.mark.parametrize("variable", ["ctrs", "counts"])
@pytest.mark.parametrize("updater", [None, tf_centers.CumulativeMean()], ids=["window", "mean"])
def test_a_shard_that_is_shorter_at_run_time(updater, variable, locking, shards):
    """As after restoring a checkpoint of fewer classes into a resource variable."""
    centers = make_shards(shards, True)
    labels = tf.placeholder(tf.int64, [None])
    result = tf_centers.update_embed_centers(
        tf.ones([ROWS, DIMS]), labels, updater, centers, use_locking=locking
    )
    resize = []
    for shard in getattr(centers, variable):
        size = shard.shape.as_list()
        for rows in (size[0] - 1, size[0]):
            value = tf.zeros([rows] + size[1:], shard.dtype)
            value = tf.placeholder_with_default(value, None)
            resize.append(tf.raw_ops.AssignVariableOp(resource=shard.handle, value=value))
    with initialized_session() as session:
        for shard in range(shards):
            session.run(resize[2 * shard])
            before = state_bits(session, *parts(centers))
            with pytest.raises(tf.errors.InvalidArgumentError, match="update_embed_centers"):
                session.run(result, {labels: LABELS})
            assert state_bits(session, *parts(centers)) == before
            session.run(resize[2 * shard + 1])
        session.run(result, {labels: LABELS})


@SHARDS
@LOCKING
def test_an_embedding_that_is_not_finite(locking, shards, use_resource):
    centers = make_shards(shards, use_resource)
    embeds = tf.placeholder(tf.float32, [None, DIMS])
    result = tf_centers.get_embed_centers(
        embeds, LABELS, tf_centers.CumulativeMean(), centers, use_locking=locking
    )
    with initialized_session() as session:
        before = state_bits(session, *parts(centers))
        for row in range(0, ROWS, 4):
            batch = np.ones([ROWS, DIMS])
            batch[row, 1] = np.nan
            with pytest.raises(tf.errors.InvalidArgumentError, match="finite"):
                session.run(result, {embeds: batch})
            assert state_bits(session, *parts(centers)) == before
