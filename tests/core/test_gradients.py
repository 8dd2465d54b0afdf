"""`stop_gradient=False`: the gradient of an update to the embeddings of its batch."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import C, D, initialized_session, make_batch, make_centers, make_ctrs
from updaters import UPDATERS

import tf_centers

B = 9


@pytest.mark.parametrize("name", sorted(UPDATERS))
@pytest.mark.parametrize("how", ["plain", "masked", "locked", "switch", "shards"])
def test_derivatives_are_the_row_weights(name, how, use_resource):
    rng = np.random.RandomState(5)
    embeds, labels = make_batch(5, rows=B)
    mask = rng.rand(B) < 0.7 if how == "masked" else np.ones(B, bool)
    assert how != "masked" or not mask.all()
    centers = make_centers(
        tf_centers, use_resource, shards=3 if how == "shards" else None, dtype=tf.float64
    )
    holder = tf.placeholder(tf.float64, [None, D])
    rows = tf_centers.get_embed_centers(
        holder,
        labels,
        UPDATERS[name].updater,
        centers,
        mask=mask if how == "masked" else None,
        use_locking=how == "locked",
        is_training=tf.placeholder_with_default(True, []) if how == "switch" else True,
        stop_gradient=False,
    )
    upstream = rng.randn(B, D)
    gradient = tf.convert_to_tensor(tf.gradients(rows, holder, upstream)[0])
    same = (labels[:, None] == labels) & mask[:, None] & mask
    later = (same & (np.arange(B)[:, None] < np.arange(B))).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(mask, UPDATERS[name].weigh(0, same.sum(axis=1), later), 0)
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


@pytest.mark.parametrize("switch", [True, False, "tensor"])
def test_none_reaches_a_trainable_table(switch, use_resource):
    ctrs = tf.get_variable("table", [C, D], use_resource=use_resource)
    embeds = tf.ones([B, D])
    rows = tf_centers.get_embed_centers(
        embeds,
        tf.zeros([B], tf.int32),
        centers=ctrs,
        is_training=tf.placeholder(tf.bool, []) if switch == "tensor" else switch,
        stop_gradient=False,
    )
    assert tf.gradients(rows, [ctrs]) == [None]
    assert (tf.gradients(rows, [embeds]) == [None]) == (switch is False)
