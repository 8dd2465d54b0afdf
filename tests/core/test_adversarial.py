"""Input at the ends of every range: what must be refused leaves every bit, the rest is exact."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    B,
    C,
    D,
    check_refused,
    initialized_session,
    make_batch,
    make_centers,
    placeholders,
    state_bits,
)
from updaters import UPDATERS

import tf_centers

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def beyond(dtype):
    """The ends of an integer type, and what a narrower one would take for 0 or 1: not in [0, C)."""
    ends = np.iinfo(dtype)
    values = {ends.min, ends.max}
    for bits in (8, 16, 31, 32, 63):
        values |= {-(2**bits), 2**bits, 2**bits + 1}
    return sorted(value for value in values if ends.min <= value <= ends.max and value % 2**64 >= C)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_at_the_ends_of_their_type(dtype, use_resource):
    centers = make_centers(tf_centers, use_resource)
    embeds, labels = placeholders(labels=dtype)
    calls = {
        "get_embed_centers": tf_centers.get_embed_centers(embeds, labels, MEAN, centers),
        "update_embed_centers": tf_centers.update_embed_centers(embeds, labels, MEAN, centers),
        "lookup_embed_centers": tf_centers.lookup_embed_centers(labels, centers),
    }
    batch, good = make_batch(0)
    values = beyond(dtype)
    assert values
    with initialized_session() as session:
        for value in values:
            for name, call in calls.items():
                bad = np.array(good, dtype)
                bad[value % B] = value
                shown = value - 2**64 if value >= 2**63 else value  # as an int64
                message = rf"{name}: expected every label in \[0, 7\), found\] \[{shown}\]"
                check_refused(session, call, {embeds: batch, labels: bad}, message, *centers)
        session.run(calls["get_embed_centers"], {embeds: batch, labels: good.astype(dtype)})
        np.testing.assert_array_equal(session.run(centers.counts), np.bincount(good, minlength=C))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_last_class_may_be_the_end_of_the_type(dtype, use_resource):
    last = np.iinfo(dtype).max
    centers = make_centers(tf_centers, use_resource, last + 1, D)
    embeds, labels = placeholders(labels=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers)
    with initialized_session() as session:
        found = session.run(rows, {embeds: [[3.0] * D, [5.0] * D], labels: [last, last]})
        np.testing.assert_array_equal(found, [[4.0] * D] * 2)
        assert session.run(centers.counts).tolist() == [0] * last + [2]


def test_python_integers_beyond_32_and_64_bits(use_resource):
    centers = make_centers(tf_centers, use_resource)
    one = [[1.0] * D]
    calls = {
        value: tf_centers.get_embed_centers(one, [value], MEAN, centers)
        for value in (2**31, -(2**31) - 1, 2**63 - 1)
    }
    with pytest.raises(TypeError, match="^get_embed_centers: label_batch must be .*36893488147"):
        tf_centers.get_embed_centers(one, [2**65], MEAN, centers)
    with initialized_session() as session:
        for value, rows in calls.items():
            check_refused(session, rows, {}, rf"found\] \[{value}\]", *centers)


# The dtypes of embeddings and centers, the largest that fits, and the least that rounds to Inf.
OVERFLOWS = [
    ("float32", "float16", 65519.0, 65520.0),
    ("float64", "float16", 65519.0, 65520.0),
    ("bfloat16", "float16", 65280.0, 65536.0),
    ("float32", "bfloat16", 3.39e38, 3.4e38),
    ("float64", "float32", 3.4028235e38, 3.4028236e38),
    ("float16", "float32", 65504.0, np.inf),
    ("float16", "float16", 65504.0, np.inf),
    ("bfloat16", "float64", 3.3895e38, np.inf),
]


@pytest.mark.parametrize("dtype, ctrs_dtype, fits, overflows", OVERFLOWS)
def test_overflow_on_the_way_in(dtype, ctrs_dtype, fits, overflows, use_resource):
    ctrs_dtype, dtype = tf.as_dtype(ctrs_dtype), tf.as_dtype(dtype)
    centers = make_centers(tf_centers, use_resource, dtype=ctrs_dtype)
    embeds, labels = placeholders(embeds=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers)
    batch = np.ones([3, D]).astype(dtype.as_numpy_dtype)
    with initialized_session() as session:
        for value in (overflows, -overflows):
            batch[1, 2] = value
            message = f"get_embed_centers: expected finite values of {ctrs_dtype.name}"
            check_refused(session, rows, {embeds: batch, labels: [1, 4, 1]}, message, *centers)
        batch[1, 2] = fits
        found = session.run(rows, {embeds: batch, labels: [1, 4, 1]})
        expected = batch.astype(ctrs_dtype.as_numpy_dtype)
        np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))
        assert np.isfinite(found.astype(np.float64)).all()


@pytest.mark.parametrize("dtype, value", [("float32", 1e-41), ("float64", 1e-310)])
def test_denormals(dtype, value, use_resource):
    # TensorFlow may take them for zero; nothing larger may come of them, and no refusal.
    tiny = np.finfo(dtype).tiny
    centers = make_centers(
        tf_centers, use_resource, dtype=tf.as_dtype(dtype), initializer=np.full([C, D], value)
    )
    embeds, labels = placeholders(embeds=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, tf_centers.WenUpdate(), centers)
    batch = np.array([[value] * D, [-value] * D, [1.0] * D, [tiny] * D], dtype)
    batch_labels = [0, 0, 3, 5]
    expected, _ = reference.apply(
        reference.wen_update, np.full([C, D], value), np.zeros(C), batch, batch_labels
    )
    with initialized_session() as session:
        feed = {embeds: batch, labels: batch_labels}
        untouched = session.run(centers.ctrs)[[1, 2, 4, 6]].tobytes()
        found = session.run(rows, feed)
        np.testing.assert_allclose(found, expected[batch_labels], rtol=1e-6, atol=tiny)
        assert session.run(centers.ctrs)[[1, 2, 4, 6]].tobytes() == untouched
        batch[1, 3] = np.nan
        check_refused(session, rows, feed, "expected finite values", *centers)


def test_half_precision_denormals_are_exact(use_resource):
    # 2^-24 and 3 * 2^-24 are denormal in float16, and their mean is 2^-23.
    centers = make_centers(tf_centers, use_resource, dtype=tf.float16)
    rows = tf_centers.get_embed_centers(
        tf.constant([[2.0**-24] * D, [3 * 2.0**-24] * D], tf.float16), [2, 2], MEAN, centers
    )
    with initialized_session() as session:
        found = session.run(rows).astype(np.float64)
        np.testing.assert_array_equal(found, [[2.0**-23] * D] * 2)


@pytest.mark.parametrize("name", sorted(UPDATERS))
@pytest.mark.parametrize("masked", [False, True])
def test_constants_without_a_row(masked, name, use_resource):
    # TensorFlow's optimizer divided by the number of rows, which ends the process.
    updater = UPDATERS[name].make(tf.placeholder_with_default(0.9, []))
    centers = make_centers(tf_centers, use_resource)
    batch = np.ones([3 * masked, D], np.float32), np.ones([3 * masked], np.int64)
    how = dict(updater=updater, centers=centers, mask=np.zeros([3], bool) if masked else None)
    fetches = [
        tf_centers.get_embed_centers(*batch, **how),
        tf_centers.get_embed_centers(*batch, read="before", **how),
        tf_centers.update_embed_centers(*batch, **how),
    ]
    with initialized_session() as session:
        before = state_bits(session, *centers)
        for fetch in fetches:
            found = session.run(fetch)
            assert found is None or found.tolist() == batch[0].tolist()
        assert state_bits(session, *centers) == before


@pytest.mark.parametrize("static", [False, True])
def test_one_value_among_many(static, use_resource):
    rows, dims, classes = 600, 64, 50
    centers = make_centers(tf_centers, use_resource, classes, dims)
    embeds = tf.placeholder(tf.float32, [rows if static else None, dims])
    labels = np.arange(rows) % (classes - 1)
    result = tf_centers.update_embed_centers(
        embeds, labels if static else tf.placeholder_with_default(labels, [None]), MEAN, centers
    )
    rng = np.random.RandomState(1)
    with initialized_session() as session:
        for batch in (rng.randn(rows, dims), 3e38 * rng.uniform(-1, 1, [rows, dims])):
            session.run(result, {embeds: batch})
            assert np.isfinite(session.run(centers.ctrs)).all()
            for values in ([np.nan], [-np.inf], [np.inf, -np.inf], [np.nan, 3e38]):
                for row in (0, rows // 2, rows - 1):
                    bad = np.array(batch)
                    bad[row, row % 60 : row % 60 + len(values)] = values
                    message = "update_embed_centers: expected finite values of float32"
                    check_refused(session, result, {embeds: bad}, message, *centers)
