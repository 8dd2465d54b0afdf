"""docs/losses.md: each loss against NumPy and finite differences, and what it does to digits."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from documents import LOSSES, define, python_blocks
from helpers import C, D, initialized_session, make_batch, make_centers
from mnist.data import load_digits

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


# What each loss is for, in a small training on digits.

DIGITS = load_digits("")
TRAIN, TEST = DIGITS.train_images / 255.0, DIGITS.test_images / 255.0


class Network:
    """Digits [B, 28, 28], labels and digits of a second domain, with embeddings [B, 8] of both."""

    def __init__(self):
        tf.set_random_seed(0)
        self.images, self.others = (tf.placeholder(tf.float32, [None, 28, 28]) for _ in range(2))
        self.labels = tf.placeholder(tf.int64, [None])
        sizes = {"one": [28 * 28, 64], "two": [64, 8], "three": [8, 10]}
        one, two, self._three = (tf.get_variable(name, size) for name, size in sizes.items())
        self.embeds, self.other_embeds = (
            tf.matmul(tf.nn.relu(tf.matmul(tf.reshape(part, [-1, 28 * 28]), one)), two)
            for part in (self.images, self.others)
        )

    def classify(self, embeds):
        return tf.matmul(embeds, self._three)

    def softmax(self):
        logits = self.classify(self.embeds)
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=self.labels, logits=logits)
        )

    def train(self, step, fetch, steps=300, others=(TRAIN, TEST)):
        """Runs the step on batches, and what is to be fetched on the test digits."""
        random = np.random.RandomState(0)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            for _ in range(steps):
                rows, other_rows = random.randint(0, len(TRAIN), [2, 64])
                feed = {self.images: TRAIN[rows], self.labels: DIGITS.train_labels[rows]}
                session.run(step, {**feed, self.others: others[0][other_rows]})
            return session.run(fetch, {self.images: TEST, self.others: others[1]})


def train_contrastive(weight):
    """How far apart classes end up: the smallest gap of two means, by the spread of a class."""
    with tf.Graph().as_default():
        centers, net = tf_centers.create_embed_centers(10, 8), Network()
        loss = tf.reduce_mean(FOUND["contrastive_center_loss"](net.embeds, net.labels, centers))
        loss = net.softmax() + weight * loss
        adam = tf.train.AdamOptimizer(0.002)
        step = FOUND["train_with_centers"](loss, net.embeds, net.labels, None, centers, adam)
        embeds = net.train(step, net.embeds)
    means = np.stack([embeds[DIGITS.test_labels == label].mean(axis=0) for label in range(10)])
    spread = np.linalg.norm(embeds - means[DIGITS.test_labels], axis=1).mean()
    return squares_to(means, means)[~np.eye(10, dtype=bool)].min() ** 0.5 / spread


def test_contrastive_center_loss_separates_classes():
    assert train_contrastive(30.0) > 1.15 * train_contrastive(0.0)


def test_distance_softmax_trains_for_the_nearest_center():
    net = Network()
    centers = tf_centers.create_embed_centers(10, 8, initializer=tf.random_normal_initializer())
    loss = tf.reduce_mean(FOUND["distance_softmax_loss"](net.embeds, net.labels, centers))
    updater = tf_centers.ExponentialWindow(0.99, duplicates="mean")
    adam = tf.train.AdamOptimizer(0.002)
    step = FOUND["train_with_centers"](loss, net.embeds, net.labels, updater, centers, adam)
    nearest = net.train(step, tf_centers.nearest_centers(net.embeds, centers).labels[:, 0])
    assert np.mean(nearest == DIGITS.test_labels) > 0.85


def train_aligned(weight):
    """The accuracy on a second domain, noisy digits, of which the network sees no label."""
    random = np.random.RandomState(1)
    noisy = [np.clip(x + 0.25 * np.abs(random.randn(*x.shape)), 0, 1) for x in (TRAIN, TEST)]
    with tf.Graph().as_default():
        net = Network()
        for scope in ("source", "target"):
            tf_centers.create_embed_centers(10, 8, scope)
        logits = net.classify(net.other_embeds)
        alignment = FOUND["semantic_alignment_loss"](
            net.embeds, net.labels, net.other_embeds, logits
        )
        step = tf.train.AdamOptimizer(0.001).minimize(net.softmax() + weight * alignment)
        return np.mean(
            net.train(step, tf.argmax(logits, axis=1), others=noisy) == DIGITS.test_labels
        )


def test_semantic_alignment_carries_over_to_the_second_domain():
    assert train_aligned(0.01) > train_aligned(0.0) + 0.15
