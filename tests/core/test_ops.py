"""What get, update and lookup do with centers, whatever the updater."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D, make_batch, make_centers, make_ctrs, placeholders, state_bits

import tf_centers

WINDOW = reference.exponential_window
# Of embeddings, labels and mask.
SHAPES = {
    "static column": ([B, D], [B, 1], [B]),
    "no batch": ([None, D], [None], [None]),
    "embeds static": ([B, D], [None], None),
    "labels static": ([None, D], [B], [None]),
    "mask static": ([None, D], [None], [B]),
    "nothing but rank": ([None, None], [None, None], [None]),
    "nothing": (None, None, None),
    "labels unknown": ([None, D], None, None),
    "static shards": ([B, D], [B], [B]),
    "shards": ([None, D], [None], [None]),
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_known_or_not(name, use_resource, session):
    embeds_shape, labels_shape, mask_shape = SHAPES[name]
    make_centers(tf_centers, use_resource, shards=2 if "shards" in name else None)
    embeds = tf.placeholder(tf.float32, embeds_shape)
    labels, mask = tf.placeholder(tf.int64, labels_shape), tf.placeholder(tf.bool, mask_shape)
    result = tf_centers.get_embed_centers(embeds, labels)
    found = tf_centers.lookup_embed_centers(labels)
    known = B if B in (embeds_shape or [])[:1] + (labels_shape or [])[:1] else None
    assert result.shape.as_list() == [known, D]
    switch = tf.placeholder(tf.bool, [])
    masked = tf_centers.get_embed_centers(embeds, labels, mask=mask, is_training=switch)
    assert masked.shape.as_list() == [B if mask_shape == [B] else known, D]
    two_axes = len(labels_shape or [0]) == 2 and labels_shape[1] != 1
    expected = [(labels_shape or [None])[0]] + [None] * two_axes + [D]
    assert found.shape.as_list() == expected
    batch, batch_labels = make_batch(0)
    column = labels_shape is None or len(labels_shape) == 2
    feed = {embeds: batch, labels: batch_labels[:, None] if column else batch_labels}
    expected, _ = reference.apply(WINDOW, np.zeros([C, D]), np.zeros(C), batch, batch_labels)
    feed.update({mask: np.ones(B, bool), switch: True})
    rows = session.run(result, feed)
    np.testing.assert_allclose(rows, expected[batch_labels], atol=1e-6)
    np.testing.assert_array_equal(session.run(found, feed).reshape(B, D), rows)
    assert session.run(masked, feed).shape == (B, D)


@pytest.mark.parametrize("training, read", [(False, "after"), ("tensor", "before")])
def test_not_training_is_a_lookup(training, read, use_resource, session):
    initial = np.arange(C * D).reshape(C, D)
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    embeds = tf.placeholder(tf.float32, [None, D])
    switch = tf.placeholder_with_default(False, []) if training == "tensor" else training
    mask = [True, True, False]
    result = tf_centers.get_embed_centers(embeds, [3, 0, 3], MEAN, centers, mask, switch, read)
    # Not even a NaN matters to a lookup, and the masked row keeps its own embedding.
    rows = session.run(result, {embeds: [[np.nan] * D, [1.0] * D, [7.5] * D]})
    np.testing.assert_array_equal(rows, [initial[3], initial[0], [7.5] * D])
    ctrs, counts = session.run(list(centers))
    np.testing.assert_array_equal(ctrs, initial)
    assert not counts.any()


@pytest.mark.parametrize("ctrs_dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float64])
def test_dtypes(dtype, ctrs_dtype, use_resource, session):
    ctrs = make_ctrs(use_resource, dtype=ctrs_dtype)
    embeds, labels = placeholders(labels=tf.int32, embeds=dtype)
    mask = tf.constant([True] * (B - 1) + [False])
    switch = tf.placeholder_with_default(True, [])
    result = tf_centers.get_embed_centers(embeds, labels, MEAN, ctrs, mask, switch)
    loss = tf_centers.center_loss(embeds, result)
    distances = tf_centers.nearest_centers(embeds, ctrs).distances
    assert result.dtype == ctrs_dtype and distances.dtype == ctrs_dtype
    batch, batch_labels = make_batch(4)
    batch = np.round(batch * 8) / 8  # exact in every dtype,
    batch[-1] += 0.03  # but for the masked row
    expected, _ = reference.apply(
        reference.cumulative_mean, np.zeros([C, D]), np.zeros(C), batch[:-1], batch_labels[:-1]
    )
    atol = {tf.float16: 4e-3, tf.bfloat16: 4e-2, tf.float32: 1e-6, tf.float64: 1e-13}[ctrs_dtype]
    feed = {embeds: batch.astype(dtype.as_numpy_dtype), labels: batch_labels}
    rows, found_loss = session.run([result, loss], feed)
    np.testing.assert_array_equal(rows[-1], feed[embeds][-1].astype(rows.dtype))
    rows = rows.astype(np.float64)  # NumPy has no bfloat16 of its own
    np.testing.assert_allclose(rows[:-1], expected[batch_labels[:-1]], atol=atol)
    assert float(found_loss[-1]) == 0.0


@pytest.mark.parametrize(
    "size, known, training",
    [
        (0, True, True),
        (0, True, False),
        (0, False, "tensor"),
        (0, False, True),
        (3, True, "tensor"),
        (3, False, True),
    ],
)
def test_an_empty_batch(size, known, training, use_resource, session):
    """Or a masked one. TensorFlow's optimizer divided by the number of constant rows, and died."""
    centers = make_centers(tf_centers, use_resource, initializer=np.full([C, D], 1 / 7))
    batch, labels = np.full([size, D], np.nan, np.float32), np.full([size], -1, np.int32)
    given = [batch, labels] if known else placeholders(labels=tf.int32)
    feed = {} if known else dict(zip(given, (batch, labels)))
    mask = tf.zeros([size], tf.bool) if size else None
    rate = tf.placeholder_with_default(0.9, [])
    switch = tf.placeholder_with_default(True, []) if training == "tensor" else training
    after, before = (
        tf_centers.get_embed_centers(*given, updater, centers, mask, switch, read)
        for updater, read in ((MEAN, "after"), (tf_centers.ExponentialWindow(rate), "before"))
    )
    update = tf_centers.update_embed_centers(*given, tf_centers.WenUpdate(rate), centers, mask)
    loss = tf_centers.center_loss(given[0], after)
    state = state_bits(session, *centers)
    *found, losses, _ = session.run([after, before, loss, update], feed)
    for rows in found:
        np.testing.assert_array_equal(rows, batch)
    assert losses.shape == (size,)
    assert state_bits(session, *centers) == state


def test_validate_args_false_drops_the_run_time_checks(use_resource, session):
    make_ctrs(use_resource)
    rate = tf.placeholder_with_default(1.5, [])
    updater = tf_centers.ExponentialWindow(rate)
    rows = tf_centers.get_embed_centers([[np.nan] * D], [1], updater, validate_args=False)
    assert np.isnan(session.run(rows)).all()
