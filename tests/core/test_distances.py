"""Distances to the centers and the nearest of them, against one class after the other."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import make_centers, make_ctrs, parts

import tf_centers

B, C, D = 9, 23, 4
# Tables of 9000 classes are searched in more than one block.


def make_rows(seed=0, classes=C):
    rng = np.random.RandomState(seed)
    return rng.randn(B, D), 1 + 2 * rng.randn(classes, D)


def squared_distances(embeds, table):
    return np.sum((embeds[:, np.newaxis] - table) ** 2, axis=2)


@pytest.mark.parametrize(
    "classes, k, shards, counted",
    [
        (C, 1, None, True),
        (C, 4, 3, True),
        (C, C, 11, True),
        (C, C, 1, False),
        (9000, 4, None, False),
        (9000, 4, 3, True),
    ],
)
def test_nearest_agrees_with_reference(classes, k, shards, counted, use_resource, session):
    embeds, table = make_rows(k, classes)
    seen = np.random.RandomState(k).randint(0, 3, classes)
    if counted:
        how = {"shards": shards, "initializer": table, "initial_counts": seen}
        centers = make_centers(tf_centers, use_resource, classes, D, **how)
    else:
        centers = make_ctrs(use_resource, table.shape, initial=table, shards=shards)
    found = tf_centers.nearest_centers(tf.placeholder_with_default(embeds, None), centers, k)
    assert found.labels.shape.as_list() == found.distances.shape.as_list() == [None, k]
    assert found.labels.dtype == tf.int64
    labels, distances = reference.nearest(embeds, table, seen if counted else None, k)
    result = session.run(found)
    np.testing.assert_array_equal(result.labels, labels)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-5)


@pytest.mark.parametrize("classes, shards", [(9000, None), (C, 3)])
def test_equal_distances_rank_by_class(classes, shards, use_resource, session):
    rng = np.random.RandomState(0)
    table, embeds = rng.randint(-1, 2, [classes, D]), rng.randint(-2, 3, [B, D]) / 2
    ctrs = make_ctrs(use_resource, table.shape, initial=table, shards=shards)
    found = session.run(tf_centers.nearest_centers(tf.constant(embeds), ctrs, k=classes))
    labels, distances = reference.nearest(embeds, table, None, classes)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)


@pytest.mark.parametrize("classes", [13, 37])
def test_identical_centers_rank_by_class(classes, use_resource, session):
    rng = np.random.RandomState(classes)
    ctrs = make_ctrs(use_resource, [classes, 17], initial=rng.randn(17))
    found = tf_centers.nearest_centers(rng.randn(5, 17).astype(np.float32), ctrs, k=classes)
    assert session.run(found.labels).tolist() == [list(range(classes))] * 5


@pytest.mark.parametrize("shards", [None, 3])
def test_a_float64_table_keeps_its_digits(shards, use_resource, session):
    # In float32 the squares here have no digit left, and the first two centers are the same.
    table = np.array([[1000 + 1e-5], [1000 - 1e-5], [1001]])
    ctrs = make_ctrs(use_resource, [3, 1], tf.float64, initial=table, shards=shards)
    found = tf_centers.nearest_centers(tf.constant(table), ctrs)
    labels, squares = session.run([found.labels, tf_centers.center_distances(table, ctrs)])
    assert labels.tolist() == [[0], [1], [2]]
    np.testing.assert_allclose(squares, squared_distances(table, table), atol=1e-9, rtol=0)


def test_a_row_that_is_not_finite_is_near_to_nothing(use_resource, session):
    ctrs = make_ctrs(use_resource, [2, 2], initial=[[0.0, 0.0], [3.0, 4.0]])
    rows = [[3.0, 3.0], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.inf]]
    found = tf_centers.nearest_centers(rows, ctrs, k=2)
    labels, distances = session.run(found)
    assert labels.tolist() == [[1, 0]] + [[-1, -1]] * 3
    np.testing.assert_allclose(distances, [[1.0, 18**0.5]] + [[np.inf] * 2] * 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_center_that_is_not_finite_is_an_error(bad, use_resource, session):
    ctrs = make_ctrs(use_resource, [3, 2], initial=[[0.0, 0.0], [bad, 1.0], [3.0, 4.0]])
    found = tf_centers.nearest_centers([[3.0, 3.0]], ctrs)
    message = "nearest_centers: expected centers whose squared norms are finite.*embed/ctrs"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        session.run(found.labels)


@pytest.mark.parametrize(
    "classes, dtype", [(C, tf.float16), (C, tf.bfloat16), (9000, tf.float32), (C, tf.float64)]
)
def test_nothing_seen_yet(classes, dtype, use_resource, session):
    centers = make_centers(tf_centers, use_resource, classes, 2, dtype=dtype)
    labels, distances = session.run(tf_centers.nearest_centers([[3.0, 3.0]], centers, k=6))
    assert labels.tolist() == [[-1] * 6]
    assert np.isposinf(distances.astype(np.float32)).all()


@pytest.mark.parametrize(
    "dtype, tolerance, shards",
    [
        (tf.float16, 6e-4, None),
        (tf.bfloat16, 4e-3, 3),
        (tf.float32, 1e-5, 3),
        (tf.float64, 1e-13, None),
    ],
)
def test_center_distances(dtype, tolerance, shards, use_resource, session):
    embeds, table = (np.round(8 * rows) / 8 for rows in make_rows())  # exact in every dtype
    ctrs = make_ctrs(use_resource, table.shape, dtype, initial=table, shards=shards)
    squares = tf_centers.center_distances(tf.placeholder_with_default(embeds, None))
    empty = tf_centers.center_distances(tf.zeros([0, D]), ctrs)
    nearest = tf_centers.nearest_centers(tf.zeros([0, D]), ctrs, k=2).labels
    assert squares.dtype == dtype and squares.shape.as_list() == [None, C]
    found, empty, nearest = session.run([squares, empty, nearest])
    assert empty.shape == (0, C) and nearest.shape == (0, 2)
    expected = squared_distances(embeds, table)
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=tolerance)


@pytest.mark.parametrize("shards", [None, 3])
def test_gradient_of_center_distances(shards, use_resource, session):
    embeds, table = make_rows()
    embeds[0] = table[2]  # where the distance is clipped, or not, by a rounding error
    ctrs = make_ctrs(use_resource, table.shape, tf.float64, initial=table, shards=shards)
    held, weights = tf.constant(embeds), np.random.RandomState(2).randn(B, C)
    squares = tf_centers.center_distances(held, ctrs)
    gradient = tf.gradients(squares * weights, held)[0]
    assert tf.gradients(squares, parts(ctrs)) == [None] * len(parts(ctrs))
    by_hand = 2 * np.sum(weights[..., np.newaxis] * (embeds[:, np.newaxis] - table), axis=1)
    np.testing.assert_allclose(session.run(gradient), by_hand, rtol=1e-12, atol=1e-12)


def test_distances_are_clipped_and_their_gradients_are_not(use_resource, session):
    # In float32 about half of these squared distances come out below 0 before they are clipped.
    table = 100 + np.random.RandomState(1).randn(200, 3).astype(np.float32)
    rows = tf.constant(table + np.float32(0.01))
    squares = tf_centers.center_distances(rows, make_ctrs(use_resource, [200, 3], initial=table))
    gradient = tf.gradients(tf.diag_part(squares), rows)[0]
    found, slopes = session.run([squares, gradient])
    assert 10 < (np.diag(found) == 0).sum() < 190
    assert found.min() == 0.0 and not np.signbit(found).any()
    np.testing.assert_allclose(found, squared_distances(table + 0.01, table), atol=0.3)
    np.testing.assert_allclose(slopes, np.full([200, 3], 0.02), atol=1e-4)


def test_no_tensor_of_rows_classes_and_dims(use_resource):
    ctrs = make_ctrs(use_resource, [C, D])
    embeds = tf.ones([B, D])
    tf.gradients(tf_centers.center_distances(embeds, ctrs), embeds)
    tf_centers.nearest_centers(embeds, ctrs, k=C)
    outputs = [out for op in tf.get_default_graph().get_operations() for out in op.outputs]
    assert all((output.shape.ndims or 0) <= 2 for output in outputs)
