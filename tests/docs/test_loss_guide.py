"""docs/losses.md: each loss against NumPy and finite differences."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from documents import LOSSES, define, python_blocks
from helpers import C, D, initialized_session, make_batch, make_centers

import tf_centers

FOUND = define(python_blocks(LOSSES.read_text(encoding="utf-8")))
B, RATE = 9, 0.3
CTRS = np.random.RandomState(8).randn(C, D)


def squares_to(embeds, ctrs):
    return ((embeds[:, np.newaxis] - ctrs) ** 2).sum(axis=2)


def contrastive(embeds, labels):
    losses = []
    for embed, label in zip(embeds, labels):
        squares = [np.sum((embed - center) ** 2) for center in CTRS]
        losses.append(0.5 * squares[label] / (sum(squares) - squares[label] + 1))
    return np.array(losses)


def distance_softmax(embeds, labels):
    odds = np.exp(-squares_to(embeds, CTRS))
    return -np.log(odds[np.arange(len(labels)), labels] / odds.sum(axis=1))


def cosine(embeds, labels):
    unit = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    ctrs, _ = reference.apply(reference.exponential_window, CTRS, np.zeros(C), unit, labels)
    ctrs /= np.linalg.norm(ctrs, axis=1, keepdims=True)
    return 1 - np.sum(unit * ctrs[labels], axis=1)


def gradient_of(function, value, step=1e-5):
    numeric = np.zeros(value.shape)
    for place in np.ndindex(*value.shape):
        nearby = np.zeros(value.shape)
        nearby[place] = step
        numeric[place] = (function(value + nearby) - function(value - nearby)) / (2 * step)
    return numeric


@pytest.mark.parametrize(
    "name, expected",
    [
        ("contrastive_center_loss", contrastive),
        ("distance_softmax_loss", distance_softmax),
        ("cosine_center_loss", cosine),
    ],
)
def test_losses_and_gradients(name, expected, use_resource):
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64, initializer=CTRS)
    embeds, labels = make_batch(0, rows=B)
    holder = tf.placeholder(tf.float64, [None, D])
    loss = FOUND[name](holder, tf.constant(labels), centers)
    gradient = tf.gradients(loss, holder)[0]
    with initialized_session() as session:
        found = session.run([loss, gradient], {holder: embeds})
        moved = (session.run(centers.ctrs) != CTRS).any()
    np.testing.assert_allclose(found[0], expected(embeds, labels), rtol=1e-8)
    assert moved == (expected is cosine)
    if not moved:  # Elsewhere no gradient passes through the update.
        numeric = gradient_of(lambda value: expected(value, labels).sum(), embeds)
        np.testing.assert_allclose(found[1], numeric, atol=1e-6)
        assert np.abs(numeric).max() > 0.01


@pytest.mark.parametrize("times", [1, 2])
def test_semantic_alignment(times, use_resource):
    for scope in ("source", "target"):
        make_centers(tf_centers, use_resource, dtype=tf.float64, scope=scope)
    batches = [make_batch(0, rows=B), make_batch(1, rows=B + 2, absent=(4,))]
    embeds, labels = zip(*batches)
    holders = tf.placeholder(tf.float64, [None, D]), tf.placeholder(tf.float64, [None, D])
    loss = FOUND["semantic_alignment_loss"](
        holders[0], tf.constant(labels[0]), holders[1], tf.constant(np.eye(C)[labels[1]]), 1 - RATE
    )
    gradients = [tf.convert_to_tensor(part) for part in tf.gradients(loss, holders)]
    with initialized_session() as session:
        for _ in range(times):
            found = session.run([loss, gradients], dict(zip(holders, embeds)))

    def update(tables, embeds):
        def mean_window(center, seen, rows):
            return reference.averaged_window(center, seen, rows, 1 - RATE)

        state = zip(tables, np.zeros([2, C], int), embeds, labels)
        return [reference.apply(mean_window, *each)[0] for each in state]

    tables = np.zeros([2, C, D])
    for _ in range(times - 1):
        tables = update(tables, embeds)

    def expected(*embeds):
        source, target = update(tables, embeds)
        return np.sum((source - target) ** 2)

    np.testing.assert_allclose(found[0], expected(*embeds), rtol=1e-8)
    numeric = (
        gradient_of(lambda rows: expected(rows, embeds[1]), embeds[0]),
        gradient_of(lambda rows: expected(embeds[0], rows), embeds[1]),
    )
    for gradient, wanted in zip(found[1], numeric):
        np.testing.assert_allclose(gradient, wanted, atol=1e-6)
        assert np.abs(wanted).max() > 0.1


@pytest.mark.parametrize("rows", [32, 2000])
def test_a_training_step_uses_the_centers_from_before_its_update(rows, use_resource):
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64, initializer=CTRS)
    features, labels = make_batch(0, rows=rows)
    weights = np.random.RandomState(4).randn(D, D) / D
    how = {"initializer": weights, "use_resource": use_resource}
    kernel = tf.get_variable("kernel", **how)
    embeds = tf.matmul(tf.constant(features), kernel)
    loss = tf.reduce_sum(FOUND["distance_softmax_loss"](embeds, tf.constant(labels), centers))
    optimizer = tf.train.GradientDescentOptimizer(1.0)
    batch = loss, embeds, labels, tf_centers.WenUpdate(1.0), centers
    step = FOUND["train_with_centers"](*batch, optimizer)
    with initialized_session() as session:
        session.run(step)
        found = session.run([kernel, centers.ctrs])
    before = features @ weights
    shares = np.exp(-squares_to(before, CTRS))
    shares /= shares.sum(axis=1, keepdims=True)
    slopes = 2 * (shares @ CTRS - CTRS[labels])  # of -log share, the squares of x itself cancel
    ctrs, _ = reference.apply(
        lambda *state: reference.wen_update(*state, 1.0), CTRS, np.zeros(C), before, labels
    )
    np.testing.assert_allclose(found[0], weights - features.T @ slopes, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found[1], ctrs, rtol=1e-10)
