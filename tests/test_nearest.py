"""The nearest centers, against one class after the other."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import initialized_session, make_centers, make_ctrs

import tf_centers
from tf_centers import nearest


@pytest.mark.parametrize("k", [1, 4, 23])
@pytest.mark.parametrize("block", [1, 5, 23, 8192])
@pytest.mark.parametrize("counted", [False, True])
def test_agrees_with_reference(k, block, counted, use_resource, monkeypatch):
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", block)
    rng = np.random.RandomState(k)
    # Far from zero, where an expanded square in float32 has no digit left.
    table = (1000 + rng.randn(23, 4)).astype(np.float32)
    embeds = (1000 + rng.randn(9, 4)).astype(np.float32)
    seen = (rng.rand(23) < 0.6).astype(np.int64)
    ctrs = make_ctrs(use_resource, [23, 4], initial=table)
    counts = tf.get_variable("n", initializer=seen, use_resource=use_resource)
    centers = tf_centers.EmbedCenters(ctrs, counts) if counted else ctrs
    found = tf_centers.nearest_centers(tf.placeholder_with_default(embeds, None), centers, k)
    assert found.labels.shape.as_list() == found.distances.shape.as_list() == [None, k]
    assert found.labels.dtype == tf.int64
    labels, distances = reference.nearest(embeds, table, seen if counted else None, k)
    with initialized_session() as session:
        result = session.run(found)
    np.testing.assert_array_equal(result.labels, labels)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-4)


def test_equal_distances_rank_by_class(monkeypatch, use_resource):
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", 2)
    ctrs = make_ctrs(use_resource, [5, 1], initial=[[1.0], [-1.0], [1.0], [0.5], [-1.0]])
    found = tf_centers.nearest_centers([[0.0]], ctrs, k=5)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [[3, 0, 1, 2, 4]]


def test_what_is_not_finite_is_near_to_nothing(use_resource):
    table = [[0.0, 0.0], [np.nan, 1.0], [3.0, 4.0], [np.inf, 0.0]]
    ctrs = make_ctrs(use_resource, [4, 2], initial=table)
    found = tf_centers.nearest_centers([[3.0, 3.0], [np.nan, 0.0]], ctrs, k=4)
    with initialized_session() as session:
        labels, distances = session.run(list(found))
    assert labels.tolist() == [[2, 0, -1, -1], [-1] * 4]
    assert np.isinf(distances).tolist() == [[False, False, True, True], [True] * 4]


def test_nothing_seen_yet(use_resource):
    centers = make_centers(tf_centers, use_resource, 3, 2)
    found = tf_centers.nearest_centers([[3.0, 3.0]], centers, k=2)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [[-1, -1]]
