"""Updates of one table that run at the same time: exact with the lock, warned of without it."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import make_centers

import tf_centers

MEAN = tf_centers.CumulativeMean()
LOCK = {"use_locking": True}


def _update(centers, **how):
    return tf_centers.update_embed_centers([[1.0, 2.0]], [1], MEAN, centers, **how)


def _of_overlap(texts):
    return [text for text in texts if "use_locking=True" in text]


def test_one_update_beside_lookups_is_fine(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource, 3, 2)
    _update(centers)
    tf_centers.lookup_embed_centers([1], centers)
    tf_centers.get_embed_centers([[1.0, 2.0]], [1], centers=centers, is_training=False)
    tf_centers.nearest_centers([[1.0, 2.0]], centers)
    other = make_centers(tf_centers, use_resource, 3, 2, scope="other")
    _update(other)
    with tf.Graph().as_default():
        _update(make_centers(tf_centers, use_resource, 3, 2))
    assert not _of_overlap(warnings)


@pytest.mark.parametrize("calls", [[{}, {}], [LOCK, {}], [{}, LOCK]], ids=str)
def test_a_second_update_is_warned_of_once(calls, use_resource, warnings):
    centers = make_centers(tf_centers, use_resource, 3, 2)
    for how in calls + [{}]:
        _update(centers, **how)
    (text,) = _of_overlap(warnings)
    assert text.startswith("update_embed_centers: ") and "embed/ctrs" in text


def test_updates_that_lock_are_fine(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource, 3, 2)
    for _ in range(3):
        _update(centers, **LOCK)
    assert not _of_overlap(warnings)


def test_a_call_that_fails_is_no_update(warnings):
    centers = make_centers(tf_centers, True, 3, 2)
    with pytest.raises(NotImplementedError):
        tf_centers.update_embed_centers([[1.0, 2.0]], [1], tf_centers.Updater(), centers)
    _update(centers)
    assert not _of_overlap(warnings)


@pytest.mark.parametrize("shards", [0, 2])
def test_a_table_on_a_parameter_server_is_warned_of(shards, use_resource, warnings):
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    cluster = tf.train.ClusterSpec({"ps": ["localhost:1"], "worker": ["localhost:2"]})
    for how in (LOCK, {}):
        with tf.Graph().as_default(), tf.device(tf.train.replica_device_setter(cluster=cluster)):
            with tf.variable_scope("", partitioner=partitioner, use_resource=use_resource):
                centers = tf_centers.create_embed_centers(4, 2)
            _update(centers, **how)
            assert len(_of_overlap(warnings)) == (0 if how else 1)
    assert "embed/ctrs" in _of_overlap(warnings)[0]


@pytest.mark.eager
def test_no_warning_where_updates_wait_for_each_other(warnings):
    with tf.init_scope():
        if not tf.executing_eagerly():
            pytest.skip("needs eager execution")
    centers = tf_centers.EmbedCenters(tf.Variable(tf.zeros([3, 2])), tf.Variable([0, 0, 0]))
    _update(centers._replace(counts=tf.Variable(tf.zeros([3], tf.int64))))
    assert not _of_overlap(warnings)


@pytest.mark.parametrize("classes", [10, 3000])
def test_two_towers_lose_no_row(classes, use_resource):
    rng, steps = np.random.RandomState(classes), 60
    with tf.device("/device:CPU:0"):
        centers = make_centers(tf_centers, use_resource, classes, 4, dtype=tf.float64)
    embeds = tf.placeholder(tf.float64, [2, None, 4])
    labels = tf.placeholder(tf.int64, [2, None])
    towers = []
    for place in range(2):
        with tf.device(f"/device:CPU:{place}"):
            towers.append(
                tf_centers.get_embed_centers(
                    embeds[place], labels[place], MEAN, centers, use_locking=True
                )
            )
    sums, counts = np.zeros([classes, 4]), np.zeros(classes, int)
    # Few classes, so that both towers have rows of each.
    present = rng.choice(classes, 10, replace=False)
    config = tf.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=False)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        for _ in range(steps):
            batch = rng.randn(2, 64, 4)
            batch_labels = rng.choice(present, [2, 64])
            session.run(towers, {embeds: batch, labels: batch_labels})
            np.add.at(sums, batch_labels.ravel(), batch.reshape(-1, 4))
            np.add.at(counts, batch_labels.ravel(), 1)
        ctrs, found = session.run(list(centers))
    np.testing.assert_array_equal(found, counts)
    np.testing.assert_allclose(
        ctrs[present], sums[present] / counts[present, None], rtol=0, atol=1e-12
    )
