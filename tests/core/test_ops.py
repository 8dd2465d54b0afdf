"""What get, update and lookup do with centers, whatever the updater."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    B,
    C,
    D,
    initialized_session,
    make_batch,
    make_centers,
    make_ctrs,
    placeholders,
    state_bits,
)
from updaters import UPDATERS

import tf_centers

WINDOW = reference.exponential_window
SHAPES = {
    "static": ([B, D], [B]),
    "static column": ([B, D], [B, 1]),
    "no batch": ([None, D], [None]),
    "embeds static": ([B, D], [None]),
    "labels static": ([None, D], [B]),
    "column": ([None, D], [None, 1]),
    "nothing but rank": ([None, None], [None, None]),
    "nothing": (None, None),
    "labels unknown": ([None, D], None),
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_known_or_not(name, use_resource, control_flow):
    embeds_shape, labels_shape = SHAPES[name]
    make_ctrs(use_resource)
    embeds = tf.placeholder(tf.float32, embeds_shape)
    labels = tf.placeholder(tf.int64, labels_shape)
    result = tf_centers.get_embed_centers(embeds, labels)
    found = tf_centers.lookup_embed_centers(labels)
    nearest = tf_centers.nearest_centers(embeds, k=2)
    loss = tf_centers.center_loss(embeds, result)
    known = B if B in (embeds_shape or [])[:1] + (labels_shape or [])[:1] else None
    assert result.shape.as_list() == [known, D]
    two_axes = len(labels_shape or [0]) == 2 and labels_shape[1] != 1
    assert found.shape.as_list() == [(labels_shape or [None])[0]] + [None] * two_axes + [D]
    batch, batch_labels = make_batch(0)
    column = labels_shape is None or len(labels_shape) == 2
    feed = {embeds: batch, labels: batch_labels[:, None] if column else batch_labels}
    expected, _ = reference.apply(WINDOW, np.zeros([C, D]), np.zeros(C), batch, batch_labels)
    expected_loss = 0.5 * ((batch - expected[batch_labels]) ** 2).sum(axis=1)
    with initialized_session() as session:
        rows, losses = session.run([result, loss], feed)
        np.testing.assert_allclose(rows, expected[batch_labels], atol=1e-6)
        np.testing.assert_allclose(losses, expected_loss, rtol=1e-5)
        np.testing.assert_array_equal(session.run(found, feed).reshape(B, D), rows)
        assert session.run(nearest.labels, feed).shape == (B, 2)


@pytest.mark.parametrize("training", ["False", "tensor"])
@pytest.mark.parametrize("read", ["after", "before"])
def test_not_training_is_a_lookup(training, read, use_resource, control_flow):
    initial = np.arange(C * D).reshape(C, D)
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    embeds = tf.placeholder(tf.float32, [None, D])
    switch = False if training == "False" else tf.placeholder(tf.bool, [])
    labels = [3, 0, 3]
    mask = [True, True, False]
    result = tf_centers.get_embed_centers(embeds, labels, MEAN, centers, mask, switch, read=read)
    with initialized_session() as session:
        # Not even a NaN matters to a lookup, and the masked row keeps its own embedding.
        feed = {embeds: [[np.nan] * D, [1.0] * D, [7.5] * D]}
        if training == "tensor":
            feed[switch] = False
        rows = session.run(result, feed)
        np.testing.assert_array_equal(rows, [initial[3], initial[0], [7.5] * D])
        ctrs, counts = session.run(list(centers))
        np.testing.assert_array_equal(ctrs, initial)
        assert not counts.any()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("ctrs_dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_dtypes(dtype, ctrs_dtype, use_resource):
    ctrs = make_ctrs(use_resource, dtype=ctrs_dtype)
    embeds = tf.placeholder(dtype, [None, D])
    labels = tf.placeholder(tf.int32, [None])
    mask = tf.placeholder_with_default(np.array([True] * (B - 1) + [False]), [None])
    switch = tf.placeholder_with_default(True, [])
    result = tf_centers.get_embed_centers(embeds, labels, MEAN, ctrs, mask, switch)
    loss = tf_centers.center_loss(embeds, result)
    distances = tf_centers.nearest_centers(embeds, ctrs).distances
    assert result.dtype == ctrs_dtype and distances.dtype == ctrs_dtype
    batch, batch_labels = make_batch(4)
    batch = np.round(batch * 8) / 8  # exact in every dtype
    expected, _ = reference.apply(
        reference.cumulative_mean, np.zeros([C, D]), np.zeros(C), batch[:-1], batch_labels[:-1]
    )
    tolerance = {tf.float16: 4e-3, tf.bfloat16: 4e-2, tf.float32: 1e-6, tf.float64: 1e-13}
    with initialized_session() as session:
        feed = {embeds: batch.astype(dtype.as_numpy_dtype), labels: batch_labels}
        rows, found_loss = session.run([result, loss], feed)
        rows = rows.astype(np.float64)  # NumPy has no bfloat16 of its own
        np.testing.assert_allclose(
            rows[:-1], expected[batch_labels[:-1]], atol=tolerance[ctrs_dtype]
        )
        np.testing.assert_array_equal(rows[-1], batch[-1])
        assert float(found_loss[-1]) == 0.0


def test_empty_lookup_and_nearest(use_resource):
    make_ctrs(use_resource)
    labels, embeds = tf.placeholder(tf.int64), tf.placeholder(tf.float32)
    rows = tf_centers.lookup_embed_centers(labels)
    nearest = tf_centers.nearest_centers(embeds, k=2)
    with initialized_session() as session:
        assert session.run(rows, {labels: []}).shape == (0, D)
        found = session.run(nearest, {embeds: np.zeros([0, D])})
        assert found.labels.shape == found.distances.shape == (0, 2)


def test_no_gradient_but_to_the_embeddings(use_resource):
    ctrs = make_ctrs(use_resource, initial=np.ones([C, D]))
    embeds = tf.constant(make_batch(5)[0], tf.float32)
    labels = tf.constant(make_batch(5)[1])
    mask = tf.constant([False] + [True] * (B - 1))
    rows = tf_centers.get_embed_centers(embeds, labels, None, ctrs, mask)
    looked_up = tf_centers.lookup_embed_centers(labels, ctrs)
    distances = tf_centers.nearest_centers(embeds, ctrs).distances
    loss = tf_centers.center_loss(embeds, rows)
    assert tf.gradients(rows, [embeds, ctrs]) == [None, None]
    assert tf.gradients(looked_up, [ctrs]) == [None]
    assert tf.gradients(distances, [embeds, ctrs]) == [None, None]
    assert tf.gradients(loss, [ctrs, rows]) == [None, None]
    gradient = tf.gradients(loss, [embeds])[0]
    with initialized_session() as session:
        found, x, c = session.run([gradient, embeds, rows])
        np.testing.assert_allclose(found, x - c, rtol=1e-6)
        assert not found[0].any() and found[1:].all()


@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize("control", ["True", "tensor"])
def test_an_update_is_done_once_the_rows_are_there(control, read, use_resource, control_flow):
    """Nothing but the rows is fetched, and the rows of "before" are those of before."""
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64)
    embeds, labels = placeholders(embeds=tf.float64)
    switch = True if control == "True" else tf.placeholder_with_default(True, [])
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers, None, switch, read)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    with initialized_session() as session:
        for step in range(30):
            batch, batch_labels = make_batch(step, rows=200)
            old = ctrs
            ctrs, counts = reference.apply(
                reference.cumulative_mean, ctrs, counts, batch, batch_labels
            )
            found = session.run(rows, {embeds: batch, labels: batch_labels})
            expected = (old if read == "before" else ctrs)[batch_labels]
            np.testing.assert_allclose(found, expected, atol=1e-12)
            np.testing.assert_array_equal(session.run(centers.counts), counts)


def test_update_returns_an_op_that_returns_nothing(use_resource):
    centers = make_centers(tf_centers, use_resource)
    update = tf_centers.update_embed_centers(np.ones([2, D]), [1, 3], None, centers)
    assert isinstance(update, tf.Operation)
    with initialized_session() as session:
        assert session.run(update) is None
        assert session.run(centers.counts).tolist() == [0, 1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("empty", ["no rows", "all masked"])
@pytest.mark.parametrize("training", ["True", "False", "tensor"])
def test_empty_batch(empty, training, use_resource):
    centers = make_centers(tf_centers, use_resource, initializer=np.full([C, D], 1 / 7))
    embeds, labels = placeholders(labels=tf.int32)
    size = 0 if empty == "no rows" else 3
    mask = tf.zeros([size], tf.bool) if size else None
    switch = {"True": True, "False": False, "tensor": tf.placeholder_with_default(True, [])}
    results = [
        tf_centers.get_embed_centers(embeds, labels, e.updater, centers, mask, switch[training])
        for e in UPDATERS.values()
    ]
    losses = [tf_centers.center_loss(embeds, result) for result in results]
    batch = np.full([size, D], np.nan)
    with initialized_session() as session:
        before = state_bits(session, *centers)
        feed = {embeds: batch, labels: [-1] * size}
        for rows, loss in zip(*session.run([results, losses], feed)):
            np.testing.assert_array_equal(rows, batch)
            assert loss.shape == (size,)
        assert state_bits(session, *centers) == before


def test_half_precision_network_gets_full_precision_centers(use_resource):
    # In float16 the window stalls at 0.995 of the way.
    ctrs = make_ctrs(use_resource)
    update = tf_centers.update_embed_centers(tf.ones([4, D], tf.float16), [1] * 4)
    with initialized_session() as session:
        for _ in range(100):
            session.run(update)
        np.testing.assert_allclose(session.run(ctrs)[1], 1.0, atol=1e-6)


def test_two_calls_keep_one_count(use_resource):
    # The mean of the first call makes the counts, and the window of the second keeps them.
    ctrs = make_ctrs(use_resource)
    first = tf_centers.update_embed_centers([[1.0] * D], [3], MEAN)
    with tf.control_dependencies([first]):
        second = tf_centers.get_embed_centers([[4.0] * D], [3])
    (counts,) = [v for v in tf.global_variables() if v is not ctrs]
    with initialized_session() as session:
        # The mean of 1.0 alone, then 0.95 * 1 + 0.05 * 4, as the default updater is.
        np.testing.assert_allclose(session.run(second), [[1.15] * D], rtol=1e-6)
        assert session.run(counts).tolist() == [0, 0, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_validate_args_false_drops_the_run_time_checks(name, use_resource):
    make_ctrs(use_resource)
    embeds, labels = placeholders()
    rate = tf.placeholder_with_default(0.5, [])
    rows = tf_centers.get_embed_centers(
        embeds, labels, UPDATERS[name].make(rate), validate_args=False
    )
    with initialized_session() as session:
        found = session.run(rows, {embeds: [[np.nan] * D], labels: [1], rate: 1.5})
        assert np.isnan(found).all()
