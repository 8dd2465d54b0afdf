"""`stop_gradient=False`: the gradient of an update to the embeddings of its batch."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import C, D, make_batch, make_centers, make_ctrs
from updaters import UPDATERS

import tf_centers

B, T = 9, 3
# How the batch comes; of the ways of an updater that needs counts, those in which they matter.
WAYS = {
    "window": ["masked", "locked", "shards", "static", "rank unknown", "masked steps"],
    "debiased": ["masked", "locked", "switch", "shards", "steps"],
}
CASES = [(name, "plain") for name in sorted(UPDATERS)]
CASES += [(name, way) for name, ways in WAYS.items() for way in ways]


@pytest.mark.parametrize("name, way", CASES)
def test_derivatives_are_the_row_weights(name, way, use_resource, warnings, recwarn, session):
    """And come as a dense tensor."""
    rng = np.random.RandomState(5)
    embeds, labels = make_batch(5, rows=B)
    mask = rng.rand(B) < 0.7 if "masked" in way else np.ones(B, bool)
    assert "masked" not in way or not mask.all()
    axes = [B // T, T] if "steps" in way else [B]
    shape = {"static": [B, D], "rank unknown": None}.get(way, [None] * len(axes) + [D])
    how = dict(dtype=tf.float64, count_dtype=UPDATERS[name].count_dtype)
    centers = make_centers(tf_centers, use_resource, shards=3 if way == "shards" else None, **how)
    holder = tf.placeholder(tf.float64, shape)
    rows = tf_centers.get_embed_centers(
        holder,
        labels.reshape(axes),
        UPDATERS[name].updater,
        centers,
        mask=mask.reshape(axes) if "masked" in way else None,
        use_locking=way == "locked",
        is_training=tf.placeholder_with_default(True, []) if way == "switch" else True,
        stop_gradient=False,
    )
    upstream = rng.randn(B, D)
    (gradient,) = tf.gradients(rows, holder, upstream.reshape(axes + [D]))
    assert isinstance(gradient, tf.Tensor)
    texts = warnings + [str(one.message) for one in recwarn]
    assert not [text for text in texts if "IndexedSlices" in text or "dense" in text]
    same = (labels[:, None] == labels) & mask[:, None] & mask
    later = (same & (np.arange(B)[:, None] < np.arange(B))).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(mask, UPDATERS[name].weigh(0, same.sum(axis=1), later), 0)
    expected = weights[:, None] * (same.T @ upstream)
    found, rows = session.run([gradient, rows], {holder: embeds.reshape(axes + [D])})
    np.testing.assert_allclose(found.reshape([B, D]), expected, atol=1e-12)
    state = np.zeros([C, D]), np.zeros(C)
    ctrs, _ = reference.apply(UPDATERS[name].rule, *state, embeds, labels, mask)
    rows_expected = np.where(mask[:, None], ctrs[labels], embeds)
    np.testing.assert_allclose(rows.reshape([B, D]), rows_expected, atol=1e-12)


@pytest.mark.parametrize("training", [True, False, "tensor"])
def test_none_flows_to_the_table_or_the_rate(training, use_resource, session):
    ctrs = make_ctrs(use_resource, trainable=True)  # as many legacy graphs make it
    embeds, decay = tf.ones([3, D]), tf.placeholder_with_default(0.9, [])
    switch = tf.placeholder_with_default(False, [])
    rows = tf_centers.get_embed_centers(
        embeds,
        [1, 1, 2],
        tf_centers.ExponentialWindow(decay),
        is_training=switch if training == "tensor" else training,
        stop_gradient=False,
    )
    assert tf.gradients(rows, [ctrs, decay]) == [None, None]
    (gradient,) = tf.gradients(rows, [embeds])
    assert (gradient is None) == (training is False)
    if training:
        assert session.run(gradient).any() == (training is True)


def test_unasked_none_flows_but_that_of_a_loss(use_resource, session):
    ctrs = make_ctrs(use_resource, initial=np.ones([C, D]))
    batch, labels = make_batch(5)
    embeds, mask = tf.constant(batch, tf.float32), np.arange(len(batch)) > 0
    rows = tf_centers.get_embed_centers(embeds, labels, None, ctrs, mask)
    looked_up = tf_centers.lookup_embed_centers(labels, ctrs)
    distances = tf_centers.nearest_centers(embeds, ctrs).distances
    loss = tf_centers.center_loss(embeds, rows)
    assert tf.gradients(rows, [embeds, ctrs]) == [None, None]
    assert tf.gradients(looked_up, [ctrs]) == [None]
    assert tf.gradients(distances, [embeds, ctrs]) == [None, None]
    gradients = tf.gradients(loss, [embeds, ctrs, rows])
    assert gradients[1:] == [None, None]
    found, x, c = session.run([gradients[0], embeds, rows])
    np.testing.assert_allclose(found, x - c, rtol=1e-6)
    assert not found[0].any() and found[1:].all()
