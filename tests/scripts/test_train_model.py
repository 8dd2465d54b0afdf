"""The networks of the training script and the measures of their embeddings, against NumPy."""

import itertools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import initialized_session
from mnist.evaluation import class_distances
from mnist.figures import Panel, project, write_panels
from mnist.model import embed_images


def embed(network, images, embed_dims=2, is_training=False, step=0):
    return embed_images(network, images, embed_dims, tf.constant(is_training), tf.constant(step))


def test_lenet_pp_has_the_layers_of_the_paper():
    embed("lenet_pp", tf.zeros([6, 28, 28], tf.uint8))
    variables = tf.trainable_variables()
    kernels = [v.shape.as_list() for v in variables if v.op.name.endswith("kernel")]
    assert kernels == [
        [5, 5, 1, 32], [5, 5, 32, 32],
        [5, 5, 32, 64], [5, 5, 64, 64],
        [5, 5, 64, 128], [5, 5, 128, 128],
        [4 * 4 * 128, 2],
    ]  # fmt: skip
    # One slope a channel: PReLU.
    slopes = [v.shape.as_list() for v in variables if v.op.name.endswith("slope")]
    assert slopes == [[32], [32], [64], [64], [128], [128]]


@pytest.mark.parametrize("network", ["light", "lenet_pp"])
@pytest.mark.parametrize("size", [(1, 1), (8, 7), (32, 20)])
@pytest.mark.parametrize("is_training", [False, True])
def test_any_image_size(network, size, is_training):
    images = np.random.RandomState(1).randint(0, 256, (3,) + size).astype(np.uint8)
    embeddings = embed(network, tf.constant(images), 5, is_training)
    assert embeddings.shape.as_list()[1] == 5
    with initialized_session() as session:
        found = session.run(embeddings)
    assert found.shape == (3, 5) and np.isfinite(found).all()


def test_light_normalizes_by_the_batch_in_training_and_by_averages_else():
    tf.set_random_seed(1)
    images = tf.placeholder(tf.uint8, [None, 8, 8])
    is_training = tf.placeholder(tf.bool, [])
    embeddings = embed_images("light", images, 3, is_training, tf.constant(0))
    updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    random = np.random.RandomState(0)
    batch, other = (random.randint(0, top, [50, 8, 8]).astype(np.uint8) for top in (250, 60))
    with initialized_session() as session:

        def run(rows, training):
            return session.run(embeddings, {images: rows, is_training: training})

        def difference(one, two):
            return np.abs(one - two).max()

        # By the batch: a row depends on the others. By averages: it does not.
        assert difference(run(batch, True)[:5], run(batch[:5], True)) > 1e-2
        initial = run(batch, False)
        assert difference(initial[:5], run(batch[:5], False)) < 1e-4
        # At the first step the averages become the moments of the batch.
        session.run(updates, {images: batch, is_training: True})
        learned = difference(run(batch, False), run(batch, True))
        assert learned < 0.2 * difference(initial, run(batch, True))
        session.run(updates, {images: other, is_training: True})
        assert difference(run(batch, False), run(batch, True)) > 2 * learned
        # Without training they stay.
        before = run(batch, False)
        session.run(updates, {images: other, is_training: False})
        np.testing.assert_array_equal(run(batch, False), before)


def test_distances_by_hand():
    embeddings = np.array([[0, 0], [3, 5], [0, 2]], np.float32)
    intra, inter = class_distances(embeddings, np.array([7, 2, 7]))
    assert intra == pytest.approx(2 / 3) and inter == pytest.approx(5)
    assert class_distances(embeddings, np.array([4, 4, 4]))[1] is None


@pytest.mark.parametrize("offset", [0, 1e8], ids=["around zero", "far from zero"])
def test_smallest_gap(offset):
    for classes, seed in itertools.product([2, 3, 11, 40], range(3)):
        random = np.random.RandomState(seed)
        embeddings = offset + random.randn(3 * classes, 4)
        labels = random.permutation(np.arange(3 * classes) % classes) * 7
        means = [embeddings[labels == label].mean(axis=0) for label in np.unique(labels)]
        gap = min(np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2))
        assert class_distances(embeddings, labels)[1] == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_projection(dims):
    random = np.random.RandomState(0)
    reference = random.randn(50, dims) * np.arange(1, dims + 1)
    found, names = project(reference, reference[:4])
    assert found.shape == (4, 2) and len(names) == 2
    if dims <= 2:
        np.testing.assert_array_equal(found[:, :dims], reference[:4])
        return
    # Principal axes are of most variance, and uncorrelated; their names say how much they hold.
    points, _ = project(reference, reference)
    covariance = np.cov(points.T)
    assert abs(covariance[0, 1]) < 1e-9
    assert covariance[0, 0] >= covariance[1, 1] > np.cov(reference.T)[0, 0]
    share = covariance[0, 0] / np.trace(np.cov(reference.T))
    assert f"of {dims} dims: {share:.0%} of the variance" in names[0]


@pytest.mark.parametrize("classes, panels", [(3, 1), (30, 2), (1500, 3)])
def test_pictures_are_replaced_as_a_whole(classes, panels, tmp_path):
    path = tmp_path / "picture.png"
    labels = np.arange(2 * classes) % classes
    points = np.random.RandomState(0).randn(2 * classes, 2)
    panel = Panel(points, labels, points[:classes], labels[:classes])
    write_panels(str(path), {f"title {place}": panel for place in range(panels)})
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")
    with pytest.raises((IndexError, TypeError, ValueError)):
        write_panels(str(path), {"title": panel._replace(centers=np.zeros([3, 9]))})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["picture.png"]
