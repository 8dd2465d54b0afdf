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
    MEAN,
    C,
    D,
    check_refused,
    initialized_session,
    make_centers,
    placeholders,
    read_state,
)
from programs import in_own_process
from tf2_code import as_called, eager_centers

import tf_centers

# Small batches seldom meet; these did every time the lock was left out.
THREADS, STEPS, ROWS, CLASSES, DIMS = 6, 40, 512, 40, 64
DECAY = 0.9995
LOCK = {"use_locking": True}
HALF = tf_centers.ExponentialWindow(0.5, duplicates="mean")
# Nothing here takes as long; a bound for what would wait for ever.
TIME_LIMIT = tf.RunOptions(timeout_in_ms=60000)


def run_threads(work):
    """Runs `work(thread)` on every thread at once, and raises what any of them raises."""
    with futures.ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


@pytest.mark.parametrize(
    "call, shards",
    [("after", None), ("after", 2), ("before", 2), ("update", None), ("switch", 2)],
)
def test_every_update_is_one_step(call, shards, use_resource):
    """A window over rows of ones counts them: after N rows a center is `1 - d^N` in every dim.

    So each returned row tells how many rows its class had had, and the updates of a class, put in
    the order of those numbers, must fit to each other without a gap or an overlap.
    """
    centers = make_centers(tf_centers, use_resource, CLASSES, DIMS, shards)
    labels = tf.placeholder(tf.int64, [None])
    batch = tf.ones([ROWS, DIMS]), labels, tf_centers.ExponentialWindow(DECAY), centers
    if call == "update":
        fetch = tf_centers.update_embed_centers(*batch, **LOCK)
    else:
        training = tf.placeholder_with_default(True, []) if call == "switch" else True
        read = "before" if call == "before" else "after"
        fetch = tf_centers.get_embed_centers(*batch, is_training=training, read=read, **LOCK)
    batches = np.random.RandomState(0).randint(0, CLASSES, [THREADS, STEPS, ROWS])
    steps = [[] for _ in range(CLASSES)]  # of each class: what was returned, and its rows

    with initialized_session() as session:

        def work(thread):
            for batch in batches[thread]:
                rows = session.run(fetch, {labels: batch})
                if rows is None:
                    continue
                for label in set(batch):
                    own = rows[batch == label]
                    assert (own == own[0, 0]).all(), "rows of one class that differ"
                    steps[label].append((float(own[0, 0]), len(own)))

        run_threads(work)
        ctrs, counts = read_state(session, centers)
    sizes = np.bincount(batches.reshape(-1), minlength=CLASSES)
    np.testing.assert_array_equal(counts, sizes)
    np.testing.assert_allclose(ctrs, np.tile(1 - DECAY**sizes, [DIMS, 1]).T, rtol=2e-5)
    for found in steps if call != "update" else []:
        values, rows = np.array(sorted(found)).T
        total = np.cumsum(rows) - (rows if call == "before" else 0)
        np.testing.assert_allclose(np.log1p(-values) / np.log(DECAY), total, atol=0.3)


@pytest.mark.parametrize("shards", [None, 2])
def test_cumulative_mean_of_all_threads(shards, use_resource):
    centers = make_centers(tf_centers, use_resource, CLASSES, DIMS, shards)
    embeds, labels = placeholders(DIMS)
    update = tf_centers.update_embed_centers(embeds, labels, MEAN, centers, **LOCK)
    rng = np.random.RandomState(1)
    batches = rng.randint(0, CLASSES, [THREADS, STEPS, ROWS])
    rows = (rng.randn(THREADS, STEPS, ROWS, DIMS) + batches[..., None] % 7).astype(np.float32)
    with initialized_session() as session:

        def work(thread):
            for batch, batch_labels in zip(rows[thread], batches[thread]):
                session.run(update, {embeds: batch, labels: batch_labels})

        run_threads(work)
        ctrs, counts = read_state(session, centers)
    np.testing.assert_array_equal(counts, np.bincount(batches.reshape(-1), minlength=CLASSES))
    means = [rows[batches == label].astype(np.float64).mean(axis=0) for label in range(CLASSES)]
    np.testing.assert_allclose(ctrs, means, rtol=3e-6, atol=1e-6)


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


def read_within(scale):
    variable = tf.get_variable("rate", initializer=0.25)

    def read():
        with tf.control_dependencies([scale]):
            return variable.read_value() + 0.0 * scale + 0.25

    return Kept(read)


UPDATERS = {
    "a rate": lambda scale: tf_centers.ExponentialWindow(scale, duplicates="mean"),
    "an attribute": Kept,
    "beside counts": lambda scale: Kept(scale, needs_counts=True),
    "a closure": lambda scale: Kept(lambda: tf.abs(scale) + 0.0),
    "a variable, read in order": read_within,
}
ARGUMENTS = {
    "embed_batch": lambda one: one * tf.fill([2, D], 2.5),
    "label_batch": lambda one: tf.cast([one, one], tf.int32),
    "mask": lambda one: tf.equal([one, one], 1),
    "is_training": lambda one: one > 0.5,
}


def late(value):
    """A batch that takes long, so that the update that needs it comes last by itself."""
    slow = tf.random_uniform([400, 400])
    for _ in range(8):
        slow = tf.matmul(slow, slow) * 1e-3
    zero = 0.0 * tf.cast(tf.is_finite(tf.reduce_sum(slow)), tf.float32)
    return tf.fill([2, D], value) + zero


@pytest.mark.parametrize(
    "place, shards, validate",
    [(place, shards, True) for place in UPDATERS for shards in (None, 2)]
    + [(place, None, validate) for place in ARGUMENTS for validate in (True, False)]
    + [("a rate", None, False), ("beside counts", None, False)],
)
def test_the_lock_waits(place, shards, validate, use_resource):
    centers = make_centers(tf_centers, use_resource, shards=shards)
    first = tf_centers.get_embed_centers(late(1.0), [1, 1], HALF, centers, **LOCK)
    scale = tf.reduce_mean(first)  # 0.5, and of the way from there to 2.5
    how = dict(embed_batch=tf.fill([2, D], 2.5), label_batch=[1, 1], updater=HALF, **LOCK)
    if place in UPDATERS:
        how["updater"] = UPDATERS[place](scale)
    else:
        how[place] = ARGUMENTS[place](2 * scale)
    second = tf_centers.get_embed_centers(centers=centers, validate_args=validate, **how)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(second, options=TIME_LIMIT), 1.5, rtol=1e-6)
        assert read_state(session, centers)[1].tolist() == [0, 4] + [0] * (C - 2)


class HalfLife(tf_centers.ExponentialWindow):
    """With a constructor of its own."""

    def __init__(self, name, rate):
        super().__init__(rate, debias=True)
        self.__dict__["name"] = name


@pytest.mark.parametrize("shards", [None, 2])
def test_the_lock_waits_for_what_a_constraint_takes(shards, use_resource):
    taken = []
    kept = {"constraint": lambda ctrs: ctrs * taken[-1] if taken else ctrs}
    centers = make_centers(tf_centers, use_resource, shards=shards, **kept)
    first = tf_centers.get_embed_centers(late(1.0), [1, 1], HALF, centers, **LOCK)
    taken.append(2.0 * tf.reduce_mean(first))  # 1
    second = tf_centers.get_embed_centers(tf.fill([2, D], 2.5), [1, 1], HALF, centers, **LOCK)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(second, options=TIME_LIMIT), 1.5, rtol=1e-6)


@pytest.mark.parametrize("locking", [False, True])
def test_a_subclass_with_a_constructor_of_its_own(locking, use_resource):
    centers = make_centers(tf_centers, use_resource, 4, 1)
    rate = tf.placeholder_with_default(0.5, [])
    batch = [[1.0], [2.0]], [3, 3], HalfLife("mine", rate), centers
    rows = tf_centers.get_embed_centers(*batch, use_locking=locking)
    with initialized_session() as session:
        check_refused(session, rows, {rate: 1.0}, r"get_embed_centers: .*\[0, 1\)")
        np.testing.assert_allclose(session.run(rows), (0.5 * 2 + 0.25 * 1) / 0.75, rtol=1e-6)


@in_own_process
def test_an_eager_tensor_in_a_locked_function():
    """Also on TensorFlow 1.15, told to behave as 2."""
    tf.enable_v2_behavior()
    rate = tensorflow.constant(0.5)
    for updater in (
        Kept(rate),
        Kept(lambda: rate),
        Kept(tensorflow.Variable(0.5)),
        tf_centers.ExponentialWindow(rate),
        tf_centers.WenUpdate(2 * rate),
    ):
        for how in ("eager", "function"):
            batch = [[4.0] * D], [3], updater, eager_centers()
            rows = as_called(
                how, lambda batch=batch: tf_centers.get_embed_centers(*batch, **LOCK)
            )()
            np.testing.assert_array_equal(rows.numpy(), [[2.0] * D])
