"""What a call has read stays what it read, whatever runs later, or meanwhile, in the same step."""

import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from documents import LOSSES
from helpers import C, D, initialized_session, make_batch, make_centers

import tf_centers

GUIDE = {}
for block in re.findall(
    r"^```python\n(.*?)^```$", LOSSES.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
):
    exec(block, GUIDE)
SHARDS = pytest.mark.parametrize("shards", [None, 3])
READS = {
    "lookup": lambda embeds, labels: tf_centers.lookup_embed_centers(labels),
    "nearest labels": lambda embeds, labels: tf_centers.nearest_centers(embeds, k=3).labels,
    "nearest distances": lambda embeds, labels: tf_centers.nearest_centers(embeds).distances,
    "distances": lambda embeds, labels: tf_centers.center_distances(embeds),
    "before": lambda embeds, labels: tf_centers.get_embed_centers(embeds, labels, read="before"),
    "after": lambda embeds, labels: tf_centers.get_embed_centers(embeds, labels),
    "no update": lambda embeds, labels: tf_centers.get_embed_centers(
        embeds, labels, is_training=False
    ),
}


def make_seen(ctrs, use_resource, shards=None):
    """A table in which every class counts as seen."""
    how = dict(dtype=ctrs.dtype, initializer=ctrs, initial_counts=1)
    return make_centers(tf_centers, use_resource, *ctrs.shape, shards, **how)


def read_table(classes):
    return tf_centers.lookup_embed_centers(tf.range(classes))


@SHARDS
@pytest.mark.parametrize("read", list(READS))
def test_a_result_is_a_copy(read, shards, use_resource):
    make_seen(np.random.RandomState(3).randn(C, D).astype(np.float32), use_resource, shards)
    embeds, labels = make_batch(0)
    embeds, labels = tf.constant(embeds, tf.float32), tf.constant(labels)
    result = READS[read](embeds, labels)
    with tf.control_dependencies([result]):
        old = read_table(C)
        with tf.control_dependencies([old]):
            update = tf_centers.update_embed_centers(
                50 + 9 * embeds, labels, tf_centers.WenUpdate(1.0), use_locking=True
            )
    with tf.control_dependencies([update]):
        later, new = tf.identity(result), read_table(C)
    init = tf.global_variables_initializer()
    with initialized_session() as session:
        expected = session.run(result)
        session.run(init)
        found, kept, old, new = session.run([result, later, old, new])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(kept, expected)
    assert np.abs(new - old).max() > 10


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize("gradient_last", [False, True])
def test_the_gradient_is_that_of_the_centers_that_were_read(
    gradient_last, shards, use_resource, monkeypatch
):
    """In `train_with_centers` of docs/losses.md, in both orders that it leaves open."""
    make_seen(np.array([[0.0], [8.0]]), use_resource, shards)
    updates, update = [], tf_centers.update_embed_centers

    def recorded(*args):
        updates.append(update(*args))
        return updates[-1]

    class Optimizer(tf.train.GradientDescentOptimizer):
        def minimize(self, loss):
            with tf.control_dependencies(updates if gradient_last else []):
                return super().minimize(loss)

    monkeypatch.setattr(tf_centers, "update_embed_centers", recorded)
    variable = tf.get_variable("x", initializer=np.array([[2.0]]), use_resource=use_resource)
    embeds = tf.zeros([1, 1], tf.float64) + variable
    loss = tf.reduce_sum(tf_centers.center_distances(embeds))
    updater = tf_centers.WenUpdate(1.0)
    step = GUIDE["train_with_centers"](loss, embeds, [0], updater, "embed", Optimizer(0.125))
    table = read_table(2)
    x, ctrs = 2.0, np.array([0.0, 8.0])
    with initialized_session() as session:
        for _ in range(3):
            session.run(step)
            gradient = 2 * (x - ctrs).sum()
            ctrs[0] += 0.5 * (x - ctrs[0])
            x -= 0.125 * gradient
            np.testing.assert_allclose(session.run(variable), [[x]])
            np.testing.assert_allclose(session.run(table)[:, 0], ctrs)


@pytest.mark.parametrize("locking", [False, True])
def test_the_rate_that_is_checked_is_the_rate_that_is_used(locking, use_resource):
    """Whoever assigns its variable in the middle of an update."""
    centers = make_centers(tf_centers, use_resource, 3, 1)
    rate = tf.get_variable(
        "rate", initializer=tf.constant(0.5, tf.float64), use_resource=use_resource
    )
    slow = tf.random_uniform([300, 300])
    for _ in range(8):
        slow = tf.matmul(slow, slow) * 1e-3
    with tf.control_dependencies([slow]):
        assigned = tf.assign(rate, 5.0)
    with tf.control_dependencies([assigned]):
        labels = tf.identity(tf.constant([1]))
    window = tf_centers.ExponentialWindow(rate)
    rows = tf_centers.get_embed_centers([[6.0]], labels, window, centers, use_locking=locking)
    init = tf.global_variables_initializer()
    with initialized_session() as session:
        for _ in range(5):
            session.run(init)
            try:
                assert session.run(rows) == 3.0
            except tf.errors.InvalidArgumentError as error:
                assert "[0, 1]" in str(error) and not session.run(centers.ctrs).any()
