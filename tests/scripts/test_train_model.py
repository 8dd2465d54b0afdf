"""The networks of the training script and the measures of their embeddings, against NumPy."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import initialized_session
from mnist.evaluation import class_distances
from mnist.figures import project
from mnist.model import embed_images


def test_lenet_pp_has_the_layers_of_the_paper():
    embed_images("lenet_pp", tf.zeros([6, 28, 28], tf.uint8), 2)
    variables = tf.trainable_variables()
    kernels = [v.shape.as_list() for v in variables if v.op.name.endswith("kernel")]
    widths = [(1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    assert kernels == [[5, 5, *pair] for pair in widths] + [[4 * 4 * 128, 2]]
    # One slope a channel: PReLU.
    slopes = [v.shape.as_list() for v in variables if v.op.name.endswith("slope")]
    assert slopes == [[after] for _, after in widths]


@pytest.mark.parametrize("network", ["light", "lenet_pp"])
@pytest.mark.parametrize("size", [(1, 1), (32, 20)])
def test_any_image_size(network, size):
    images = np.random.RandomState(1).randint(0, 256, (3,) + size).astype(np.uint8)
    with tf.variable_scope("", reuse=tf.AUTO_REUSE):
        both = tf.stack([embed_images(network, tf.constant(images), 5, step) for step in (None, 0)])
    with initialized_session() as session:
        found = session.run(both)
    assert found.shape == (2, 3, 5) and np.isfinite(found).all()


def test_distances_by_hand():
    embeddings = np.array([[0, 0], [3, 5], [0, 2]], np.float32)
    intra, inter = class_distances(embeddings, np.array([7, 2, 7]))
    assert intra == pytest.approx(2 / 3) and inter == pytest.approx(5)
    assert class_distances(embeddings, np.array([4, 4, 4]))[1] is None
    # The closest two need not be neighbours, and lie far from zero.
    embeddings = 1e8 + np.array([[30.0, 0], [9, 9], [0, 0], [5, 30], [1, 2]])
    assert class_distances(embeddings, np.arange(5))[1] == pytest.approx(5**0.5)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_projection(dims):
    rows = np.random.RandomState(0).randn(50, dims) * np.arange(1, dims + 1)
    (points, few), names = project(rows, rows[:4])
    assert points.shape == (50, 2) and len(names) == 2
    np.testing.assert_allclose(few, points[:4])
    if dims <= 2:
        np.testing.assert_array_equal(points[:, :dims], rows)
        return
    # Principal axes are of most variance, and uncorrelated; their names say how much they hold.
    covariance = np.cov(points.T)
    assert abs(covariance[0, 1]) < 1e-9
    assert covariance[0, 0] >= covariance[1, 1] > np.cov(rows.T)[0, 0]
    share = covariance[0, 0] / np.trace(np.cov(rows.T))
    assert f"{share:.0%} of the variance of {dims} dims" in names[0]
