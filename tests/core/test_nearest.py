"""The nearest centers, against one class after the other."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import initialized_session, make_centers, make_ctrs

import tf_centers
from tf_centers import nearest


@pytest.mark.parametrize("k", [1, 4, 23])
@pytest.mark.parametrize("block", [(5, 2), (8192, 1024)])
@pytest.mark.parametrize("counted", [False, True])
def test_agrees_with_reference(k, block, counted, use_resource, control_flow, monkeypatch):
    monkeypatch.setattr(nearest, "_TABLE_ROWS", block[0])
    monkeypatch.setattr(nearest, "_BATCH_ROWS", block[1])
    monkeypatch.setattr(nearest, "_SPARE_CANDIDATES", 2)
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


@pytest.mark.parametrize("block", [2, 8192])
def test_equal_distances_rank_by_class(block, monkeypatch, use_resource):
    monkeypatch.setattr(nearest, "_TABLE_ROWS", block)
    ctrs = make_ctrs(use_resource, [5, 1], initial=[[1.0], [-1.0], [1.0], [0.5], [-1.0]])
    found = tf_centers.nearest_centers([[0.0]], ctrs, k=5)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [[3, 0, 1, 2, 4]]


@pytest.mark.parametrize("classes", [13, 37])
def test_identical_centers_rank_by_class(classes, use_resource):
    # A matrix product rounds its last columns in another way than the rest.
    rng = np.random.RandomState(classes)
    ctrs = make_ctrs(use_resource, [classes, 17], initial=np.repeat(rng.randn(1, 17), classes, 0))
    found = tf_centers.nearest_centers(rng.randn(5, 17).astype(np.float32), ctrs, k=classes)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [list(range(classes))] * 5


def test_one_digit_in_the_last_place_tells_centers_apart(use_resource):
    row = np.full([1, 512], 1e4, np.float32)
    table = np.concatenate([np.nextafter(row, np.float32(2e4)), row])
    ctrs = make_ctrs(use_resource, table.shape, initial=table)
    found = tf_centers.nearest_centers(row, ctrs, k=2)
    with initialized_session() as session:
        labels, distances = session.run(list(found))
    assert labels.tolist() == [[1, 0]]
    # 1e4 lies between 2^13 and 2^14, where floats are 2^-10 apart
    np.testing.assert_allclose(distances, [[0.0, 2.0**-10 * 512**0.5]], rtol=1e-6)
    assert not np.signbit(distances).any()


def _ancestors(op, seen=None):
    seen = set() if seen is None else seen
    for before in [tensor.op for tensor in op.inputs] + list(op.control_inputs):
        if before not in seen:
            seen.add(before)
            _ancestors(before, seen)
    return seen


def test_blocks_are_held_one_after_another(monkeypatch, control_flow):
    if control_flow.endswith("v2"):
        return  # The loop's body is a function then, with the same ops inside.
    monkeypatch.setattr(nearest, "_TABLE_ROWS", 2)
    monkeypatch.setattr(nearest, "_SPARE_CANDIDATES", 0)
    ctrs = make_ctrs(True, [6, 3])
    tf_centers.nearest_centers(np.zeros([4, 3], np.float32), ctrs)
    ops = tf.get_default_graph().get_operations()
    products = [op for op in ops if op.type in ("MatMul", "BatchMatMulV2")]
    gathers = [op for op in ops if op.type == "ResourceGather"][:3]
    assert len(products) == 3
    for product, gather in zip(products, gathers[1:]):
        assert product in _ancestors(gather)
    # And no tensor of every row, every class and every dimension.
    assert all((output.shape.ndims or 0) <= 3 for op in ops for output in op.outputs)


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


def test_a_row_on_its_center_is_at_distance_zero(use_resource):
    # The terms of an expanded square do not cancel to the last digit; none may come out below 0.
    table = (1000 + np.random.RandomState(1).randn(50, 3)).astype(np.float32)
    ctrs = make_ctrs(use_resource, table.shape, initial=table)
    found = tf_centers.nearest_centers(table, ctrs)
    with initialized_session() as session:
        labels, distances = session.run(list(found))
    assert labels[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(distances, 0.0, atol=1e-4)


def test_float64_keeps_its_digits(use_resource):
    # These two rows and centers are the same in float32.
    table = [[1.0 + 1e-9], [1.0 - 1e-9]]
    ctrs = make_ctrs(use_resource, [2, 1], tf.float64, table)
    found = tf_centers.nearest_centers(tf.constant(table, tf.float64), ctrs)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [[0], [1]]
