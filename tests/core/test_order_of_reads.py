"""What a call has read stays what it read, whatever runs later, or meanwhile, in the same step."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import C, D, make_batch, make_centers, slow_zero

import tf_centers

READS = {
    "no update": lambda *batch: [
        tf_centers.lookup_embed_centers(batch[1]),
        tf_centers.nearest_centers(batch[0], k=3).labels,
        tf_centers.nearest_centers(batch[0], k=3).distances,
        tf_centers.center_distances(batch[0]),
        tf_centers.get_embed_centers(*batch, is_training=False),
    ],
    "before": lambda *batch: [tf_centers.get_embed_centers(*batch, read="before")],
    "after": lambda *batch: [tf_centers.get_embed_centers(*batch)],
}


def make_seen(ctrs, use_resource, shards=None):
    """A table in which every class counts as seen."""
    how = dict(dtype=ctrs.dtype, initializer=ctrs, initial_counts=1)
    return make_centers(tf_centers, use_resource, *ctrs.shape, shards, **how)


def read_table(classes):
    return tf_centers.lookup_embed_centers(tf.range(classes))


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("reads", list(READS))
def test_a_result_is_a_copy(reads, shards, use_resource, session):
    make_seen(np.random.RandomState(3).randn(C, D).astype(np.float32), use_resource, shards)
    embeds, labels = make_batch(0)
    embeds, labels = tf.constant(embeds, tf.float32), tf.constant(labels)
    results = READS[reads](embeds, labels)
    with tf.control_dependencies(results):
        old = read_table(C)
        with tf.control_dependencies([old]):
            update = tf_centers.update_embed_centers(
                50 + 9 * embeds, labels, tf_centers.WenUpdate(1.0), use_locking=True
            )
    with tf.control_dependencies([update]):
        later, new = [tf.identity(result) for result in results], read_table(C)
    init = tf.global_variables_initializer()
    expected = session.run(results)
    session.run(init)
    found, kept, old, new = session.run([results, later, old, new])
    for values in (found, kept):
        for value, other in zip(values, expected):
            np.testing.assert_array_equal(value, other)
    assert np.abs(new - old).max() > 10


@pytest.mark.parametrize("gradient_last, shards", [(False, None), (True, None), (True, 2)])
def test_the_gradient_is_that_of_the_centers_that_were_read(
    gradient_last, shards, use_resource, session
):
    """Whatever update is ordered between the loss and its gradient."""
    make_seen(np.array([[0.0], [8.0]]), use_resource, shards)
    embeds = tf.placeholder(tf.float64, [1, 1])
    loss = tf.reduce_sum(tf_centers.center_distances(embeds))
    with tf.control_dependencies([loss]):
        update = tf_centers.update_embed_centers(embeds, [0], tf_centers.WenUpdate(1.0))
    with tf.control_dependencies([update] if gradient_last else []):
        (gradient,) = tf.gradients(loss, embeds)
    table, x, ctrs = read_table(2), 2.0, np.array([0.0, 8.0])
    for _ in range(3):
        found, slope, _ = session.run([loss, gradient, update], {embeds: [[x]]})
        np.testing.assert_allclose(found, np.sum((x - ctrs) ** 2))
        np.testing.assert_allclose(slope, [[2 * np.sum(x - ctrs)]])
        ctrs[0] += 0.5 * (x - ctrs[0])
        np.testing.assert_allclose(session.run(table)[:, 0], ctrs)


@pytest.mark.parametrize("locking", [False, True])
def test_the_rate_that_is_checked_is_the_rate_that_is_used(locking, use_resource, session):
    """Whoever assigns its variable in the middle of an update."""
    centers = make_centers(tf_centers, use_resource, 3, 1)
    half = tf.constant(0.5, tf.float64)
    rate = tf.get_variable("rate", initializer=half, use_resource=use_resource)
    with tf.control_dependencies([slow_zero()]):
        assigned = tf.assign(rate, 5.0)
    with tf.control_dependencies([assigned]):
        labels = tf.identity(tf.constant([1]))
    window = tf_centers.ExponentialWindow(rate)
    rows = tf_centers.get_embed_centers([[6.0]], labels, window, centers, use_locking=locking)
    init = tf.global_variables_initializer()
    for _ in range(5):
        session.run(init)
        try:
            assert session.run(rows) == 3.0
        except tf.errors.InvalidArgumentError as error:
            assert "[0, 1]" in str(error) and not session.run(centers.ctrs).any()
