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
    [("contrastive_center_loss", contrastive), ("distance_softmax_loss", distance_softmax)],
)
def test_losses_and_gradients(name, expected, use_resource):
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64, initializer=CTRS)
    embeds, labels = make_batch(0, rows=B)
    holder = tf.placeholder(tf.float64, [None, D])
    loss = FOUND[name](holder, tf.constant(labels), centers)
    gradient = tf.gradients(loss, holder)[0]
    with initialized_session() as session:
        found = session.run([loss, gradient], {holder: embeds})
        np.testing.assert_array_equal(session.run(centers.ctrs), CTRS)
    np.testing.assert_allclose(found[0], expected(embeds, labels), rtol=1e-8)
    numeric = gradient_of(lambda value: expected(value, labels).sum(), embeds)
    np.testing.assert_allclose(found[1], numeric, atol=1e-6)
    assert np.abs(numeric).max() > 0.01


def test_cosine(use_resource):
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64, initializer=CTRS)
    embeds, labels = make_batch(0, rows=B)
    loss = FOUND["cosine_center_loss"](tf.constant(embeds), tf.constant(labels), centers)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(loss), cosine(embeds, labels), rtol=1e-8)


def mean_window(center, seen, rows):
    return reference.averaged_window(center, seen, rows, 1 - RATE)


def aligned(source, source_labels, target, pseudo_labels, times=1):
    """The loss of the last of several batches."""
    tables = [np.zeros([C, D]), np.zeros([C, D])]
    for _ in range(times):
        for i, batch in enumerate(((source, source_labels), (target, pseudo_labels))):
            tables[i], _ = reference.apply(mean_window, tables[i], np.zeros(C), *batch)
    return np.sum((tables[0] - tables[1]) ** 2)


@pytest.mark.parametrize("times", [1, 2])
def test_semantic_alignment(times, use_resource):
    for scope in ("source", "target"):
        make_centers(tf_centers, use_resource, dtype=tf.float64, scope=scope)
    source, source_labels = make_batch(0, rows=B)
    target, pseudo_labels = make_batch(1, rows=B + 2, absent=(4,))
    holders = tf.placeholder(tf.float64, [None, D]), tf.placeholder(tf.float64, [None, D])
    logits = tf.constant(np.eye(C)[pseudo_labels])
    loss = FOUND["semantic_alignment_loss"](
        holders[0], tf.constant(source_labels), holders[1], logits, 1 - RATE
    )
    gradients = [tf.convert_to_tensor(part) for part in tf.gradients(loss, holders)]
    with initialized_session() as session:
        for _ in range(times):
            found = session.run([loss, gradients], dict(zip(holders, (source, target))))
    batch = source, source_labels, target, pseudo_labels
    np.testing.assert_allclose(found[0], aligned(*batch, times), rtol=1e-8)
    # Only the last update carries a gradient.
    tables = [np.zeros([C, D]), np.zeros([C, D])]
    for _ in range(times - 1):
        tables[0], _ = reference.apply(mean_window, tables[0], np.zeros(C), *batch[:2])
        tables[1], _ = reference.apply(mean_window, tables[1], np.zeros(C), *batch[2:])

    def last(source, target):
        one, _ = reference.apply(mean_window, tables[0], np.zeros(C), source, source_labels)
        other, _ = reference.apply(mean_window, tables[1], np.zeros(C), target, pseudo_labels)
        return np.sum((one - other) ** 2)

    numeric = gradient_of(lambda value: last(value, target), source)
    np.testing.assert_allclose(found[1][0], numeric, atol=1e-6)
    numeric = gradient_of(lambda value: last(source, value), target)
    np.testing.assert_allclose(found[1][1], numeric, atol=1e-6)
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


def class_means(embeds):
    return np.stack([embeds[DIGITS.test_labels == label].mean(axis=0) for label in range(10)])


def spread(embeds):
    """The mean distance of a row to the mean of its class."""
    return np.linalg.norm(embeds - class_means(embeds)[DIGITS.test_labels], axis=1).mean()


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


def train_for_separation(weight):
    centers = tf_centers.create_embed_centers(10, 8)

    def build(images, labels, _):
        embeds = embed(images)
        loss = softmax(labels, classify(embeds))
        loss += weight * tf.reduce_mean(FOUND["contrastive_center_loss"](embeds, labels, centers))
        optimizer = tf.train.AdamOptimizer(0.002)
        return FOUND["train_with_centers"](loss, embeds, labels, None, centers, optimizer)

    embeds = train(build, lambda images, _: embed(images, reuse=True))
    means = class_means(embeds)
    apart = squares_to(means, means)[~np.eye(10, dtype=bool)].min() ** 0.5
    return apart / spread(embeds)


def test_contrastive_center_loss_separates_classes():
    found = []
    for weight in (0.0, 30.0):
        with tf.Graph().as_default():
            found.append(train_for_separation(weight))
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


def train_for_two_domains(weight, noisy):
    for scope in ("source", "target"):
        tf_centers.create_embed_centers(10, 8, scope)

    def build(images, labels, others):
        embeds, other_embeds = embed(images), embed(others, reuse=True)
        logits, other_logits = classify(embeds), classify(other_embeds, reuse=True)
        loss = softmax(labels, logits)
        loss += weight * FOUND["semantic_alignment_loss"](
            embeds, labels, other_embeds, other_logits
        )
        return tf.train.AdamOptimizer(0.001).minimize(loss)

    def fetch(_, others):
        return tf.argmax(classify(embed(others, reuse=True), reuse=True), axis=1)

    return np.mean(train(build, fetch, second=noisy) == DIGITS.test_labels)


def test_semantic_alignment_carries_over_to_the_second_domain():
    random = np.random.RandomState(1)
    noisy = [np.clip(x + 0.25 * np.abs(random.randn(*x.shape)), 0, 1) for x in (TRAIN, TEST)]
    found = []
    for weight in (0.0, 0.01):
        with tf.Graph().as_default():
            found.append(train_for_two_domains(weight, noisy))
    assert found[1] > found[0] + 0.15
