"""`stop_gradient=False`: the gradient of an update to the embeddings of its batch."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import C, D, initialized_session, make_batch, make_centers, make_ctrs

import tf_centers

B = 9
RATE = 0.3
UPDATERS = {
    "cumulative": tf_centers.CumulativeMean(),
    "window": tf_centers.ExponentialWindow(0.7),
    "debiased": tf_centers.ExponentialWindow(0.7, debias=True),
    "averaged": tf_centers.ExponentialWindow(0.7, duplicates="mean"),
    "summed": tf_centers.ExponentialWindow(0.7, duplicates="sum"),
    "wen": tf_centers.WenUpdate(RATE),
}


def weights_by_hand(name, labels, seen, mask):
    """Row weights w `[B]` as the table of updaters states them."""
    weights = np.zeros(len(labels))
    for label in set(labels):
        rows = [i for i in range(len(labels)) if labels[i] == label and mask[i]]
        k = len(rows)
        for j, row in enumerate(rows, start=1):
            window = RATE * (1 - RATE) ** (k - j)
            weights[row] = {
                "cumulative": 1 / (seen + k) if k else 0,
                "window": window,
                "debiased": window / (1 - (1 - RATE) ** (seen + k)),
                "averaged": RATE / k if k else 0,
                "summed": RATE,
                "wen": RATE / (1 + k),
            }[name]
    return weights


@pytest.mark.parametrize("name", sorted(UPDATERS))
@pytest.mark.parametrize("how", ["plain", "masked", "locked", "switch", "shards"])
def test_derivatives_are_the_row_weights(name, how, use_resource):
    rng = np.random.RandomState(5)
    embeds, labels = make_batch(5, rows=B)
    mask = rng.rand(B) < 0.7 if how == "masked" else np.ones(B, bool)
    assert how != "masked" or not mask.all()
    partitioner = tf.fixed_size_partitioner(3) if how == "shards" else None
    with tf.variable_scope("", partitioner=partitioner):
        centers = make_centers(tf_centers, use_resource, dtype=tf.float64)
    holder = tf.placeholder(tf.float64, [None, D])
    rows = tf_centers.get_embed_centers(
        holder,
        labels,
        UPDATERS[name],
        centers,
        mask=mask if how == "masked" else None,
        use_locking=how == "locked",
        is_training=tf.placeholder_with_default(True, []) if how == "switch" else True,
        stop_gradient=False,
    )
    upstream = rng.randn(B, D)
    gradient = tf.convert_to_tensor(tf.gradients(rows, holder, upstream)[0])
    weights = weights_by_hand(name, labels, 0, mask)
    same = (labels[:, None] == labels) & mask[:, None] & mask
    expected = weights[:, None] * (same.T @ upstream)
    with initialized_session() as session:
        found = session.run(gradient, {holder: embeds})
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16])
def test_values_are_the_same_bits(dtype, use_resource):
    found = []
    embeds, labels = make_batch(6)
    for stop in (True, False):
        with tf.Graph().as_default():
            centers = make_centers(tf_centers, use_resource, dtype=dtype)
            rows = tf_centers.get_embed_centers(
                embeds, labels, centers=centers, mask=labels > 1, stop_gradient=stop
            )
            with initialized_session() as session:
                found.append([session.run(rows).tobytes(), session.run(centers.ctrs).tobytes()])
    assert found[0] == found[1]


def test_none_flows_to_the_table(use_resource):
    with tf.variable_scope("embed", use_resource=use_resource):
        ctrs = tf.get_variable("ctrs", [C, D])  # trainable, as many legacy graphs make it
    decay = tf.placeholder_with_default(0.9, [])
    embeds = tf.placeholder(tf.float32, [None, D])
    rows = tf_centers.get_embed_centers(
        embeds, [1, 1, 2], tf_centers.ExponentialWindow(decay), stop_gradient=False
    )
    assert tf.gradients(rows, [ctrs, decay]) == [None, None]
    assert tf.gradients(rows, [embeds]) != [None]


def test_not_training_there_is_no_gradient(use_resource):
    make_ctrs(use_resource)
    embeds = tf.placeholder(tf.float32, [None, D])
    training = tf.placeholder(tf.bool, [])
    lookup = tf_centers.get_embed_centers(embeds, [1, 1], is_training=False, stop_gradient=False)
    rows = tf_centers.get_embed_centers(embeds, [1, 1], is_training=training, stop_gradient=False)
    assert tf.gradients(lookup, embeds) == [None]
    gradient = tf.convert_to_tensor(tf.gradients(rows, embeds)[0])
    with initialized_session() as session:
        found = session.run(gradient, {embeds: np.ones([2, D]), training: False})
    assert not found.any()


def test_rows_of_before_have_no_gradient_to_ask_for():
    make_ctrs(True)
    with pytest.raises(ValueError, match="^get_embed_centers: stop_gradient=False .*'before'"):
        tf_centers.get_embed_centers(np.ones([1, D]), [1], read="before", stop_gradient=False)
    with pytest.raises(TypeError, match="^get_embed_centers: stop_gradient must be True or False"):
        tf_centers.get_embed_centers(np.ones([1, D]), [1], stop_gradient=0)
