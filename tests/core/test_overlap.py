"""Updates of one table that run at the same time: exact with the lock, warned of without it."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D, make_batch, make_centers, read_state
from tf2_code import eager_centers, in_tf2

import tf_centers

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


def test_updates_that_lock_and_one_that_fails_are_fine(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource, 3, 2)
    for _ in range(3):
        _update(centers, **LOCK)
    other = make_centers(tf_centers, use_resource, 3, 2, scope="other")
    with pytest.raises(NotImplementedError):
        tf_centers.update_embed_centers([[1.0, 2.0]], [1], tf_centers.Updater(), other)
    _update(other)
    assert not _of_overlap(warnings)


@pytest.mark.parametrize("shards", [None, 2])
def test_a_table_on_a_parameter_server_is_warned_of(shards, use_resource, warnings):
    cluster = tf.train.ClusterSpec({"ps": ["localhost:1"], "worker": ["localhost:2"]})
    for how in (LOCK, {}):
        with tf.Graph().as_default(), tf.device(tf.train.replica_device_setter(cluster=cluster)):
            centers = make_centers(tf_centers, use_resource, 4, 2, shards)
            _update(centers, **how)
            assert len(_of_overlap(warnings)) == (0 if how else 1)
    assert "embed/ctrs" in _of_overlap(warnings)[0]


@in_tf2
def test_no_warning_where_updates_wait_for_each_other(warnings):
    centers = eager_centers()
    for _ in range(2):
        tf_centers.update_embed_centers(np.ones([1, D]), [1], MEAN, centers)
    assert not _of_overlap(warnings)


@pytest.mark.parametrize("shards", [None, 2])
def test_two_towers_lose_no_row(shards, use_resource):
    with tf.device("/device:CPU:0"):
        centers = make_centers(tf_centers, use_resource, shards=shards, dtype=tf.float64)
    embeds = tf.placeholder(tf.float64, [2, None, D])
    labels = tf.placeholder(tf.int64, [2, None])
    towers, batches = [], []
    for place in range(2):
        with tf.device(f"/device:CPU:{place}"):
            batch = embeds[place], labels[place]
            towers.append(tf_centers.get_embed_centers(*batch, MEAN, centers, use_locking=True))
    config = tf.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=False)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        for step in range(60):
            pair = [make_batch(2 * step, rows=64), make_batch(2 * step + 1, rows=64)]
            session.run(towers, dict(zip((embeds, labels), map(list, zip(*pair)))))
            batches += pair
        ctrs, counts = read_state(session, centers)
    rows, of = (np.concatenate(column) for column in zip(*batches))
    expected = reference.apply(reference.cumulative_mean, np.zeros([C, D]), np.zeros(C), rows, of)
    np.testing.assert_array_equal(counts, expected[1])
    np.testing.assert_allclose(ctrs, expected[0], rtol=0, atol=1e-12)
