"""What a call has read stays what it read, whatever update runs later in the same step."""

import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from documents import LOSSES
from helpers import C, D, make_batch

import tf_centers

GUIDE = {}
for block in re.findall(
    r"^```python\n(.*?)^```$", LOSSES.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
):
    exec(block, GUIDE)
SHARDS = pytest.mark.parametrize("shards", [1, 3])
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


def make_table(shards, use_resource, ctrs, dtype=tf.float32):
    """A table in which every class counts as seen."""
    partitioner = tf.fixed_size_partitioner(shards) if shards > 1 else None
    with tf.variable_scope("", partitioner=partitioner, use_resource=use_resource):
        return tf_centers.create_embed_centers(
            *ctrs.shape, dtype=dtype, initializer=ctrs, initial_counts=1
        )


def read_table(classes):
    return tf_centers.lookup_embed_centers(tf.range(classes))


@SHARDS
@pytest.mark.parametrize("read", list(READS))
def test_a_result_is_a_copy(read, shards, use_resource):
    make_table(shards, use_resource, np.random.RandomState(3).randn(C, D))
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
    with tf.Session() as session:
        session.run(init)
        expected = session.run(result)
        session.run(init)
        found, kept, old, new = session.run([result, later, old, new])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(kept, expected)
    assert np.abs(new - old).max() > 10


@SHARDS
@pytest.mark.parametrize("rows", [32, 256, 2000])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_the_gradient_is_that_of_the_centers_that_were_read(dtype, rows, shards, use_resource):
    """Where an update is ordered between a loss of `center_distances` and its gradient."""
    classes, dims = 50, 16
    rng = np.random.RandomState(rows)
    ctrs, embeds = rng.randn(classes, dims), rng.randn(rows, dims)
    labels, weights = rng.randint(0, classes, rows), rng.randn(rows, classes)
    make_table(shards, use_resource, ctrs, dtype)
    held = tf.placeholder(dtype, [None, dims])
    loss = tf.reduce_sum(weights.astype(dtype.as_numpy_dtype) * tf_centers.center_distances(held))
    with tf.control_dependencies([loss]):
        update = tf_centers.update_embed_centers(held, labels, tf_centers.WenUpdate(1.0))
    with tf.control_dependencies([update]):
        gradient, new = tf.gradients(loss, held)[0], read_table(classes)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for step in range(3):
            batch = embeds + 5 * step + 5
            found, now = session.run([gradient, new], {held: batch})
            expected = 2 * (weights.sum(1, keepdims=True) * batch - weights.dot(ctrs))
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
            assert np.abs(now - ctrs).max() > 1
            ctrs = now


@pytest.mark.parametrize("order", ["free", "update, gradient", "UPDATE_OPS"])
@pytest.mark.parametrize("rows", [32, 256])
def test_the_training_of_the_guide(rows, order, use_resource, monkeypatch):
    """`train_with_centers` of docs/losses.md, in each order that it leaves open."""
    classes, dims, steps = 20, 8, 4
    rng = np.random.RandomState(rows)
    ctrs, embeds = rng.randn(classes, dims), rng.randn(rows, dims)
    labels = rng.randint(0, classes, rows)
    make_table(1, use_resource, ctrs, tf.float64)
    updates, update = [], tf_centers.update_embed_centers

    def recorded(*args):
        updates.append(update(*args))
        return updates[-1]

    class Optimizer(tf.train.GradientDescentOptimizer):
        def minimize(self, loss):
            with tf.control_dependencies([] if order == "free" else updates):
                return super().minimize(loss)

    offset = tf.get_variable("offset", initializer=embeds, use_resource=use_resource)
    batch = tf.zeros([rows, dims], tf.float64) + offset
    loss = tf.reduce_mean(GUIDE["distance_softmax_loss"](batch, tf.constant(labels)))
    how = loss, batch, tf.constant(labels), tf_centers.CumulativeMean(), "embed"
    monkeypatch.setattr(tf_centers, "update_embed_centers", recorded)
    if order == "UPDATE_OPS":
        with tf.control_dependencies([loss]):
            recorded(*how[1:])
        step = Optimizer(0.5 * rows).minimize(loss)
    else:
        step = GUIDE["train_with_centers"](*how, Optimizer(0.5 * rows))
    seen = np.ones(classes)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(steps):
            session.run([step] + updates)
            odds = np.exp(-((embeds[:, None] - ctrs) ** 2).sum(2))
            odds = odds / odds.sum(1, keepdims=True) - np.eye(classes)[labels]
            gradient = 2 * (odds.dot(ctrs) - odds.sum(1, keepdims=True) * embeds)
            for label in range(classes):
                mine = embeds[labels == label]
                ctrs[label] = (seen[label] * ctrs[label] + mine.sum(0)) / (seen[label] + len(mine))
                seen[label] += len(mine)
            embeds = embeds - 0.5 * gradient
            np.testing.assert_allclose(session.run(offset), embeds, rtol=1e-6, atol=1e-6)
