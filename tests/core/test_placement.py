"""Graphs as users place, debug and restore them."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import initialized_session, make_centers, make_ctrs, state_bits

import tf_centers

UPDATERS = [None, tf_centers.CumulativeMean(), tf_centers.WenUpdate()]
UPDATERS += [tf_centers.ExponentialWindow(0.9, debias=True)]


@pytest.mark.parametrize("training", [True, False, "tensor"])
@pytest.mark.parametrize("locking", [False, True])
@pytest.mark.parametrize("table, batch", [(1, 0), (0, 1), (1, 1)])
def test_without_soft_placement(table, batch, locking, training, use_resource, control_flow):
    with tf.device(f"/device:CPU:{table}"):
        centers = make_centers(tf_centers, use_resource, 7, 3)
    with tf.device(f"/device:CPU:{batch}"):
        rows = tf_centers.get_embed_centers(
            np.ones([4, 3]),
            [1, 2, 2, 6],
            tf_centers.CumulativeMean(),
            centers,
            mask=[True, True, True, False],
            use_locking=locking,
            is_training=tf.placeholder_with_default(True, []) if training == "tensor" else training,
        )
        found = tf_centers.lookup_embed_centers([1, 2], centers)
    config = tf.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=False)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        session.run(rows)
        expected = np.zeros([2, 3]) if training is False else np.ones([2, 3])
        np.testing.assert_array_equal(session.run(found), expected)


@pytest.mark.parametrize("call", [tf_centers.get_embed_centers, tf_centers.update_embed_centers])
def test_labels_are_held_against_the_table_as_it_is(call, tmp_path):
    """A checkpoint of fewer classes restores into a resource variable, and nothing says so."""
    path = str(tmp_path / "model")
    with tf.Graph().as_default():
        make_ctrs(True, [100, 2], initial=np.ones([100, 2]))
        saver = tf.train.Saver()
        with initialized_session() as session:
            saver.save(session, path)
    ctrs = make_ctrs(True, [120, 2])
    saver = tf.train.Saver([ctrs])
    centers = tf_centers.EmbedCenters(
        ctrs, tf.get_variable("n", [120], tf.int64, tf.zeros_initializer(), use_resource=True)
    )
    labels = tf.placeholder(tf.int64, [None])
    result = call(np.ones([2, 2]), labels, tf_centers.CumulativeMean(), centers)
    with initialized_session() as session:
        saver.restore(session, path)
        before = state_bits(session, *centers)
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            session.run(result, {labels: [1, 119]})
        message = str(caught.value)
        assert call.__name__ + ": expected every label in [0, 120), found" in message
        assert "[119]" in message and "[100]" in message
        assert state_bits(session, *centers) == before
        session.run(result, {labels: [1, 99]})
        assert session.run(centers.counts)[[1, 99]].tolist() == [1, 1]


@pytest.mark.parametrize("updater", UPDATERS, ids=repr)
@pytest.mark.parametrize("short", ["ctrs", "counts"])
def test_nothing_is_written_where_one_variable_is_short(short, updater):
    centers = make_centers(tf_centers, True, 7, 2)
    variable = getattr(centers, short)
    value = tf.placeholder(variable.dtype)
    shorter = tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    update = tf_centers.update_embed_centers(np.ones([2, 2]), [1, 6], updater, centers)
    with initialized_session() as session:
        session.run(shorter, {value: np.zeros([5, 2] if short == "ctrs" else [5])})
        before = state_bits(session, *centers)
        with pytest.raises(tf.errors.InvalidArgumentError, match="update_embed_centers: .*label"):
            session.run(update)
        assert state_bits(session, *centers) == before


@pytest.mark.parametrize("locking", [False, True])
def test_nothing_is_written_where_one_shard_is_short(locking):
    with tf.variable_scope("", partitioner=tf.fixed_size_partitioner(2), use_resource=True):
        centers = tf_centers.create_embed_centers(8, 2)
    last = list(centers.ctrs)[1]
    value = tf.placeholder(tf.float32)
    shorter = tf.raw_ops.AssignVariableOp(resource=last.handle, value=value)
    labels = tf.placeholder(tf.int64, [None])
    update = tf_centers.update_embed_centers(
        np.ones([2, 2]), labels, centers=centers, use_locking=locking
    )
    variables = list(centers.ctrs) + list(centers.counts)
    with initialized_session() as session:
        session.run(shorter, {value: np.zeros([2, 2])})
        before = state_bits(session, *variables)
        message = "update_embed_centers: expected every label in the rows that .*part_1"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            session.run(update, {labels: [1, 7]})
        assert state_bits(session, *variables) == before
        session.run(update, {labels: [1, 5]})
        assert state_bits(session, *variables) != before


def test_a_switch_or_a_rate_that_is_no_scalar(use_resource):
    centers = make_centers(tf_centers, use_resource, 7, 2)
    training, decay = tf.placeholder(tf.bool), tf.placeholder(tf.float32)
    rows = tf_centers.get_embed_centers(
        np.ones([2, 2]),
        [1, 6],
        tf_centers.ExponentialWindow(decay),
        centers,
        is_training=training,
    )
    with initialized_session() as session:
        for feed, name in (
            ({training: [True, True], decay: 0.5}, "is_training"),
            ({training: True, decay: [0.5]}, "decay"),
        ):
            message = f"get_embed_centers: expected {name} to be a scalar, found shape"
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                session.run(rows, feed)
        session.run(rows, {training: True, decay: 0.5})


@pytest.mark.parametrize("shape", [(20,), (4, 5, 1), (4, 1, 5), (2, 2, 5), (1, 4, 5), (4, 6)])
def test_a_wrong_rank_is_refused_without_a_mask(shape, use_resource):
    ctrs = make_ctrs(use_resource, [7, 5])
    embeds, labels = tf.placeholder(tf.float32), tf.placeholder(tf.int64, [None])
    results = [
        tf_centers.get_embed_centers(embeds, labels, use_locking=True),
        tf_centers.update_embed_centers(embeds, labels, use_locking=True),
    ]
    with initialized_session() as session:
        for result, name in zip(results, ["get_embed_centers", "update_embed_centers"]):
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=rf"{name}: expected embed_batch of shape \[B"
            ):
                session.run(result, {embeds: np.ones(shape), labels: [1, 2, 3, 3]})
        assert not session.run(ctrs).any()


@pytest.mark.parametrize(
    "labels, error",
    [
        (tf.float32, TypeError),
        (tf.int32, ValueError),
    ],
)
def test_one_hot_labels_are_told_about_argmax(labels, error):
    make_ctrs(True, [7, 5])
    one_hot = tf.one_hot([1, 2], 7, dtype=labels)
    calls = [
        lambda: tf_centers.get_embed_centers(np.ones([2, 5]), one_hot),
        lambda: tf_centers.update_embed_centers(np.ones([2, 5]), one_hot),
    ]
    if labels == tf.float32:  # of integers these are labels [B, T]
        calls.append(lambda: tf_centers.lookup_embed_centers(one_hot))
    for call in calls:
        with pytest.raises(error, match=r"label_batch .*tf\.argmax\(label_batch, axis=1\)"):
            call()
