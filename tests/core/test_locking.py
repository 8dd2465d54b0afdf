"""Many writers at once: with `use_locking`, every update is one step between two others."""

import gc
import threading
import weakref

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, initialized_session, make_centers, placeholders, read_state
from updaters import UPDATERS, WITH_RATE, Weighted

import tf_centers

# Small batches seldom meet; these did every time the lock was left out.
THREADS, STEPS, ROWS, CLASSES, DIMS = 6, 40, 512, 40, 64
DECAY = 0.9995


def make_table(shards, use_resource):
    return make_centers(tf_centers, use_resource, CLASSES, DIMS, shards if shards > 1 else None)


def run_threads(work):
    """Runs `work(thread)` on every thread at once, and raises what any of them raises."""
    errors = []

    def run(thread):
        try:
            work(thread)
        except BaseException as error:  # noqa: B036 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("call", ["after", "before", "update", "switch", "switch before"])
def test_every_update_is_one_step(call, shards, use_resource):
    """A window over rows of ones counts them: after N rows a center is `1 - d^N` in every dim.

    So each returned row tells how many rows its class had had, and the updates of a class, put in
    the order of those numbers, must fit to each other without a gap or an overlap.
    """
    centers = make_table(shards, use_resource)
    labels = tf.placeholder(tf.int64, [None])
    embeds = tf.ones([ROWS, DIMS])
    how = dict(updater=tf_centers.ExponentialWindow(DECAY), centers=centers, use_locking=True)
    if call == "update":
        fetch = tf_centers.update_embed_centers(embeds, labels, **how)
    else:
        how["read"] = "before" if "before" in call else "after"
        how["is_training"] = tf.placeholder_with_default(True, []) if "switch" in call else True
        fetch = tf_centers.get_embed_centers(embeds, labels, **how)
    rng = np.random.RandomState(0)
    batches = rng.randint(0, CLASSES, [THREADS, STEPS, ROWS])
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
    if call != "update":
        for found in steps:
            found.sort()
            values, rows = np.array([v for v, _ in found]), np.array([k for _, k in found])
            total = np.cumsum(rows) - (rows if "before" in call else 0)
            np.testing.assert_allclose(np.log1p(-values) / np.log(DECAY), total, atol=0.3)


@pytest.mark.parametrize("shards", [1, 2])
def test_cumulative_mean_of_all_threads(shards, use_resource):
    centers = make_table(shards, use_resource)
    embeds, labels = placeholders(DIMS)
    update = tf_centers.update_embed_centers(embeds, labels, MEAN, centers, use_locking=True)
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
    for label in range(CLASSES):
        mean = rows[batches == label].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(ctrs[label], mean, rtol=3e-6, atol=1e-6)


def test_two_graphs_name_one_lock(use_resource):
    """As those of two workers do: a server has one lock of each name, whoever asks for it."""
    names = []
    for calls in (1, 2):
        with tf.Graph().as_default() as graph:
            centers = make_table(2, use_resource)
            for _ in range(calls):
                tf_centers.update_embed_centers(
                    np.ones([2, DIMS], np.float32), [3, 3], None, centers, use_locking=True
                )
        locks = [op for op in graph.get_operations() if op.type == "MutexV2"]
        names.append([op.get_attr("shared_name") for op in locks])
    assert set(names[0]) == set(names[1]) and len(set(names[0])) == 2


def test_a_locked_graph_can_be_collected():
    with tf.Graph().as_default() as graph:
        centers = tf_centers.create_embed_centers(3, 2)
        tf_centers.update_embed_centers([[1.0, 2.0]], [1], None, centers, use_locking=True)
    alive = weakref.ref(graph)
    del graph, centers
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", sorted(WITH_RATE) + ["own"])
def test_the_lock_waits_for_what_the_updater_takes(name, validate, use_resource):
    """Or the second update would hold it and wait for the first, which waits for the lock."""
    centers = make_table(1, use_resource)
    how = dict(centers=centers, use_locking=True)
    first = tf_centers.get_embed_centers(tf.ones([2, DIMS]), [1, 2], **how)
    for _ in range(3):  # Late enough for the second to come first.
        first = tf.matmul(tf.matmul(first, first, transpose_a=True), tf.eye(DIMS))
    rate = tf.sigmoid(tf.reduce_sum(first)) / 2.0
    own = Weighted(lambda n, k, later: rate / (1.0 + k))
    own.rate = rate  # Tensors of an updater are among its attributes.
    updater = own if name == "own" else UPDATERS[name].make(rate)
    second = tf_centers.get_embed_centers(
        tf.ones([2, DIMS]), [1, 2], updater, validate_args=validate, **how
    )
    init = tf.global_variables_initializer()
    with tf.Session(config=tf.ConfigProto(operation_timeout_in_ms=60000)) as session:
        session.run(init)
        for _ in range(20):
            session.run(second)
        assert session.run(centers.counts)[1] == 40
