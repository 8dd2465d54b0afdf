"""With `use_locking`, every update is one step between two others, and none waits for ever.

A lock is taken once all is there that the updater takes, wherever it keeps it. Or an update could
hold the lock and wait for another one, which waits for the lock.
"""

import gc
import weakref
from concurrent import futures

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import (
    LOCK,
    C,
    D,
    initialized_session,
    make_centers,
    read_state,
    slow_zero,
)
from programs import in_own_process
from tf2_code import eager_centers

import tf_centers

# Small batches seldom meet; these did every time the lock was left out.
THREADS, STEPS, ROWS, CLASSES, DIMS = 6, 40, 512, 40, 64
DECAY = 0.9995
HALF = tf_centers.ExponentialWindow(0.5, duplicates="mean")
# Nothing here takes as long; a bound for what would wait for ever.
TIME_LIMIT = tf.RunOptions(timeout_in_ms=60000)


def run_threads(work):
    """Runs `work(thread)` on every thread at once, and raises what any of them raises."""
    with futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


@pytest.mark.parametrize("call, shards", [("after", None), ("before", 2), ("switch", 2)])
def test_every_update_is_one_step(call, shards, use_resource):
    """A window over rows of ones counts them: after N rows a center is `1 - d^N` in every dim.

    So each returned row tells how many rows its class had had, and the updates of a class, put in
    the order of those numbers, must fit to each other without a gap or an overlap.
    """
    centers = make_centers(tf_centers, use_resource, CLASSES, DIMS, shards)
    labels = tf.placeholder(tf.int64, [None])
    batch = tf.ones([ROWS, DIMS]), labels, tf_centers.ExponentialWindow(DECAY), centers
    training = tf.placeholder_with_default(True, []) if call == "switch" else True
    read = "before" if call == "before" else "after"
    fetch = tf_centers.get_embed_centers(*batch, is_training=training, read=read, **LOCK)
    batches = np.random.RandomState(0).randint(0, CLASSES, [THREADS, STEPS, ROWS])
    steps = [[] for _ in range(CLASSES)]  # of each class: what was returned, and its rows

    with initialized_session() as session:

        def work(thread):
            for batch in batches[thread]:
                rows = session.run(fetch, {labels: batch})
                for label in set(batch):
                    own = rows[batch == label]
                    assert (own == own[0, 0]).all(), "rows of one class that differ"
                    steps[label].append((float(own[0, 0]), len(own)))

        run_threads(work)
        ctrs, counts = read_state(session, centers)
    sizes = np.bincount(batches.reshape(-1), minlength=CLASSES)
    np.testing.assert_array_equal(counts, sizes)
    np.testing.assert_allclose(ctrs, np.tile(1 - DECAY**sizes, [DIMS, 1]).T, rtol=2e-5)
    for found in steps:
        values, rows = np.array(sorted(found)).T
        total = np.cumsum(rows) - (rows if call == "before" else 0)
        np.testing.assert_allclose(np.log1p(-values) / np.log(DECAY), total, atol=0.3)


def test_fading_mean_of_all_threads(use_resource):
    """Rows of ones, from one row of zeros: whatever the order, c = 1 - d^n / N."""
    how = dict(dtype=tf.float64, initial_counts=1, count_dtype=tf.float64)
    centers = make_centers(tf_centers, use_resource, CLASSES, DIMS, 2, **how)
    labels, decay = tf.placeholder(tf.int64, [None]), 0.99
    batch = tf.ones([ROWS, DIMS], tf.float64), labels, tf_centers.FadingMean(decay), centers
    update = tf_centers.update_embed_centers(*batch, **LOCK)
    batches = np.random.RandomState(0).randint(0, CLASSES, [THREADS, STEPS, ROWS])
    with initialized_session() as session:
        run_threads(lambda own: [session.run(update, {labels: one}) for one in batches[own]])
        ctrs, counts = read_state(session, centers)
    left = decay ** (THREADS * STEPS)
    total = left * CLASSES + ROWS * (1 - left) / (1 - decay)
    np.testing.assert_allclose(counts.sum(), total, rtol=1e-12)
    np.testing.assert_allclose(ctrs, np.tile(1 - left / counts, [DIMS, 1]).T, rtol=1e-12)


def test_a_locked_graph_can_be_collected():
    with tf.Graph().as_default() as graph:
        centers = tf_centers.create_embed_centers(3, 2)
        tf_centers.update_embed_centers([[1.0, 2.0]], [1], None, centers, **LOCK)
    alive = weakref.ref(graph)
    del graph, centers
    gc.collect()
    assert alive() is None


class Kept(tf_centers.Updater):
    """Moves a class all the way by `scale`, a value or what tells it."""

    def __init__(self, scale, needs_counts=False):
        self.scale, self.needs_counts = scale, needs_counts

    def row_weights(self, rows):
        scale = self.scale() if callable(self.scale) else self.scale
        return tf.cast(scale, rows.dtype) / rows.sizes


UPDATERS = {
    "a rate": lambda scale: tf_centers.ExponentialWindow(scale, duplicates="mean"),
    "an attribute": Kept,
    "beside counts": lambda scale: Kept(scale, needs_counts=True),
    "a closure": lambda scale: Kept(lambda: tf.abs(scale) + 0.0),
}
ARGUMENTS = {
    "embed_batch": lambda one: one * tf.fill([2, D], 2.5),
    "label_batch": lambda one: tf.cast([one, one], tf.int32),
    "mask": lambda one: tf.equal([one, one], 1),
    "is_training": lambda one: one > 0.5,
}


def late(value):
    """A batch that takes long, so that the update that needs it comes last by itself."""
    return tf.fill([2, D], value) + slow_zero()


@pytest.mark.parametrize(
    "place, shards, validate",
    [
        *[(place, None, False) for place in ARGUMENTS],
        *[(place, 2, True) for place in UPDATERS],
        ("a rate", None, False),
        ("beside counts", None, False),
    ],
)
def test_the_lock_waits(place, shards, validate, use_resource, session):
    centers = make_centers(tf_centers, use_resource, shards=shards)
    first = tf_centers.get_embed_centers(late(1.0), [1, 1], HALF, centers, **LOCK)
    scale = tf.reduce_mean(first)  # 0.5, and of the way from there to 2.5
    how = dict(embed_batch=tf.fill([2, D], 2.5), label_batch=[1, 1], updater=HALF, **LOCK)
    if place in UPDATERS:
        how["updater"] = UPDATERS[place](scale)
    else:
        how[place] = ARGUMENTS[place](2 * scale)
    second = tf_centers.get_embed_centers(centers=centers, validate_args=validate, **how)
    np.testing.assert_allclose(session.run(second, options=TIME_LIMIT), 1.5, rtol=1e-6)
    assert read_state(session, centers)[1].tolist() == [0, 4] + [0] * (C - 2)


@pytest.mark.parametrize("shards", [None, 2])
def test_the_lock_waits_for_what_a_constraint_takes(shards, use_resource, session):
    taken = []
    kept = {"constraint": lambda ctrs: ctrs * taken[-1] if taken else ctrs}
    centers = make_centers(tf_centers, use_resource, shards=shards, **kept)
    first = tf_centers.get_embed_centers(late(1.0), [1, 1], HALF, centers, **LOCK)
    taken.append(2.0 * tf.reduce_mean(first))  # 1
    second = tf_centers.get_embed_centers(tf.fill([2, D], 2.5), [1, 1], HALF, centers, **LOCK)
    np.testing.assert_allclose(session.run(second, options=TIME_LIMIT), 1.5, rtol=1e-6)


@in_own_process
def test_an_eager_tensor_in_a_locked_function():
    """Also on TensorFlow 1.15, told to behave as 2."""
    tf.enable_v2_behavior()
    rate = tensorflow.constant(0.5)
    for updater in (
        Kept(lambda: rate),
        Kept(tensorflow.Variable(0.5)),
        tf_centers.WenUpdate(2 * rate),
    ):
        batch = [[4.0] * D], [3], updater, eager_centers()

        def update(batch=batch):
            return tf_centers.get_embed_centers(*batch, **LOCK)

        for call, expected in ((update, 2.0), (tensorflow.function(update), 3.0)):
            np.testing.assert_array_equal(call().numpy(), [[expected] * D])
