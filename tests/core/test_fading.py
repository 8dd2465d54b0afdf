"""Counts that fade: those of all classes, by every update and by nothing else."""

import threading

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
from three_replicas import REPLICAS, copies, get, make, on_three_replicas, run, state

import tf_centers

GET, UPDATE = tf_centers.get_embed_centers, tf_centers.update_embed_centers
FADES = {"count_dtype": tf.float64}
GIVEN = np.arange(1, C + 1)


@pytest.mark.parametrize("shards", [None, 3])
def test_nothing_fades_without_an_update(shards, use_resource, session):
    centers = make_centers(tf_centers, use_resource, shards=shards, initial_counts=GIVEN, **FADES)
    (embeds, labels), mask = placeholders(), tf.placeholder_with_default(np.ones(B, bool), [None])
    training, decay = tf.placeholder_with_default(True, []), tf.placeholder_with_default(0.5, [])
    updater = tf_centers.FadingMean(decay)
    fetches = [GET(embeds, labels, updater, centers, mask, training, use_locking=True)]
    fetches += [UPDATE(embeds, labels, updater, centers, mask, use_locking=True)]
    batch = dict(zip((embeds, labels), make_batch(0)))
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


def test_a_lookup_writes_no_counts(use_resource, session):
    """Lookups of other threads meanwhile would undo updates."""
    centers = make_centers(tf_centers, use_resource, 100_000, 1, **FADES)
    training = tf.placeholder(tf.bool, [])
    updater = tf_centers.FadingMean(1.0)
    rows = GET(tf.ones([1, 1]), [3], updater, centers, is_training=training)
    session.run(rows, {training: True})
    done = threading.Event()

    def look_up():
        while not done.is_set():
            session.run(rows, {training: False})

    threads = [threading.Thread(target=look_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        session.run(rows, {training: True})
    done.set()
    for thread in threads:
        thread.join()
    assert read_state(session, centers)[1][3] == 101


@on_three_replicas
def test_replicas_fade_once_and_keep_a_constraint():
    unit = {"constraint": lambda ctrs: tf.nn.l2_normalize(ctrs, axis=1)}
    centers = make(initial_counts=[8, 6, 4, 2], **FADES, **unit)
    parts = [np.float32([[1, 2]]), np.zeros([0, 2], np.float32), np.float32([[5, 0], [4, 4]])]
    labels, updater = [np.array(own, int) for own in ([1], [], [1, 3])], tf_centers.FadingMean(0.5)
    run(get(centers, updater), parts, labels)
    for ctrs, counts in zip(*copies(centers)):
        np.testing.assert_array_equal(counts, [4, 5, 2, 2])
        # Of the means [1.2, 0.4] and [2, 2].
        expected = [[0, 0], [0.9**0.5, 0.1**0.5], [0, 0], [0.5**0.5, 0.5**0.5]]
        np.testing.assert_allclose(ctrs, expected, rtol=1e-6)
    before = state(centers)
    assert len(set(before)) == 2
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


def test_other_calls_on_float64_counts(use_resource, session):
    """A class whose count faded to 0 is one never seen; other updaters count whole rows."""
    centers = make_centers(tf_centers, use_resource, 3, 1, initial_counts=[1, 1, 0], **FADES)
    fade = UPDATE([[4.0]], [0], tf_centers.FadingMean(0.0), centers)
    mean = UPDATE([[6.0], [1.0]], [0, 0], MEAN, centers)
    nearest = tf_centers.nearest_centers([[0.0]], centers, k=3).labels
    summary = tf_centers.summarize_centers(centers)
    assert session.run(nearest).tolist() == [[0, 1, -1]]
    session.run(fade)
    session.run(mean)
    assert session.run(nearest).tolist() == [[0, -1, -1]]
    np.testing.assert_allclose(session.run(centers.ctrs)[0], 11 / 3, rtol=1e-6)
    assert session.run(centers.counts).tolist() == [3, 0, 0]
    values = tf.Summary.FromString(session.run(summary)).value
    (seen,) = [v.simple_value for v in values if v.tag.endswith("share_of_classes_seen")]
    assert seen == pytest.approx(1 / 3)


def test_checkpoints(use_resource, tmp_path, session):
    """int64 counts are read into float64 ones, float64 ones as they are, and never the reverse."""
    paths = {}
    for dtype in ("int64", "float64"):
        with tf.Graph().as_default():
            make_centers(tf_centers, True, count_dtype=dtype, initial_counts=GIVEN)
            half = UPDATE(np.ones([1, D]), [0], tf_centers.FadingMean(0.5)) if "f" in dtype else ()
            saver = tf.train.Saver()
            with initialized_session() as saved:
                saved.run(half)
                paths[dtype] = saver.save(saved, str(tmp_path / dtype))
    centers = make_centers(tf_centers, use_resource, shards=2, **FADES)
    make_centers(tf_centers, use_resource, scope="whole")
    ops = {one: tf_centers.warm_start_embed_centers(path) for one, path in paths.items()}
    with pytest.raises(ValueError, match="expected counts .*integer dtype, found .*float64"):
        tf_centers.warm_start_embed_centers(paths["float64"], "whole", "embed/ctrs")
    for dtype, expected in (("int64", GIVEN), ("float64", GIVEN / 2 + np.eye(C)[0])):
        session.run(ops[dtype])
        np.testing.assert_array_equal(read_state(session, centers)[1], expected)
