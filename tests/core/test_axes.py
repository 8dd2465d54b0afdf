"""Embeddings `[B, T, D]` with labels `[B, T]`: the batch of their rows, in row-major order."""

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    C,
    D,
    check_refused,
    initialized_session,
    make_batch,
    make_centers,
    make_ctrs,
    read_state,
    state_bits,
)
from tf2_code import as_called, eager_centers, eager_or_function, in_tf2

import tf_centers

# All different from one another, and from C and D.
B, T = 4, 3
WINDOW = tf_centers.ExponentialWindow(0.7)
InvalidArgumentError = tf.errors.InvalidArgumentError
SHAPES = {
    "static": ([B, T, D], [B, T]),
    "any time": ([B, None, D], [B, None]),
    "rank alone": ([None, None, None], [None, None]),
    "labels unknown": ([None, None, D], None),
    "told by the labels": ([None, None, D], [B, T]),
}


def window(center, seen, rows):
    return reference.exponential_window(center, seen, rows, 0.7)


def make_steps(seed=0):
    embeds, labels = make_batch(seed, rows=B * T)
    keep = np.arange(B * T) % 5 != 2
    return embeds.reshape([B, T, D]), labels.reshape([B, T]), keep.reshape([B, T])


def expect(ctrs, embeds, labels, keep):
    """The rows that come back and the state, by the oracle on single rows in row-major order."""
    flat = embeds.reshape([-1, D]), labels.ravel(), keep.ravel()
    ctrs, counts = reference.apply(window, ctrs, np.zeros(C, int), *flat)
    rows = [ctrs[label] if kept else row for row, label, kept in zip(*flat)]
    return np.reshape(rows, embeds.shape), ctrs, counts


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shapes", sorted(SHAPES))
def test_rows_come_back_in_their_shape(shapes, masked, use_resource):
    centers = make_centers(tf_centers, use_resource)
    embeds_shape, axes = SHAPES[shapes]
    embeds, labels = tf.placeholder(tf.float32, embeds_shape), tf.placeholder(tf.int32, axes)
    mask = tf.placeholder(tf.bool, axes) if masked else None
    result = tf_centers.get_embed_centers(embeds, labels, WINDOW, centers, mask)
    looked_up = tf_centers.get_embed_centers(
        embeds, labels, WINDOW, centers, mask, is_training=False
    )
    known = [B, T] if axes == [B, T] else embeds_shape[:2]
    assert result.shape.as_list() == looked_up.shape.as_list() == known + [D]
    values = make_steps()
    keep = values[2] if masked else np.ones([B, T], bool)
    rows, ctrs, counts = expect(np.zeros([C, D]), *values[:2], keep)
    feed = {embeds: values[0], labels: np.where(keep, values[1], -1)}
    if masked:
        feed[mask] = keep
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(result, feed), rows, atol=1e-6)
        np.testing.assert_allclose(session.run(centers.ctrs), ctrs, atol=1e-6)
        np.testing.assert_array_equal(session.run(centers.counts), counts)
        before = state_bits(session, *centers)
        np.testing.assert_allclose(session.run(looked_up, feed), rows, atol=1e-6)
        assert state_bits(session, *centers) == before


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("training", [True, False])
def test_update_and_a_switch(shards, training, use_resource):
    centers = make_centers(tf_centers, use_resource, shards=shards)
    values = make_steps()
    batch = tf.constant(values[0], tf.float32), values[1], WINDOW, centers, values[2]
    update = tf_centers.update_embed_centers(*batch, use_locking=True)
    with tf.control_dependencies([update]):
        switch = tf.placeholder_with_default(training, [])
        result = tf_centers.get_embed_centers(*batch, is_training=switch, use_locking=True)
    rows, ctrs, _ = expect(np.zeros([C, D]), *values)
    if training:
        rows, ctrs, _ = expect(ctrs, *values)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(result), rows, atol=1e-6)
        np.testing.assert_allclose(read_state(session, centers)[0], ctrs, atol=1e-6)


@pytest.mark.parametrize("columns", [T, 0])
def test_lookup(columns, use_resource):
    initial = np.random.RandomState(1).randn(C, D).astype(np.float32)
    make_ctrs(use_resource, initial=initial)
    labels = tf.placeholder(tf.int64, [None, columns])
    rows = tf_centers.lookup_embed_centers(labels)
    assert rows.shape.as_list() == [None, columns, D]
    fed = make_steps()[1][:, :columns]
    with initialized_session() as session:
        np.testing.assert_array_equal(session.run(rows, {labels: fed}), initial[fed])
        if columns:
            bad = np.where(fed == fed[0, 0], C, fed)
            check_refused(session, rows, {labels: bad}, r"lookup_embed.* label in \[0, 7\)")


@pytest.mark.parametrize("shape", [[B, 1], None])
def test_labels_of_one_column_stay_a_column(shape, use_resource):
    initial = np.random.RandomState(1).randn(C, D).astype(np.float32)
    make_ctrs(use_resource, initial=initial)
    labels = tf.placeholder(tf.int64, shape)
    rows = tf_centers.lookup_embed_centers(labels)
    with initialized_session() as session:
        found = session.run(rows, {labels: [[3], [0], [6], [3]]})
        np.testing.assert_array_equal(found, initial[[3, 0, 6, 3]])
        if shape != [B, 1]:
            with pytest.raises(InvalidArgumentError, match=r"label_batch of shape \[B\] or \[B, 1"):
                session.run(rows, {labels: make_steps()[1]})


def test_one_step_keeps_its_axis(use_resource):
    """Embeddings `[B, 1, D]` with labels `[B, 1]`, which with `[B, D]` are a column."""
    make_ctrs(use_resource)
    embeds, labels, _ = make_steps()
    rows = tf_centers.get_embed_centers(tf.constant(embeds[:, :1]), labels[:, :1], WINDOW)
    assert rows.shape.as_list() == [B, 1, D]
    expected, _, _ = expect(np.zeros([C, D]), embeds[:, :1], labels[:, :1], np.ones([B, 1], bool))
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(rows), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [[0, T], [B, 0]])
def test_no_rows(shape, use_resource):
    centers = make_centers(tf_centers, use_resource)
    embeds = tf.placeholder(tf.float32, [None, None, D])
    labels, mask = tf.placeholder(tf.int32, [None, None]), tf.placeholder(tf.bool)
    results = [
        tf_centers.get_embed_centers(embeds, labels, MEAN, centers, given, switch)
        for given in (None, mask)
        for switch in (True, False, tf.placeholder_with_default(True, []))
    ]
    feed = {embeds: np.zeros(shape + [D]), labels: np.zeros(shape), mask: np.zeros(shape, bool)}
    with initialized_session() as session:
        for result in results:
            assert session.run(result, feed).shape == tuple(shape + [D])
        assert not session.run(centers.counts).any()


def test_gradients_are_the_row_weights(use_resource):
    """With `stop_gradient=False`: those of the same rows in a batch `[B * T, D]`."""
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64)
    values = make_steps()
    embeds = tf.placeholder(tf.float64, [None, None, D])
    rows = tf_centers.get_embed_centers(
        embeds, values[1], WINDOW, centers, values[2], stop_gradient=False
    )
    flat = [value.reshape([B * T]) for value in values[1:]]
    alone = tf_centers.get_embed_centers(
        tf.reshape(embeds, [-1, D]), flat[0], WINDOW, centers, flat[1], stop_gradient=False
    )
    factors = np.random.RandomState(2).randn(B, T, D)
    losses = [tf.reduce_sum(tf.reshape(found, [B, T, D]) * factors) for found in (rows, alone)]
    gradients = [tf.gradients(loss, embeds)[0] for loss in losses]
    with initialized_session() as session:
        found, expected = session.run(gradients, {embeds: values[0]})
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert not found[~values[2]].any() and np.abs(found).max() > 0.1


WRONG = {
    "labels of the rows": (
        [B, T, D],
        [B * T],
        None,
        r"label_batch .*\[B, T\].*B = 4 and T = 3.*12",
    ),
    "labels a column": ([B, T, D], [B, 1], None, r"label_batch .*\[B, T\].*4, 1"),
    "labels the other way": ([B, T, D], [T, B], None, r"label_batch .*\[B, T\].*3, 4"),
    "labels of rank 3": ([B, T, D], [B, T, 1], None, r"label_batch .*\[B, T\].*4, 3, 1"),
    "mask of the batch": ([B, T, D], [B, T], [B], r"mask .*\[B, T\].*4"),
    "mask the other way": ([B, T, D], [B, T], [T, B], r"mask .*\[B, T\].*3, 4"),
    "dims": ([B, T, D + 1], [B, T], None, r"embed_batch .*\[B, T, 5\].*4, 3, 6"),
    "rank 4": ([B, T, 1, D], [B, T], None, r"embed_batch .*\[B, 5\].*4, 3, 1, 5"),
    "embeddings [B, D]": ([B, D], [B, T], None, r"label_batch .*\[B, 1\].*4, 3.*tf.argmax"),
}


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers"])
@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_shapes_that_do_not_fit(wrong, call, use_resource):
    """Known when building, and with nothing known but that the embeddings have three axes."""
    centers = make_centers(tf_centers, use_resource)
    *shapes, message = WRONG[wrong]
    arrays = [None if shape is None else np.ones(shape) for shape in shapes]
    arguments = [
        None if array is None else tf.constant(array.astype(dtype))
        for array, dtype in zip(arrays, (np.float32, np.int32, bool))
    ]
    build = getattr(tf_centers, call)
    with pytest.raises(ValueError, match=f"^{call}: {message}"):
        build(*arguments[:2], mask=arguments[2])
    if len(shapes[0]) != 3:
        return
    embeds, labels = tf.placeholder(tf.float32, [None] * 3), tf.placeholder(tf.int32)
    mask = None if arrays[2] is None else tf.placeholder(tf.bool)
    result = build(embeds, labels, MEAN, centers, mask)
    feed = {embeds: arrays[0], labels: arrays[1]}
    if mask is not None:
        feed[mask] = arrays[2]
    with initialized_session() as session:
        message = f"(?s){call}: expected .*" + message.split(".*")[0]
        check_refused(session, result, feed, message + ".*found shape", *centers)


def test_an_unknown_rank_means_two(use_resource):
    make_ctrs(use_resource)
    embeds, labels = tf.placeholder(tf.float32), tf.placeholder(tf.int32)
    result = tf_centers.get_embed_centers(embeds, labels)
    values = make_steps()
    with initialized_session() as session:
        feed = {embeds: values[0], labels: values[1]}
        check_refused(session, result, feed, r"_batch of shape \[B.*\], found")


@in_tf2
@eager_or_function
def test_in_tf2_code(how):
    centers = eager_centers()

    def step(embeds, labels, mask):
        rows = tf_centers.get_embed_centers(embeds, labels, WINDOW, centers, mask)
        return rows, tf_centers.lookup_embed_centers(labels[:, :2], centers)

    values = make_steps()
    step = as_called(how, step)
    rows, found = step(tf.constant(values[0], tf.float32), *map(tf.constant, values[1:]))
    expected, ctrs, _ = expect(np.zeros([C, D]), *values)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    np.testing.assert_allclose(found, ctrs[values[1][:, :2]], atol=1e-6)


@in_tf2
def test_lookup_under_xla():
    ctrs = tensorflow.Variable(np.random.RandomState(1).randn(C, D).astype(np.float32))
    look_up = tensorflow.function(
        lambda labels: tf_centers.lookup_embed_centers(labels, ctrs), jit_compile=True
    )
    labels = make_steps()[1]
    np.testing.assert_array_equal(look_up(tf.constant(labels)), ctrs.numpy()[labels])
    found = look_up(tf.constant(np.where(labels == labels[0, 0], C, labels)))
    assert found.shape == (B, T, D) and np.isnan(found).all()
