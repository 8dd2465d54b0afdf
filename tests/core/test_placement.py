"""Graphs as users place, debug and restore them."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, check_refused, initialized_session, make_centers
from updaters import UPDATERS

import tf_centers


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
            MEAN,
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
@pytest.mark.parametrize("name", sorted(UPDATERS))
@pytest.mark.parametrize("short", ["ctrs", "counts"])
def test_nothing_is_written_where_one_variable_is_short(short, name, call):
    """A checkpoint of fewer classes restores into a resource variable, and nothing says so."""
    centers = make_centers(tf_centers, True, 7, 2, count_dtype=UPDATERS[name].count_dtype)
    variable = getattr(centers, short)
    value = tf.placeholder(variable.dtype)
    shorter = tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    labels = tf.placeholder(tf.int64, [None])
    result = call(np.ones([2, 2]), labels, UPDATERS[name].updater, centers)
    with initialized_session() as session:
        session.run(shorter, {value: np.zeros([5, 2] if short == "ctrs" else [5])})
        message = f"(?s){call.__name__}: " + r"expected every label in \[0, 7\).*\[6\].*\[5\]"
        check_refused(session, result, {labels: [1, 6]}, message, *centers)
        session.run(result, {labels: [1, 4]})
        assert session.run(centers.counts)[[1, 4]].tolist() == [1, 1]


def test_a_switch_or_a_rate_that_is_no_scalar(use_resource):
    centers = make_centers(tf_centers, use_resource, 7, 2)
    training, decay = tf.placeholder(tf.bool), tf.placeholder(tf.float32)
    rows = tf_centers.get_embed_centers(
        np.ones([2, 2]), [1, 6], tf_centers.ExponentialWindow(decay), centers, is_training=training
    )
    with initialized_session() as session:
        for feed, name in (
            ({training: [True, True], decay: 0.5}, "is_training"),
            ({training: True, decay: [0.5]}, "decay"),
        ):
            message = rf"get_embed_centers: expected {name} of shape \[\], found shape"
            check_refused(session, rows, feed, message, *centers)
        session.run(rows, {training: True, decay: 0.5})


def test_no_table_crosses_to_the_device_of_the_batch(use_resource):
    classes, found = 97, set()
    with tf.device("/device:CPU:1"):
        centers = make_centers(tf_centers, use_resource, classes, 3)
    with tf.device("/device:CPU:0"):
        rows = tf_centers.get_embed_centers(np.ones([2, 3]), [1, 96], MEAN, centers)
        lookup = tf_centers.lookup_embed_centers([1, 2], centers)
    trace, stats = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), tf.RunMetadata()
    with tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
        session.run(tf.global_variables_initializer())
        session.run([rows, lookup], options=trace, run_metadata=stats)
    for device in stats.step_stats.dev_stats:
        for node in device.node_stats:
            for output in node.output:
                sizes = [axis.size for axis in output.tensor_description.shape.dim]
                found.add((device.device[-1], classes in sizes))
    assert {("0", False), ("1", False)} <= found and ("0", True) not in found
