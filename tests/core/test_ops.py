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
# Of embeddings, labels and mask.
SHAPES = {
    "static": ([B, D], [B], [B]),
    "static column": ([B, D], [B, 1], [B]),
    "no batch": ([None, D], [None], [None]),
    "embeds static": ([B, D], [None], None),
    "labels static": ([None, D], [B], [None]),
    "mask static": ([None, D], [None], [B]),
    "column": ([None, D], [None, 1], [None]),
    "nothing but rank": ([None, None], [None, None], [None]),
    "nothing": (None, None, None),
    "labels unknown": ([None, D], None, None),
}


@pytest.mark.parametrize(
    "name, shards", [(name, None) for name in sorted(SHAPES)] + [("static", 2), ("no batch", 2)]
)
def test_shapes_known_or_not(name, shards, use_resource):
    embeds_shape, labels_shape, mask_shape = SHAPES[name]
    make_centers(tf_centers, use_resource, shards=shards)
    embeds = tf.placeholder(tf.float32, embeds_shape)
    labels, mask = tf.placeholder(tf.int64, labels_shape), tf.placeholder(tf.bool, mask_shape)
    result = tf_centers.get_embed_centers(embeds, labels)
    found = tf_centers.lookup_embed_centers(labels)
    nearest = tf_centers.nearest_centers(embeds, k=2)
    loss = tf_centers.center_loss(embeds, result)
    known = B if B in (embeds_shape or [])[:1] + (labels_shape or [])[:1] else None
    assert result.shape.as_list() == [known, D]
    for training in (True, False, tf.placeholder(tf.bool, [])):
        masked = tf_centers.get_embed_centers(embeds, labels, mask=mask, is_training=training)
        assert masked.shape.as_list() == [B if mask_shape == [B] else known, D]
    two_axes = len(labels_shape or [0]) == 2 and labels_shape[1] != 1
    expected = [(labels_shape or [None])[0]] + [None] * two_axes + [D]
    assert found.shape.as_list() == expected
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
        if not known:
            none = session.run(nearest, {embeds: np.zeros([0, D])})
            assert none.labels.shape == none.distances.shape == (0, 2)


@pytest.mark.parametrize("training", ["False", "tensor"])
@pytest.mark.parametrize("read", ["after", "before"])
def test_not_training_is_a_lookup(training, read, use_resource):
    initial = np.arange(C * D).reshape(C, D)
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    embeds = tf.placeholder(tf.float32, [None, D])
    switch = False if training == "False" else tf.placeholder_with_default(False, [])
    mask = [True, True, False]
    result = tf_centers.get_embed_centers(embeds, [3, 0, 3], MEAN, centers, mask, switch, read)
    with initialized_session() as session:
        # Not even a NaN matters to a lookup, and the masked row keeps its own embedding.
        rows = session.run(result, {embeds: [[np.nan] * D, [1.0] * D, [7.5] * D]})
        np.testing.assert_array_equal(rows, [initial[3], initial[0], [7.5] * D])
        ctrs, counts = session.run(list(centers))
        np.testing.assert_array_equal(ctrs, initial)
        assert not counts.any()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("ctrs_dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_dtypes(dtype, ctrs_dtype, use_resource):
    ctrs = make_ctrs(use_resource, dtype=ctrs_dtype)
    embeds, labels = placeholders(labels=tf.int32, embeds=dtype)
    mask = tf.constant([True] * (B - 1) + [False])
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
    atol = {tf.float16: 4e-3, tf.bfloat16: 4e-2, tf.float32: 1e-6, tf.float64: 1e-13}[ctrs_dtype]
    with initialized_session() as session:
        feed = {embeds: batch.astype(dtype.as_numpy_dtype), labels: batch_labels}
        rows, found_loss = session.run([result, loss], feed)
        rows = rows.astype(np.float64)  # NumPy has no bfloat16 of its own
        np.testing.assert_allclose(rows[:-1], expected[batch_labels[:-1]], atol=atol)
        np.testing.assert_array_equal(rows[-1], batch[-1])
        assert float(found_loss[-1]) == 0.0


@pytest.mark.parametrize("known", ["constants", "placeholders"])
@pytest.mark.parametrize("size", [0, 3], ids=["no rows", "all masked"])
@pytest.mark.parametrize("training", [True, False, "tensor"])
def test_an_empty_batch(training, size, known, use_resource):
    """TensorFlow's optimizer divided by the number of constant rows, which ends the process."""
    centers = make_centers(tf_centers, use_resource, initializer=np.full([C, D], 1 / 7))
    batch, mask = np.full([size, D], np.nan, np.float32), tf.zeros([size], tf.bool)
    labels, feed = np.full([size], -1, np.int32), {}
    given = [batch, labels]
    if known == "placeholders":
        given = placeholders(labels=tf.int32)
        feed = dict(zip(given, (batch, labels)))
    rate = tf.placeholder_with_default(0.9, [])
    switch = tf.placeholder_with_default(True, []) if training == "tensor" else training
    results, losses, updates = [], [], []
    for name in ("cumulative", "window", "wen"):
        how = dict(updater=UPDATERS[name].make(rate), centers=centers, mask=mask if size else None)
        for read in ("after", "before"):
            rows = tf_centers.get_embed_centers(*given, is_training=switch, read=read, **how)
            results.append(rows)
        losses.append(tf_centers.center_loss(given[0], rows))
        updates.append(tf_centers.update_embed_centers(*given, **how))
    with initialized_session() as session:
        before = state_bits(session, *centers)
        found, losses, nothing = session.run([results, losses, updates], feed)
        assert nothing == [None] * len(updates)
        for rows in found:
            np.testing.assert_array_equal(rows, batch)
        assert all(loss.shape == (size,) for loss in losses)
        assert state_bits(session, *centers) == before


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
