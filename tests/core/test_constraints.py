"""Tables with a constraint: every center that is written has gone through it, once an update."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import (
    C,
    D,
    check_refused,
    initialized_session,
    make_batch,
    make_centers,
    placeholders,
    read_state,
)
from tensorflow import keras
from test_locking import LOCK
from three_replicas import copies, get, make, on_three_replicas, run, state
from updaters import UPDATERS

import tf_centers

GET, UPDATE = tf_centers.get_embed_centers, tf_centers.update_embed_centers
WINDOW, RATE = UPDATERS["window"].updater, UPDATERS["window"].rate
INITIAL = np.random.RandomState(9).randn(C, D)
CALLS = {
    "after": GET,
    "before": lambda *batch: GET(*batch, read="before"),
    "locked": lambda *batch: GET(*batch, **LOCK),
    "update": UPDATE,
}


def unit(ctrs):
    return tf.nn.l2_normalize(ctrs, axis=1)


def constrained(center, seen, rows):
    """The rule of the oracle: once all rows have moved the center."""
    center = reference.exponential_window(center, seen, rows, RATE)
    return center / np.linalg.norm(center)


def own_variable(use_resource, constraint, dtype, shards):
    splits = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope("embed", use_resource=use_resource, partitioner=splits):
        initial = tf.constant(INITIAL, dtype)
        return tf.get_variable("ctrs", initializer=initial, trainable=False, constraint=constraint)


def created(use_resource, constraint, dtype, shards):
    how = dict(initializer=INITIAL, constraint=constraint, dtype=dtype)
    return make_centers(tf_centers, use_resource, shards=shards, **how)


@pytest.mark.parametrize("make_table", [own_variable, created])
@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("shards, dtype", [(None, "float16"), (None, "float64"), (3, "float32")])
def test_every_center_that_is_written(shards, dtype, call, make_table, use_resource):
    centers = make_table(use_resource, unit, tf.as_dtype(dtype), shards)
    (embeds, labels), ctrs = placeholders(), INITIAL
    fetch = CALLS[call](embeds, labels, WINDOW, centers)
    variables = [centers] if make_table is own_variable else centers
    atol = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-6}[dtype]  # rows are float32
    with initialized_session() as session:
        for step in range(3):
            batch = make_batch(step)
            new, _ = reference.apply(constrained, ctrs, np.zeros(C), *batch)
            found = session.run(fetch, dict(zip((embeds, labels), batch)))
            np.testing.assert_allclose(read_state(session, variables)[0], new, rtol=0, atol=atol)
            if found is not None:
                rows = (ctrs if call == "before" else new)[batch[1]]
                np.testing.assert_allclose(found, rows, rtol=0, atol=atol)
            ctrs = new


@pytest.mark.parametrize("shards", [None, 3])
def test_the_gradient_passes_through(shards, use_resource):
    centers = created(use_resource, unit, tf.float64, shards)
    holder, (embeds, labels) = tf.placeholder(tf.float64, [None, D]), make_batch(1)
    upstream = np.random.RandomState(2).randn(*embeds.shape)
    rows = GET(holder, labels, WINDOW, centers, stop_gradient=False)
    (gradient,) = tf.gradients(rows, holder, upstream)
    with initialized_session() as session:
        found = session.run(gradient, {holder: embeds})

    def value(moved):
        return np.sum(
            upstream * reference.apply(constrained, INITIAL, np.zeros(C), moved, labels)[0][labels]
        )

    for place in np.ndindex(*embeds.shape):
        step = np.zeros(embeds.shape)
        step[place] = 1e-5
        slope = (value(embeds + step) - value(embeds - step)) / 2e-5
        np.testing.assert_allclose(found[place], slope, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constraint_of_keras(dtype, use_resource):
    constraint = keras.constraints.UnitNorm(axis=1)
    centers = created(use_resource, constraint, tf.as_dtype(dtype), None)
    rows = GET(*make_batch(0), WINDOW, centers)
    with initialized_session() as session:
        np.testing.assert_allclose(np.linalg.norm(session.run(rows), axis=1), 1, rtol=1e-5)


@on_three_replicas
def test_every_copy():
    centers = make(constraint=unit, initializer=np.eye(4, 2))
    parts = [np.float32([[3, 4]])] * 3, [np.array([own], int) for own in (2, 1, 2)]
    run(get(centers, tf_centers.CumulativeMean()), *parts)
    for ctrs in copies(centers)[0]:
        np.testing.assert_allclose(ctrs, [[1, 0], [0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
    assert len(set(state(centers))) == 2


@pytest.mark.parametrize(
    "constraint, got",
    [
        (lambda ctrs: ctrs[:, :2], r"float32 of shape \(.*, 2\)"),
        (lambda ctrs: tf.reduce_sum(ctrs, axis=1), r"float32 of shape \(.*\)"),
        (lambda ctrs: tf.cast(ctrs, tf.float64), "float64 of shape"),
    ],
)
def test_another_shape_or_dtype_is_refused(constraint, got, use_resource):
    created(use_resource, constraint, tf.float32, None)
    for call in (GET, UPDATE):
        message = rf"{call.__name__}: the constraint of embed/ctrs must return float32 .*got {got}"
        with pytest.raises(ValueError, match=message):
            call(*make_batch(0))
    with pytest.raises(TypeError, match="constraint must be a function or None, got 3"):
        make_centers(tf_centers, use_resource, scope="other", constraint=3)


@pytest.mark.parametrize("locking", [False, True])
@pytest.mark.parametrize(
    "constraint, dtype",
    [
        (lambda ctrs: tf.where(ctrs > 50.0, ctrs / 0.0, ctrs), tf.float32),
        (lambda ctrs: 1e3 * ctrs, tf.float16),  # overflows only as it is stored
        (lambda ctrs: ctrs[tf.cast(tf.reduce_any(ctrs > 50.0), tf.int32) :], tf.float64),
    ],
    ids=["Inf", "overflow", "fewer"],
)
def test_nothing_is_written_in_any_shard(constraint, dtype, locking, use_resource):
    centers = created(use_resource, constraint, dtype, 3)
    embeds, labels = placeholders(labels=tf.int32)
    update = UPDATE(embeds, labels, tf_centers.CumulativeMean(), centers, use_locking=locking)
    message = "update_embed_centers: expected the constraint of embed/ctrs to return finite"
    with initialized_session() as session:
        for bad in (0, 3, 5):  # the first class of each shard
            rows = np.where(np.arange(C)[:, None] == bad, 100.0, np.ones([C, D]))
            feed = {embeds: rows, labels: np.arange(C)}
            check_refused(session, update, feed, message, *centers)
        session.run(update, {embeds: np.ones([2, D]), labels: [0, 5]})
        assert read_state(session, centers)[1].tolist() == [1, 0, 0, 0, 0, 1, 0]
