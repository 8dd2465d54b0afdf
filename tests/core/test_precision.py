"""Numbers at the edge of what their dtype holds, and batches that an optimizer once broke."""

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import C, D, initialized_session, make_batch, make_centers

import tf_centers

MEAN = tf_centers.CumulativeMean()
UPDATERS = [
    MEAN,
    tf_centers.ExponentialWindow(),
    tf_centers.ExponentialWindow(debias=True),
    tf_centers.ExponentialWindow(duplicates="mean"),
    tf_centers.WenUpdate(),
]
needs_eager = pytest.mark.skipif(
    not tf.executing_eagerly(), reason="TensorFlow 1.15 starts in graph mode"
)


def under(shards):
    return tf.variable_scope("", partitioner=tf.fixed_size_partitioner(shards) if shards else None)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("shards", [0, 2, 3])
@pytest.mark.parametrize("static", [False, True])
def test_an_empty_batch_of_three_axes(static, shards, validate, axis, use_resource):
    with under(shards):
        centers = make_centers(tf_centers, use_resource)
    embeds = tf.placeholder(tf.float32, [0 if static else None, axis, D])
    labels = tf.placeholder(tf.int64, [0 if static else None, axis])
    how = dict(updater=MEAN, centers=centers, validate_args=validate)
    results = [
        tf_centers.get_embed_centers(embeds, labels, **how),
        tf_centers.get_embed_centers(embeds, labels, is_training=False, **how),
        tf_centers.update_embed_centers(embeds, labels, **how),
        tf_centers.lookup_embed_centers(labels, centers),
    ]
    variables = tf.global_variables()
    with initialized_session() as session:
        feed = {embeds: np.zeros([0, axis, D]), labels: np.zeros([0, axis])}
        found = session.run(results, feed)
        assert [rows.shape for rows in found if rows is not None] == 3 * [(0, axis, D)]
        assert not any(value.any() for value in session.run(variables))
        if not static:
            feed = {embeds: np.ones([2, axis, D]), labels: np.full([2, axis], 5)}
            for result in results[::2]:
                session.run(result, feed)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("saved, restored", [(3, 0), (2, 3), (0, 3)])
def test_warm_starting_from_shards(saved, restored, dtype, use_resource, tmp_path):
    table = np.round(16 * np.random.RandomState(0).randn(C, D)) / 16
    with tf.Graph().as_default():
        with under(saved):
            make_centers(tf_centers, use_resource, dtype=dtype, initializer=table, initial_counts=2)
        saver = tf.train.Saver()
        with initialized_session() as session:
            path = saver.save(session, str(tmp_path / "model"))
    with under(restored):
        centers = make_centers(tf_centers, use_resource, C + 2, dtype=dtype)
    if saved and dtype == tf.float16:  # which TensorFlow reads only shard by shard
        with pytest.raises(ValueError, match="^warm_start_embed_centers: expected a float16"):
            tf_centers.warm_start_embed_centers(path, centers)
        return
    start = tf_centers.warm_start_embed_centers(path, centers)
    rows = tf_centers.lookup_embed_centers(tf.range(C + 2), centers)
    with initialized_session() as session:
        session.run(start)
        found = session.run(rows).astype(np.float64)
    np.testing.assert_array_equal(found, np.concatenate([table, np.zeros([2, D])]))


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


@pytest.mark.parametrize("updater", UPDATERS, ids=repr)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_of_huge_rows_is_finite(sign, updater, use_resource):
    huge = np.float32(sign * 3e38)
    centers = make_centers(
        tf_centers, use_resource, 3, 2, initializer=tf.constant(huge, tf.float32, [3, 2])
    )
    rows = tf_centers.get_embed_centers(np.full([4, 2], huge), [1, 1, 1, 1], updater, centers)
    again = tf_centers.update_embed_centers(np.full([4, 2], huge), [1] * 4, updater, centers)
    with initialized_session() as session:
        found = session.run(rows)
        session.run(again)
        ctrs = session.run(centers.ctrs)
    np.testing.assert_allclose(found, huge, rtol=1e-5)
    np.testing.assert_allclose(ctrs, huge, rtol=1e-5)


@pytest.mark.parametrize("norm", [1.9e19, 3e19])
def test_a_finite_center_is_not_called_infinite(norm, use_resource):
    table = [[0.0, 0.0], [norm, 0.0], [3.0, 4.0]]
    centers = make_centers(tf_centers, use_resource, 3, 2, initializer=table, initial_counts=1)
    found = tf_centers.nearest_centers([[3.0, 3.0]], centers, k=2)
    with initialized_session() as session:
        try:
            assert session.run(found.labels).tolist() == [[2, 0]]
        except tf.errors.InvalidArgumentError as error:
            # Its square is not finite. That may be said, but not that the center is not.
            assert "expected finite centers" not in str(error)


@needs_eager
@pytest.mark.eager
@pytest.mark.parametrize("updater", UPDATERS, ids=repr)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16])
def test_a_function_gives_the_bits_of_eager_code(dtype, updater):
    bits = []
    for wrap in (lambda call: call, tensorflow.function):
        centers = tf_centers.EmbedCenters(
            tensorflow.Variable(tf.zeros([C, D], dtype)),
            tensorflow.Variable(tf.zeros([C], tf.int64)),
        )
        update = wrap(
            lambda embeds, labels, centers=centers: tf_centers.get_embed_centers(
                embeds, labels, updater, centers
            )
        )
        for seed in range(5):
            embeds, labels = make_batch(seed, rows=200)
            rows = update(tf.constant(embeds, tf.float32), tf.constant(labels))
            bits.append((wrap, rows.numpy().tobytes(), centers.ctrs.numpy().tobytes()))
    assert [one[1:] for one in bits[:5]] == [one[1:] for one in bits[5:]]


@pytest.mark.parametrize(
    "dtype, tolerance, rows", [(tf.float32, 5e-5, 10000), (tf.float64, 1e-10, 100000)]
)
def test_the_mean_of_a_million_rows(dtype, tolerance, rows, use_resource):
    centers = make_centers(tf_centers, use_resource, 2, 2, dtype=dtype)
    embeds = tf.placeholder(tf.float32, [None, 2])
    update = tf_centers.update_embed_centers(
        embeds, tf.ones([tf.shape(embeds)[0]], tf.int32), MEAN, centers
    )
    rng, total = np.random.RandomState(0), np.zeros(2)
    with initialized_session() as session:
        for _ in range(10**6 // rows):
            batch = (100 + rng.randn(rows, 2)).astype(np.float32)
            session.run(update, {embeds: batch})
            total += batch.sum(0, dtype=np.float64)
        ctrs, counts = session.run(list(centers))
    assert counts.tolist() == [0, 10**6]
    np.testing.assert_allclose(ctrs[1], total / 10**6, rtol=tolerance)
