"""The center loss and its gradient."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import check_refused

import tf_centers

X = [[1.0, 2.0, 3.0], [4.0, -1.0, 0.5]]
CTRS = [[0.0, 4.0, 3.0], [4.0, 2.0, 1.5]]
# 0.5 * (1 + 4 + 0) and 0.5 * (0 + 9 + 1)
EXPECTED = [2.5, 5.0]
B, T, D = 4, 3, 5


@pytest.mark.parametrize(
    "dtype, ctrs_dtype, wider, shape",
    [
        (tf.float16, tf.float16, tf.float16, [2, 3]),
        (tf.float16, tf.bfloat16, tf.float32, None),
        (tf.bfloat16, tf.float32, tf.float32, [None, None]),
        (tf.float32, tf.float32, tf.float32, [None, 3]),
        (tf.float64, tf.float16, tf.float64, None),
        (tf.float32, tf.float64, tf.float64, [None, 3]),
    ],
)
def test_loss_and_gradient_by_hand(dtype, ctrs_dtype, wider, shape, session):
    x, ctrs = tf.placeholder(dtype, shape), tf.placeholder(ctrs_dtype, [None, 3])
    loss = tf_centers.center_loss(x, ctrs)
    gradients = tf.gradients(loss, [x, ctrs])
    assert loss.dtype == wider and loss.shape.ndims == 1 and gradients[1] is None
    found, gradient = session.run([loss, gradients[0]], {x: X, ctrs: CTRS})
    assert found.tolist() == EXPECTED
    assert gradient.astype(np.float64).tolist() == [[1.0, -2.0, 0.0], [0.0, -3.0, -1.0]]


def test_half_precision_does_not_overflow_on_the_way(session):
    # 0.5 * (300^2 - 2 * 299 * 300 + ...) is small, and 300^2 is beyond float16.
    x, ctrs = tf.constant([[300.0] * 2], tf.float16), tf.constant([[44.0, 299.0]], tf.float16)
    # 0.5 * (256^2 + 1) = 32768.5, which float16 rounds to 32768
    assert session.run(tf_centers.center_loss(x, ctrs)).tolist() == [32768.0]


@pytest.mark.parametrize("shapes", [([None, None, D], [B, T, D]), ([None, T, D], None)], ids=str)
def test_three_axes(shapes, session):
    embeds, rows = np.random.RandomState(0).randn(2, B, T, D).astype(np.float32)
    held = [tf.placeholder(tf.float32, shape) for shape in shapes]
    loss = tf_centers.center_loss(*held)
    gradient, none = tf.gradients(loss, held)
    assert none is None and loss.shape.is_compatible_with([B, T]) and loss.shape.ndims == 2
    found = session.run([loss, gradient], dict(zip(held, (embeds, rows))))
    np.testing.assert_allclose(found[0], 0.5 * ((embeds - rows) ** 2).sum(2), rtol=1e-5)
    np.testing.assert_allclose(found[1], embeds - rows, rtol=1e-6)
    if shapes[1] != [B, T, D]:
        feed = dict(zip(held, (embeds, rows[:, :1])))
        check_refused(session, loss, feed, "center_loss: expected embed_batch")


def test_shapes_that_differ_at_run_time(session):
    x, ctrs = tf.placeholder(tf.float32), tf.placeholder(tf.float32)
    loss = tf_centers.center_loss(x, ctrs)
    for shape in ([1, D], [B, 1], [B + 1, D]):
        feed = {x: np.zeros([B, D]), ctrs: np.zeros(shape)}
        check_refused(session, loss, feed, "center_loss: expected embed_batch")
