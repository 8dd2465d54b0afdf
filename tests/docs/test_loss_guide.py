"""docs/losses.md: each loss against NumPy and finite differences, and what it does to digits."""

import re

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from documents import LOSSES
from helpers import C, D, initialized_session, make_batch, make_centers
from mnist.data import load_digits

import tf_centers

FOUND = {}
for block in re.findall(
    r"^```python\n(.*?)^```$", LOSSES.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
):
    exec(block, FOUND)
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


def mean_window(center, seen, rows):
    return reference.averaged_window(center, seen, rows, 1 - RATE)


@pytest.mark.parametrize("times", [1, 2])
def test_semantic_alignment(times, use_resource):
    for scope in ("source", "target"):
        make_centers(tf_centers, use_resource, dtype=tf.float64, scope=scope)
    batches = [make_batch(0, rows=B), make_batch(1, rows=B + 2, absent=(4,))]
    holders = tf.placeholder(tf.float64, [None, D]), tf.placeholder(tf.float64, [None, D])
    logits = tf.constant(np.eye(C)[batches[1][1]])
    loss = FOUND["semantic_alignment_loss"](
        holders[0], tf.constant(batches[0][1]), holders[1], logits, 1 - RATE
    )
    gradients = [tf.convert_to_tensor(part) for part in tf.gradients(loss, holders)]
    embeds = [batch[0] for batch in batches]
    with initialized_session() as session:
        for _ in range(times):
            found = session.run([loss, gradients], dict(zip(holders, embeds)))

    def update(tables, embeds):
        labels = [batch[1] for batch in batches]
        return [
            reference.apply(mean_window, *each)[0]
            for each in zip(tables, np.zeros([2, C], int), embeds, labels)
        ]

    def loss_of(tables, embeds):
        source, target = update(tables, embeds)
        return np.sum((source - target) ** 2)

    tables = np.zeros([2, C, D])
    for _ in range(times - 1):  # Only the last update carries a gradient.
        tables = update(tables, embeds)
    np.testing.assert_allclose(found[0], loss_of(tables, embeds), rtol=1e-8)
    for place in (0, 1):
        others = list(embeds)

        def moved(value, place=place, others=others):
            others[place] = value
            return loss_of(tables, others)

        numeric = gradient_of(moved, embeds[place])
        np.testing.assert_allclose(found[1][place], numeric, atol=1e-6)
        assert np.abs(numeric).max() > 0.1


# What each loss is for, in a small training on digits.

DIGITS = load_digits("")
TRAIN, TEST = DIGITS.train_images / 255.0, DIGITS.test_images / 255.0


def embed(images, reuse=False):
    """Two layers, without biases: float [B, 28, 28] to [B, 8]."""
    with tf.variable_scope("embed_images", reuse=reuse):
        flat = tf.reshape(images, [-1, 28 * 28])
        hidden = tf.nn.relu(tf.matmul(flat, tf.get_variable("one", [28 * 28, 64])))
        return tf.matmul(hidden, tf.get_variable("two", [64, 8]))


def classify(embeds, reuse=False):
    with tf.variable_scope("classify", reuse=reuse):
        return tf.matmul(embeds, tf.get_variable("weights", [8, 10]))


def softmax(labels, logits):
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def train(build, fetch, steps=300, second=None):
    """Trains what `build` returns for images, labels and a second domain, and tests `fetch`."""
    images, others = (tf.placeholder(tf.float32, [None, 28, 28]) for _ in range(2))
    labels = tf.placeholder(tf.int64, [None])
    tf.set_random_seed(0)
    step = build(images, labels, others)
    random = np.random.RandomState(0)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(steps):
            rows = random.randint(0, len(TRAIN), 64)
            feed = {images: TRAIN[rows], labels: DIGITS.train_labels[rows]}
            if second is not None:
                feed[others] = second[0][random.randint(0, len(TRAIN), 64)]
            session.run(step, feed)
        feed = {images: TEST, others: TEST if second is None else second[1]}
        return session.run(fetch(images, others), feed)


def test_contrastive_center_loss_separates_classes():
    found = []
    for weight in (0.0, 30.0):
        with tf.Graph().as_default():
            centers = tf_centers.create_embed_centers(10, 8)

            def build(images, labels, _, weight=weight, centers=centers):
                embeds = embed(images)
                loss = tf.reduce_mean(FOUND["contrastive_center_loss"](embeds, labels, centers))
                loss = softmax(labels, classify(embeds)) + weight * loss
                optimizer = tf.train.AdamOptimizer(0.002)
                return FOUND["train_with_centers"](loss, embeds, labels, None, centers, optimizer)

            embeds = train(build, lambda images, _: embed(images, reuse=True))
        means = np.stack([embeds[DIGITS.test_labels == label].mean(axis=0) for label in range(10)])
        spread = np.linalg.norm(embeds - means[DIGITS.test_labels], axis=1).mean()
        found.append(squares_to(means, means)[~np.eye(10, dtype=bool)].min() ** 0.5 / spread)
    assert found[1] > 1.15 * found[0]


def test_distance_softmax_trains_for_the_nearest_center():
    centers = tf_centers.create_embed_centers(10, 8, initializer=tf.random_normal_initializer())

    def build(images, labels, _):
        embeds = embed(images)
        loss = tf.reduce_mean(FOUND["distance_softmax_loss"](embeds, labels, centers))
        updater = tf_centers.ExponentialWindow(0.99, duplicates="mean")
        optimizer = tf.train.AdamOptimizer(0.002)
        return FOUND["train_with_centers"](loss, embeds, labels, updater, centers, optimizer)

    def fetch(images, _):
        return tf_centers.nearest_centers(embed(images, reuse=True), centers).labels[:, 0]

    assert np.mean(train(build, fetch) == DIGITS.test_labels) > 0.85


def test_semantic_alignment_carries_over_to_the_second_domain():
    random = np.random.RandomState(1)
    noisy = [np.clip(x + 0.25 * np.abs(random.randn(*x.shape)), 0, 1) for x in (TRAIN, TEST)]
    found = []
    for weight in (0.0, 0.01):

        def build(images, labels, others, weight=weight):
            embeds, other_embeds = embed(images), embed(others, reuse=True)
            logits, other_logits = classify(embeds), classify(other_embeds, reuse=True)
            alignment = FOUND["semantic_alignment_loss"](embeds, labels, other_embeds, other_logits)
            loss = softmax(labels, logits) + weight * alignment
            return tf.train.AdamOptimizer(0.001).minimize(loss)

        def fetch(_, others):
            return tf.argmax(classify(embed(others, reuse=True), reuse=True), axis=1)

        with tf.Graph().as_default():
            for scope in ("source", "target"):
                tf_centers.create_embed_centers(10, 8, scope)
            found.append(np.mean(train(build, fetch, second=noisy) == DIGITS.test_labels))
    assert found[1] > found[0] + 0.15
