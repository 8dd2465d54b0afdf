"""The networks of the training script: their layers, and batch normalisation held against NumPy."""

import os
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import initialized_session

sys.path.insert(
    0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
)

import mnist_network  # noqa: E402

IMAGES = np.random.RandomState(0).randint(0, 256, (6, 28, 28)).astype(np.uint8)


def embed(network, images=IMAGES, embed_dims=2, is_training=False):
    return mnist_network.embed_images(
        network, tf.constant(images), embed_dims, tf.constant(is_training), tf.constant(0)
    )


def shapes(name):
    return [v.shape.as_list() for v in tf.trainable_variables() if v.op.name.endswith(name)]


def test_lenet_pp_has_the_layers_of_the_paper():
    embeddings = embed("lenet_pp")
    assert shapes("kernel") == [
        [5, 5, 1, 32], [5, 5, 32, 32],
        [5, 5, 32, 64], [5, 5, 64, 64],
        [5, 5, 64, 128], [5, 5, 128, 128],
        [4 * 4 * 128, 2],
    ]  # fmt: skip
    assert shapes("slope") == [[32], [32], [64], [64], [128], [128]]
    assert not tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    # Each stage: convolution, activation, convolution, activation, pooling.
    order = [
        op.type
        for op in tf.get_default_graph().get_operations()
        if op.type in ("Conv2D", "Minimum", "MaxPool")
    ]
    assert order == ["Conv2D", "Minimum", "Conv2D", "Minimum", "MaxPool"] * 3
    with initialized_session() as session:
        assert session.run(embeddings).shape == (6, 2)


def test_prelu():
    raw = tf.constant([[-4.0, 8.0, -0.5]])
    activated = mnist_network._prelu(raw)
    gradient = tf.gradients(activated, tf.global_variables())
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(activated), [[-1.0, 8.0, -0.125]])
        np.testing.assert_allclose(session.run(gradient), [[-4.0, 0.0, -0.5]])


@pytest.mark.parametrize("network", ["light", "lenet_pp"])
@pytest.mark.parametrize("size", [(1, 1), (8, 7), (32, 20)])
@pytest.mark.parametrize("is_training", [False, True])
def test_any_image_size(network, size, is_training):
    images = np.random.RandomState(1).randint(0, 256, (3,) + size).astype(np.uint8)
    embeddings = embed(network, images, embed_dims=5, is_training=is_training)
    assert embeddings.shape.as_list()[1] == 5
    with initialized_session() as session:
        found = session.run(embeddings)
    assert found.shape == (3, 5) and np.isfinite(found).all()


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (7, 5)], ids=["maps", "rows"])
def test_batch_normalization(shape):
    random = np.random.RandomState(2)
    first, second = (scale * random.randn(*shape) + np.arange(shape[-1]) for scale in (3.0, 0.5))
    raw, is_training = tf.placeholder(tf.float32, shape), tf.placeholder(tf.bool, [])
    step = tf.placeholder_with_default(0, [])
    normalized = mnist_network._normalize(raw, is_training, step)
    follow = tf.get_collection(tf.GraphKeys.UPDATE_OPS)

    def moments_of(batch, ddof):
        rows = batch.reshape(-1, shape[-1])
        return np.array([rows.mean(axis=0), rows.var(axis=0, ddof=ddof)])

    def check(session, batch, moments, training):
        found = session.run(normalized, {raw: batch, is_training: training})
        expected = (batch - moments[0]) / np.sqrt(moments[1] + 1e-3)
        np.testing.assert_allclose(found, expected, atol=2e-5)

    with initialized_session() as session:
        check(session, first, moments_of(first, 0), training=True)
        check(session, first, np.array([np.zeros(5), np.ones(5)]), training=False)
        # The first step forgets these; step 15 moves by 5 / (5 + 15), a late one by 1 / 100.
        session.run(follow, {raw: first, is_training: True})
        moments = moments_of(first, 1)
        check(session, second, moments, training=False)
        for n, rate in ((15, 0.25), (10000, 0.01)):
            session.run(follow, {raw: second, is_training: True, step: n})
            moments += rate * (moments_of(second, 1) - moments)
            check(session, first, moments, training=False)
            check(session, second, moments_of(second, 0), training=True)
        session.run(follow, {raw: second, is_training: False})
        check(session, first, moments, training=False)


def test_light_normalizes_every_hidden_layer_and_not_the_embedding():
    embed("light")
    names = [v.op.name.split("/")[0] for v in tf.trainable_variables() if "scale" in v.op.name]
    assert names == ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "hidden"]
    assert len(tf.get_collection(tf.GraphKeys.UPDATE_OPS)) == 2 * len(names)
