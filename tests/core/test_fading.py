"""Counts that fade: those of all classes, by every update and by nothing else."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    B,
    C,
    D,
    check_refused,
    initialized_session,
    make_batch,
    make_centers,
    make_ctrs,
    placeholders,
    read_state,
    state_bits,
)
from test_locking import CLASSES, DIMS, LOCK, ROWS, STEPS, THREADS, run_threads
from three_replicas import REPLICAS, copies, get, make, on_three_replicas, run, state

import tf_centers

GET, UPDATE = tf_centers.get_embed_centers, tf_centers.update_embed_centers
FADES = {"count_dtype": tf.float64}
GIVEN = np.arange(1, C + 1)
CALLS = {
    "after": GET,
    "before": lambda *batch: GET(*batch, read="before"),
    "update": UPDATE,
    "locked": lambda *batch: UPDATE(*batch, **LOCK),
}


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("shards", [None, 3])
def test_a_codebook(shards, call, use_resource):
    """N <- d N + k, m <- d m + sum(x), c = m / N for all classes, of shards without a row too."""
    ctrs = np.random.RandomState(0).randn(C, D)
    how = dict(dtype=tf.float64, initializer=ctrs, initial_counts=GIVEN, **FADES)
    centers = make_centers(tf_centers, use_resource, shards=shards, **how)
    decay, batch = tf.placeholder(tf.float64, []), placeholders(embeds=tf.float64)
    fetch = CALLS[call](*batch, tf_centers.FadingMean(decay), centers)
    sizes, sums = GIVEN.astype(float), ctrs * GIVEN[:, None]
    with initialized_session() as session:
        for step, rate in enumerate([0.9, 0.5, 1.0, 0.75]):
            embeds, labels = make_batch(step, absent=[2, 3, 4] if step < 3 else [5])
            old, sizes, sums = ctrs, rate * sizes, rate * sums
            np.add.at(sizes, labels, 1)
            np.add.at(sums, labels, embeds)
            ctrs = sums / sizes[:, None]
            found = session.run(fetch, {batch[0]: embeds, batch[1]: labels, decay: rate})
            state = read_state(session, centers)
            np.testing.assert_allclose(state[0], ctrs, rtol=0, atol=1e-12)
            np.testing.assert_array_equal(state[1], sizes)
            if found is not None:
                rows = (old if call == "before" else ctrs)[labels]
                np.testing.assert_allclose(found, rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shards", [None, 3])
def test_nothing_fades_without_an_update(shards, use_resource):
    centers = make_centers(tf_centers, use_resource, shards=shards, initial_counts=GIVEN, **FADES)
    (embeds, labels), mask = placeholders(), tf.placeholder_with_default(np.ones(B, bool), [None])
    training, decay = tf.placeholder_with_default(True, []), tf.placeholder_with_default(0.5, [])
    updater = tf_centers.FadingMean(decay)
    fetches = [GET(embeds, labels, updater, centers, mask, training, use_locking=True)]
    fetches += [UPDATE(embeds, labels, updater, centers, mask, use_locking=True)]
    batch = dict(zip((embeds, labels), make_batch(0)))
    with initialized_session() as session:
        before = state_bits(session, *centers)
        session.run(fetches[0], {**batch, training: False})
        for fetch in fetches:
            session.run(fetch, {**batch, mask: np.zeros(B)})
            session.run(fetch, {embeds: np.zeros([0, D]), labels: [], mask: []})
            for bad, message in (
                ({labels: np.full(B, C)}, "every label"),
                ({embeds: np.full([B, D], np.nan)}, "finite values"),
                ({decay: 1.5}, r"decay in \[0, 1\]"),
            ):
                check_refused(session, fetch, {**batch, **bad}, message, *centers)
        assert state_bits(session, *centers) == before
        session.run(fetches[0], batch)
        assert (read_state(session, centers)[1] != GIVEN).all()


@pytest.mark.parametrize("shards", [None, 2])
def test_all_threads_with_a_lock(shards, use_resource):
    """Rows of ones, from one row of zeros: whatever the order, c = 1 - d^n / N."""
    how = dict(dtype=tf.float64, initial_counts=1, **FADES)
    centers = make_centers(tf_centers, use_resource, CLASSES, DIMS, shards, **how)
    labels, decay = tf.placeholder(tf.int64, [None]), 0.99
    batch = tf.ones([ROWS, DIMS], tf.float64), labels, tf_centers.FadingMean(decay), centers
    update, batches = UPDATE(*batch, **LOCK), np.random.RandomState(0)
    batches = batches.randint(0, CLASSES, [THREADS, STEPS, ROWS])
    with initialized_session() as session:
        run_threads(lambda own: [session.run(update, {labels: one}) for one in batches[own]])
        ctrs, counts = read_state(session, centers)
    left = decay ** (THREADS * STEPS)
    total = left * CLASSES + ROWS * (1 - left) / (1 - decay)
    np.testing.assert_allclose(counts.sum(), total, rtol=1e-12)
    np.testing.assert_allclose(ctrs, np.tile(1 - left / counts, [DIMS, 1]).T, rtol=1e-12)


def test_two_updates_without_a_lock_are_warned_of(warnings):
    centers = make_centers(tf_centers, True, **FADES)
    for _ in range(2):
        UPDATE(*placeholders(), tf_centers.FadingMean(), centers)
    assert "embed/ctrs may run at the same time" in "".join(warnings)


@on_three_replicas
def test_replicas_fade_once():
    centers = make(initial_counts=[8, 6, 4, 2], **FADES)
    parts = [np.float32([[1, 2]]), np.zeros([0, 2], np.float32), np.float32([[5, 0], [4, 4]])]
    labels, updater = [np.array(own, int) for own in ([1], [], [1, 3])], tf_centers.FadingMean(0.5)
    run(get(centers, updater), parts, labels)
    for ctrs, counts in zip(*copies(centers)):
        np.testing.assert_array_equal(counts, [4, 5, 2, 2])
        np.testing.assert_allclose(ctrs, [[0, 0], [1.2, 0.4], [0, 0], [2, 2]], rtol=1e-6)
    before = state(centers)
    run(get(centers, updater), parts[1:2] * REPLICAS, labels[1:2] * REPLICAS)
    assert state(centers) == before


def test_counts_of_other_dtypes_are_refused(use_resource):
    centers, others = make_centers(tf_centers, use_resource), make_ctrs(use_resource, scope="own")
    batch = np.ones([1, D]), [1], tf_centers.FadingMean()
    for call in (GET, UPDATE):
        with pytest.raises(ValueError, match=f"{call.__name__}: .*int64 in embed/.*count_dtype="):
            call(*batch, centers)
        counts = tf.get_variable(call.__name__, [C], tf.float32)
        with pytest.raises(TypeError, match=f"{call.__name__}: counts must be int64 or float64"):
            call(*batch, tf_centers.EmbedCenters(others, counts))
    for bad in (tf.float32, "int32", None):
        with pytest.raises(TypeError, match="count_dtype must be tf.int64 or tf.float64, got"):
            make_centers(tf_centers, use_resource, scope="bad", count_dtype=bad)
    assert UPDATE(*batch, others) is not None
    (made,) = [v for v in tf.global_variables() if v.name == "own/ctrs_count:0"]
    assert made.dtype.base_dtype == tf.float64


def test_other_calls_on_float64_counts(use_resource):
    """A class whose count faded to 0 is one never seen; other updaters count whole rows."""
    centers = make_centers(tf_centers, use_resource, 3, 1, initial_counts=[1, 1, 0], **FADES)
    fade = UPDATE([[4.0]], [0], tf_centers.FadingMean(0.0), centers)
    mean = UPDATE([[6.0], [1.0]], [0, 0], MEAN, centers)
    nearest = tf_centers.nearest_centers([[0.0]], centers, k=3).labels
    summary = tf_centers.summarize_centers(centers)
    with initialized_session() as session:
        assert session.run(nearest).tolist() == [[0, 1, -1]]
        session.run(fade)
        session.run(mean)
        assert session.run(nearest).tolist() == [[0, -1, -1]]
        np.testing.assert_allclose(session.run(centers.ctrs)[0], 11 / 3, rtol=1e-6)
        assert session.run(centers.counts).tolist() == [3, 0, 0]
        values = tf.Summary.FromString(session.run(summary)).value
        (seen,) = [v.simple_value for v in values if v.tag.endswith("share_of_classes_seen")]
        assert seen == pytest.approx(1 / 3)


@pytest.mark.parametrize("shards", [None, 2])
def test_checkpoints(shards, use_resource, tmp_path):
    """int64 counts are read into float64 ones, float64 ones as they are, and never the reverse."""
    paths = {}
    for dtype in ("int64", "float64"):
        with tf.Graph().as_default():
            make_centers(tf_centers, True, count_dtype=dtype, initial_counts=GIVEN)
            half = UPDATE(np.ones([1, D]), [0], tf_centers.FadingMean(0.5)) if "f" in dtype else ()
            saver = tf.train.Saver()
            with initialized_session() as session:
                session.run(half)
                paths[dtype] = saver.save(session, str(tmp_path / dtype))
    centers = make_centers(tf_centers, use_resource, shards=shards, **FADES)
    make_centers(tf_centers, use_resource, scope="whole")
    ops = {one: tf_centers.warm_start_embed_centers(path) for one, path in paths.items()}
    with pytest.raises(ValueError, match="expected counts .*integer dtype, found .*float64"):
        tf_centers.warm_start_embed_centers(paths["float64"], "whole", "embed/ctrs")
    with initialized_session() as session:
        for dtype, expected in (("int64", GIVEN), ("float64", GIVEN / 2 + np.eye(C)[0])):
            session.run(ops[dtype])
            np.testing.assert_array_equal(read_state(session, centers)[1], expected)
