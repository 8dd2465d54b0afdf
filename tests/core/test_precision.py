"""Numbers at the edge of what their dtype holds, and batches that an optimizer once broke."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, D, initialized_session, make_centers
from updaters import UPDATERS

import tf_centers

# All but the one that overshoots on repeated labels.
STABLE = [name for name in sorted(UPDATERS) if name != "summed"]
T = 3


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("static", [False, True])
def test_an_empty_batch_of_three_axes(static, shards, validate, use_resource):
    centers = make_centers(tf_centers, use_resource, shards=shards)
    embeds = tf.placeholder(tf.float32, [0 if static else None, T, D])
    labels = tf.placeholder(tf.int64, [0 if static else None, T])
    how = dict(updater=MEAN, centers=centers, validate_args=validate)
    results = [
        tf_centers.get_embed_centers(embeds, labels, **how),
        tf_centers.get_embed_centers(embeds, labels, is_training=False, **how),
        tf_centers.update_embed_centers(embeds, labels, **how),
        tf_centers.lookup_embed_centers(labels, centers),
    ]
    variables = tf.global_variables()
    with initialized_session() as session:
        feed = {embeds: np.zeros([0, T, D]), labels: np.zeros([0, T])}
        found = session.run(results, feed)
        assert [rows.shape for rows in found if rows is not None] == 3 * [(0, T, D)]
        assert not any(value.any() for value in session.run(variables))
        if not static:
            feed = {embeds: np.ones([2, T, D]), labels: np.full([2, T], 5)}
            for result in results[::2]:
                session.run(result, feed)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("read", ["after", "before", "no update"])
def test_the_loss_of_a_masked_row_is_zero(read, axes, dtype, use_resource):
    """Also where the table cannot hold the embedding as it is."""
    centers = make_centers(tf_centers, use_resource, dtype=dtype)
    embeds = np.random.RandomState(0).randn(6, D).astype(np.float32)
    mask = np.arange(6) % 2 > 0
    batch = [tf.constant(embeds), tf.constant([0, 1, 1, 2, 3, 4]), tf.constant(mask)]
    if axes == 3:
        batch = [tf.reshape(part, [2, 3] + part.shape.as_list()[1:]) for part in batch]
    how = {"is_training": False} if read == "no update" else {"read": read}
    rows = tf_centers.get_embed_centers(*batch[:2], MEAN, centers, batch[2], **how)
    flat = [tf.reshape(part, [6, D]) for part in (batch[0], rows)]
    loss = tf_centers.center_loss(*flat)
    assert rows.dtype == dtype
    with initialized_session() as session:
        found = session.run(loss)
    assert (found[~mask] == 0).all()
    assert read == "after" or (found[mask] > 0).all()


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_of_huge_rows_is_finite(sign, name, use_resource):
    huge, updater = np.float32(sign * 3e38), UPDATERS[name].updater
    how = dict(initializer=tf.constant(huge, tf.float32, [3, 2]))
    how.update(count_dtype=UPDATERS[name].count_dtype)
    centers = make_centers(tf_centers, use_resource, 3, 2, **how)
    rows = tf_centers.get_embed_centers(np.full([4, 2], huge), [1, 1, 1, 1], updater, centers)
    again = tf_centers.update_embed_centers(np.full([4, 2], huge), [1] * 4, updater, centers)
    with initialized_session() as session:
        found = session.run(rows)
        session.run(again)
        ctrs = session.run(centers.ctrs)
    np.testing.assert_allclose(found, huge, rtol=1e-5)
    np.testing.assert_allclose(ctrs, huge, rtol=1e-5)
