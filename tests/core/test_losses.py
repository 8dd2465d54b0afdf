"""The center loss and its gradient."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import tf_centers

X = [[1.0, 2.0, 3.0], [4.0, -1.0, 0.5]]
CTRS = [[0.0, 4.0, 3.0], [4.0, 2.0, 1.5]]
# 0.5 * (1 + 4 + 0) and 0.5 * (0 + 9 + 1)
EXPECTED = [2.5, 5.0]


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("shape", [[2, 3], [None, 3], [2, None], [None, None], None])
def test_loss_and_gradient_by_hand(dtype, shape):
    x, ctrs = tf.placeholder(dtype, shape), tf.placeholder(tf.float32, [None, 3])
    loss = tf_centers.center_loss(x, ctrs)
    gradients = tf.gradients(loss, [x, ctrs])
    wider = tf.float64 if dtype == tf.float64 else tf.float32
    assert loss.dtype == wider and loss.shape.ndims == 1 and gradients[1] is None
    with tf.Session() as session:
        feed = {x: np.array(X).astype(dtype.as_numpy_dtype), ctrs: CTRS}
        found, gradient = session.run([loss, gradients[0]], feed)
    assert found.tolist() == EXPECTED
    assert gradient.astype(np.float64).tolist() == [[1.0, -2.0, 0.0], [0.0, -3.0, -1.0]]


@pytest.mark.parametrize(
    "one, other, expected",
    [
        (tf.float16, tf.float16, tf.float16),
        (tf.float16, tf.bfloat16, tf.float32),
        (tf.float16, tf.float32, tf.float32),
        (tf.float64, tf.float16, tf.float64),
    ],
)
def test_dtype_is_the_wider(one, other, expected):
    loss = tf_centers.center_loss(tf.constant(X, one), tf.constant(CTRS, other))
    with tf.Session() as session:
        found = session.run(loss)
    assert loss.dtype == expected and found.tolist() == EXPECTED


def test_half_precision_does_not_overflow_on_the_way():
    # 0.5 * (300^2 - 2 * 299 * 300 + ...) is small, and 300^2 is beyond float16.
    x, ctrs = tf.constant([[300.0] * 2], tf.float16), tf.constant([[44.0, 299.0]], tf.float16)
    with tf.Session() as session:
        # 0.5 * (256^2 + 1) = 32768.5, which float16 rounds to 32768
        assert session.run(tf_centers.center_loss(x, ctrs)).tolist() == [32768.0]


def test_empty():
    with tf.Session() as session:
        loss = tf_centers.center_loss(tf.zeros([0, 3]), tf.zeros([0, 3]))
        assert session.run(loss).shape == (0,)
