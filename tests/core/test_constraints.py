"""Tables with a constraint: every center that is written has gone through it, once an update."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import (
    C,
    D,
    check_refused,
    make_batch,
    make_centers,
    make_ctrs,
    placeholders,
    read_state,
)
from tensorflow import keras
from updaters import UPDATERS

import tf_centers

GET, UPDATE = tf_centers.get_embed_centers, tf_centers.update_embed_centers
WINDOW, RATE = UPDATERS["window"].updater, UPDATERS["window"].rate
WAYS = {
    "after": GET,
    "before": lambda *batch: GET(*batch, read="before"),
    "locked": lambda *batch: GET(*batch, use_locking=True),
    "update": UPDATE,
}
INITIAL = np.random.RandomState(9).randn(C, D)


def unit(ctrs):
    return tf.nn.l2_normalize(ctrs * tf.ones([D], ctrs.dtype), axis=1)  # only rows of D dims fit


def constrained(center, seen, rows):
    """The rule of the oracle: once all rows have moved the center."""
    center = reference.exponential_window(center, seen, rows, RATE)
    return center / np.linalg.norm(center)


def created(use_resource, constraint, dtype, shards):
    how = dict(initializer=INITIAL, constraint=constraint, dtype=dtype)
    return make_centers(tf_centers, use_resource, shards=shards, **how)


@pytest.mark.parametrize(
    "call, own_variable, shards, dtype",
    [
        ("after", True, None, "float16"),
        ("before", False, 3, "float32"),
        ("locked", True, 3, "float32"),
        ("update", False, None, "float64"),
    ],
)
def test_every_center_that_is_written(call, own_variable, shards, dtype, use_resource, session):
    if own_variable:
        how = dict(initial=INITIAL, shards=shards, constraint=unit)
        centers = make_ctrs(use_resource, dtype=dtype, **how)
    else:
        centers = created(use_resource, unit, dtype, shards)
    (embeds, labels), ctrs = placeholders(), INITIAL
    fetch = WAYS[call](embeds, labels, WINDOW, centers)
    variables = [centers] if own_variable else centers
    atol = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-6}[dtype]  # rows are float32
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
def test_the_gradient_passes_through(shards, use_resource, session):
    centers = created(use_resource, unit, tf.float64, shards)
    holder, (embeds, labels) = tf.placeholder(tf.float64, [None, D]), make_batch(1)
    upstream = np.random.RandomState(2).randn(*embeds.shape)
    rows = GET(holder, labels, WINDOW, centers, stop_gradient=False)
    (gradient,) = tf.gradients(rows, holder, upstream)
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
def test_a_constraint_of_keras(dtype, use_resource, session):
    constraint = keras.constraints.UnitNorm(axis=1)
    centers = created(use_resource, constraint, dtype, None)
    rows = GET(*make_batch(0), WINDOW, centers)
    np.testing.assert_allclose(np.linalg.norm(session.run(rows), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "constraint, got",
    [
        (lambda ctrs: ctrs[:, :2], r"float32 of shape \(.*, 2\)"),
        (lambda ctrs: tf.reduce_sum(ctrs, axis=1), r"float32 of shape \(.*\)"),
        (lambda ctrs: tf.cast(ctrs, tf.float64), "float64 of shape"),
        (lambda ctrs: None, "None"),
    ],
)
def test_another_shape_or_dtype_is_refused(constraint, got):
    created(True, constraint, tf.float32, None)
    for call in (GET, UPDATE):
        message = rf"{call.__name__}: the constraint of embed/ctrs must return float32 .*got {got}"
        with pytest.raises(ValueError, match=message):
            call(*make_batch(0))
    with pytest.raises(TypeError, match="constraint must be a function or None, got 3"):
        make_centers(tf_centers, True, scope="other", constraint=3)


@pytest.mark.parametrize(
    "constraint, dtype, locking",
    [
        (lambda ctrs: tf.where(ctrs > 50.0, ctrs / 0.0, ctrs), tf.float32, True),
        (lambda ctrs: 1e3 * ctrs, tf.float16, False),  # overflows only as it is stored
        (lambda ctrs: ctrs[tf.cast(tf.reduce_any(ctrs > 50.0), tf.int32) :], tf.float64, False),
    ],
    ids=["Inf", "overflow", "fewer"],
)
def test_nothing_is_written_in_any_shard(constraint, dtype, locking, use_resource, session):
    centers = created(use_resource, constraint, dtype, 3)
    embeds, labels = placeholders(labels=tf.int32)
    update = UPDATE(embeds, labels, tf_centers.CumulativeMean(), centers, use_locking=locking)
    message = "update_embed_centers: expected the constraint of embed/ctrs to return finite"
    for bad in (0, 3, 5):  # the first class of each shard
        rows = np.where(np.arange(C)[:, None] == bad, 100.0, np.ones([C, D]))
        feed = {embeds: rows, labels: np.arange(C)}
        check_refused(session, update, feed, message, *centers)
    session.run(update, {embeds: np.ones([2, D]), labels: [0, 5]})
    assert read_state(session, centers)[1].tolist() == [1, 0, 0, 0, 0, 1, 0]
