"""Gradients through an update are dense; losses and lookups take a third axis."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch, make_centers

import tf_centers

T = 3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shards", [0, 2])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("shape", ["static", "unknown B", "unknown"])
def test_a_gradient_through_an_update_is_dense(
    shape, axes, shards, masked, use_resource, warnings, recwarn
):
    if (shape, axes) == ("unknown", 3):
        pytest.skip("an unknown rank is taken as [B, D]")
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope("", partitioner=partitioner):
        centers = make_centers(tf_centers, use_resource)
    embeds, labels = make_batch(0)
    mask = np.arange(B) % 4 > 0
    full = [B, D] if axes == 2 else [B // T, T, D]
    batch = embeds.reshape(full), labels.reshape(full[:-1]), mask.reshape(full[:-1])
    hidden = {"static": full, "unknown B": [None] + full[1:], "unknown": None}[shape]
    held = tf.placeholder_with_default(batch[0].astype(np.float32), hidden)
    rows = tf_centers.get_embed_centers(
        held,
        batch[1],
        tf_centers.WenUpdate(0.5),
        centers,
        batch[2] if masked else None,
        stop_gradient=False,
    )
    (gradient,) = tf.gradients(tf.reduce_sum(tf.square(rows)), [held])
    assert isinstance(gradient, tf.Tensor)
    assert not [text for text in warnings if "IndexedSlices" in text or "dense" in text]
    assert not [one for one in recwarn if "IndexedSlices" in str(one.message)]
    with initialized_session() as session:
        found, moved = session.run([gradient, rows])
    kept = mask if masked else np.ones(B, bool)
    expected, moved = np.zeros([B, D]), moved.reshape([B, D])
    for label in set(labels[kept]):
        mine = kept & (labels == label)
        expected[mine] = 2 * moved[mine].sum(0) * 0.5 / (1 + mine.sum())
    np.testing.assert_allclose(found.reshape([B, D]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "shapes",
    [
        ([B, T, D], [B, T, D]),
        ([None, None, D], [B, T, D]),
        ([None, None, None], [None, None, None]),
        ([None, T, D], None),
    ],
    ids=str,
)
def test_center_loss_of_three_axes(shapes):
    rng = np.random.RandomState(0)
    embeds, rows = rng.randn(2, B, T, D).astype(np.float32)
    held = [tf.placeholder(tf.float32, shape) for shape in shapes]
    loss = tf_centers.center_loss(*held)
    gradients = tf.gradients(loss, held)
    assert gradients[1] is None and loss.shape.is_compatible_with([B, T])
    assert loss.shape.ndims == 2
    with tf.Session() as session:
        feed = dict(zip(held, (embeds, rows)))
        found, gradient = session.run([loss, gradients[0]], feed)
        np.testing.assert_allclose(found, 0.5 * ((embeds - rows) ** 2).sum(2), rtol=1e-5)
        np.testing.assert_allclose(gradient, embeds - rows, rtol=1e-6)
        feed[held[1]] = rows[:, :1]
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)) as caught:
            session.run(loss, feed)
        if isinstance(caught.value, tf.errors.InvalidArgumentError):
            assert "center_loss: " in str(caught.value)


def test_center_loss_of_a_masked_batch_of_three_axes(use_resource):
    make_centers(tf_centers, use_resource)
    embeds = np.random.RandomState(0).randn(2, T, D).astype(np.float32)
    mask = [[True, False, True], [False, True, True]]
    rows = tf_centers.get_embed_centers(embeds, [[1, -1, 1], [-1, 2, 3]], None, mask=mask)
    loss = tf_centers.center_loss(embeds, rows)
    assert loss.shape.as_list() == [2, T]
    with initialized_session() as session:
        found = session.run(loss)
    assert (found[~np.array(mask)] == 0).all() and (found[np.array(mask)] > 0).all()


@pytest.mark.parametrize(
    "one, other", [([B, T, D], [B, D]), ([B, T, D], [B, T + 1, D]), ([D], [D])], ids=str
)
def test_center_loss_of_unlike_axes(one, other):
    with pytest.raises(ValueError, match="^center_loss: "):
        tf_centers.center_loss(tf.zeros(one), tf.zeros(other))


@pytest.mark.parametrize("shards", [0, 2])
@pytest.mark.parametrize(
    "shape, size, expected",
    [
        ([None, None], [4, T], [None, None, D]),
        ([4, None], [4, T], [4, None, D]),
        ([None, None], [4, 1], [None, None, D]),
        ([None, None], [0, T], [None, None, D]),
        ([None, T], [4, T], [None, T, D]),
        ([None, 1], [4, 1], [None, D]),
        ([4, 1], [4, 1], [4, D]),
        ([None], [4], [None, D]),
    ],
    ids=str,
)
def test_lookups_of_labels_with_two_axes(shape, size, expected, shards, use_resource):
    table = np.random.RandomState(0).randn(C, D).astype(np.float32)
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope("", partitioner=partitioner):
        make_centers(tf_centers, use_resource, initializer=table)
    held = tf.placeholder(tf.int64, shape)
    rows = tf_centers.lookup_embed_centers(held)
    assert rows.shape.ndims == len(expected) and rows.shape.is_compatible_with(expected)
    labels = np.random.RandomState(1).randint(0, C, size)
    with initialized_session() as session:
        found = session.run(rows, {held: labels})
        wanted = table[labels if len(expected) == 3 else labels.reshape([-1])]
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
        if labels.size:
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"lookup_.*\[0, 7\)"):
                session.run(rows, {held: labels + C})
