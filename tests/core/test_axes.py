"""Embeddings `[B, T, D]` with labels `[B, T]`: the batch of their rows, in row-major order."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    C,
    D,
    check_refused,
    make_batch,
    make_centers,
    read_state,
    state_bits,
)
from updaters import UPDATERS

import tf_centers

# All different from one another, and from C and D.
B, T = 4, 3
WINDOW, RULE = UPDATERS["window"].updater, UPDATERS["window"].rule


def make_steps(steps=T):
    embeds, labels = make_batch(0, rows=B * steps)
    keep = np.arange(B * steps) % 5 != 2
    return embeds.reshape([B, steps, D]), labels.reshape([B, steps]), keep.reshape([B, steps])


def expect(ctrs, embeds, labels, keep):
    """The rows that come back and the state, by the oracle on single rows in row-major order."""
    flat = embeds.reshape([-1, D]), labels.ravel(), keep.ravel()
    ctrs, counts = reference.apply(RULE, ctrs, np.zeros(C, int), *flat)
    rows = [ctrs[label] if kept else row for row, label, kept in zip(*flat)]
    return np.reshape(rows, embeds.shape), ctrs, counts


@pytest.mark.parametrize(
    "embeds_shape, axes, way",
    [
        ([B, T, D], [B, T], "masked"),
        ([B, None, D], [B, None], "switched shards"),
        ([None, None, None], [None, None], "masked"),
        ([None, None, None], [None, None], "switched shards"),
        ([None, None, D], None, "masked"),
        ([None, None, D], [B, T], "plain"),
        # With embeddings [B, D], such labels are a column.
        ([B, 1, D], [B, 1], "plain"),
    ],
)
def test_rows_come_back_in_their_shape(embeds_shape, axes, way, use_resource, session):
    masked = way == "masked"
    centers = make_centers(tf_centers, use_resource, shards=3 if "shards" in way else None)
    switch = tf.placeholder_with_default(True, []) if "switched" in way else True
    embeds, labels = tf.placeholder(tf.float32, embeds_shape), tf.placeholder(tf.int32, axes)
    mask = tf.placeholder(tf.bool, axes) if masked else None
    batch = embeds, labels, WINDOW, centers, mask
    # Without checks, an optimizer of TensorFlow 1.15 once broke empty batches for shards.
    how = dict(use_locking=masked, validate_args="shards" not in way)
    result = tf_centers.get_embed_centers(*batch, is_training=switch, **how)
    looked_up = tf_centers.get_embed_centers(*batch, is_training=False, **how)
    known = [B, T] if axes == [B, T] else embeds_shape[:2]
    assert result.shape.as_list() == looked_up.shape.as_list() == known + [D]
    values = make_steps(known[1] or T)
    keep = values[2] if masked else np.ones_like(values[2])
    rows, ctrs, counts = expect(np.zeros([C, D]), *values[:2], keep)
    feed = {embeds: values[0], labels: np.where(keep, values[1], -1)}
    if masked:
        feed[mask] = keep
    np.testing.assert_allclose(session.run(result, feed), rows, atol=1e-6)
    found = read_state(session, centers)
    np.testing.assert_allclose(found[0], ctrs, atol=1e-6)
    np.testing.assert_array_equal(found[1], counts)
    before = state_bits(session, *centers)
    np.testing.assert_allclose(session.run(looked_up, feed), rows, atol=1e-6)
    for none in ([0, T], [B, 0]) if known == [None, None] else []:
        feed = {embeds: np.zeros(none + [D]), labels: np.zeros(none)}
        if masked:
            feed[mask] = np.zeros(none, bool)
        for found in session.run([result, looked_up], feed):
            assert found.shape == tuple(none + [D])
    assert state_bits(session, *centers) == before


@pytest.mark.parametrize(
    "shape, size, expected, shards",
    [
        ([None, None], [B, T], [None, None, D], 2),
        ([B, None], [B, T], [B, None, D], None),
        ([None, None], [B, 1], [None, None, D], None),
        ([None, T], [0, T], [None, T, D], 2),
        ([None, 0], [B, 0], [None, 0, D], None),
        # A column stays one.
        ([B, 1], [B, 1], [B, D], None),
        (None, [B, 1], [None, D], 2),
    ],
    ids=str,
)
def test_lookup(shape, size, expected, shards, use_resource, session):
    table = np.random.RandomState(0).randn(C, D).astype(np.float32)
    make_centers(tf_centers, use_resource, shards=shards, initializer=table)
    held = tf.placeholder(tf.int64, shape)
    rows = tf_centers.lookup_embed_centers(held)
    assert rows.shape.as_list() == expected
    labels = np.random.RandomState(1).randint(0, C, size)
    found = session.run(rows, {held: labels})
    np.testing.assert_array_equal(found, table[labels if len(expected) == 3 else labels[:, 0]])
    if labels.size:
        check_refused(session, rows, {held: labels + C}, r"lookup_embed.* label in \[0, 7\)")
    if shape is None:
        message = r"label_batch of shape \[B\] or \[B, 1"
        check_refused(session, rows, {held: make_steps()[1]}, message)


# The shapes of embeddings, labels and mask.
WRONG = {
    "labels of the rows": ([B, T, D], [B * T], None, r"label_batch .*\[B, T\].*B = 4 and T = 3"),
    "labels a column": ([B, T, D], [B, 1], None, r"label_batch .*\[B, T\].*4, 1"),
    "labels the other way": ([B, T, D], [T, B], None, r"label_batch .*\[B, T\].*3, 4"),
    "mask the other way": ([B, T, D], [B, T], [T, B], r"mask .*\[B, T\].*3, 4"),
    "dims": ([B, T, D + 1], [B, T], None, r"embed_batch .*\[B, T, 5\].*4, 3, 6"),
    "rank 4": ([B, T, 1, D], [B, T], None, r"embed_batch .*\[B, 5\].*4, 3, 1, 5"),
    "embeddings [B, D]": ([B, D], [B, T], None, r"label_batch .*\[B, 1\].*4, 3.*tf.argmax"),
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_shapes_that_do_not_fit(wrong, session):
    """Known when building, and with nothing known but that the embeddings have three axes."""
    make_centers(tf_centers, True)
    call = tf_centers.update_embed_centers
    *shapes, message = WRONG[wrong]
    dtypes = (tf.float32, tf.int32, tf.bool)
    zeros = [
        shape and np.zeros(shape, dtype.as_numpy_dtype) for shape, dtype in zip(shapes, dtypes)
    ]
    with pytest.raises(ValueError, match=f"^{call.__name__}: {message}"):
        call(*zeros[:2], mask=zeros[2])
    if len(shapes[0]) == 3:
        held = [tf.placeholder(dtype) for dtype in dtypes]
        held[0].set_shape([None] * 3)
        result = call(*held[:2], MEAN, mask=held[2] if shapes[2] else None)
        feed = {one: value for one, value in zip(held, zeros) if value is not None}
        message = f"(?s){call.__name__}: expected .*{message.split('.*')[0]}.*found shape"
        check_refused(session, result, feed, message)
