"""Input at the ends of every range: what must be refused leaves every bit, the rest is exact."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D, check_refused, make_batch, make_centers, placeholders
from updaters import UPDATERS

import tf_centers

# All but the one that overshoots on repeated labels.
STABLE = [name for name in sorted(UPDATERS) if name != "summed"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def beyond(dtype):
    """The ends of an integer type, and what a narrower one would take for 0 or 1: not in [0, C)."""
    ends = np.iinfo(dtype)
    values = {ends.min, ends.max}
    for bits in (8, 16, 31, 32, 63):
        values |= {-(2**bits), 2**bits, 2**bits + 1}
    return sorted(value for value in values if ends.min <= value <= ends.max and value % 2**64 >= C)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_at_the_ends_of_their_type(dtype, use_resource, session):
    centers = make_centers(tf_centers, use_resource)
    embeds, labels = placeholders(labels=dtype)
    calls = {
        "get_embed_centers": tf_centers.get_embed_centers(embeds, labels, MEAN, centers),
        "lookup_embed_centers": tf_centers.lookup_embed_centers(labels, centers),
    }
    batch, good = make_batch(0)
    for value in beyond(dtype):
        bad = np.array(good, dtype)
        bad[value % B] = value
        shown = value - 2**64 if value >= 2**63 else value  # as an int64
        for name, call in calls.items():
            message = rf"{name}: expected every label in \[0, 7\), found\] \[{shown}\]"
            check_refused(session, call, {embeds: batch, labels: bad}, message)
    session.run(calls["get_embed_centers"], {embeds: batch, labels: good.astype(dtype)})
    np.testing.assert_array_equal(session.run(centers.counts), np.bincount(good, minlength=C))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_last_class_may_be_the_end_of_the_type(dtype, use_resource, session):
    last = np.iinfo(dtype).max
    centers = make_centers(tf_centers, use_resource, last + 1, D)
    embeds, labels = placeholders(labels=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers)
    found = session.run(rows, {embeds: [[3.0] * D, [5.0] * D], labels: [last, last]})
    np.testing.assert_array_equal(found, [[4.0] * D] * 2)
    assert session.run(centers.counts).tolist() == [0] * last + [2]


# The dtypes of embeddings and centers, the largest that fits, and the least that rounds to Inf.
OVERFLOWS = [
    ("float32", "float16", 65519.0, 65520.0),
    ("bfloat16", "float16", 65280.0, 65536.0),
    ("float32", "bfloat16", 3.39e38, 3.4e38),
    ("float64", "float32", 3.4028235e38, 3.4028236e38),
    ("float16", "float16", 65504.0, np.inf),
    ("bfloat16", "float64", 3.3895e38, np.inf),
]


@pytest.mark.parametrize("dtype, ctrs_dtype, fits, overflows", OVERFLOWS)
def test_overflow_on_the_way_in(dtype, ctrs_dtype, fits, overflows, use_resource, session):
    ctrs_dtype, dtype = tf.as_dtype(ctrs_dtype), tf.as_dtype(dtype)
    centers = make_centers(tf_centers, use_resource, dtype=ctrs_dtype)
    embeds, labels = placeholders(embeds=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers)
    batch = np.ones([3, D]).astype(dtype.as_numpy_dtype)
    feed = {embeds: batch, labels: [1, 4, 1]}
    for value in (overflows, -overflows):
        batch[1, 2] = value
        message = f"get_embed_centers: expected finite values of {ctrs_dtype.name}"
        check_refused(session, rows, feed, message)
    batch[1, 2] = fits
    found = session.run(rows, feed).astype(np.float64)
    expected = batch.astype(ctrs_dtype.as_numpy_dtype).astype(np.float64)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()


def test_one_value_among_many(use_resource, session):
    rows, dims, classes = 600, 64, 50
    centers = make_centers(tf_centers, use_resource, classes, dims)
    embeds, labels = tf.placeholder(tf.float32, [None, dims]), np.arange(rows) % (classes - 1)
    result = tf_centers.update_embed_centers(embeds, labels, MEAN, centers)
    batch = 3e38 * np.random.RandomState(1).uniform(-1, 1, [rows, dims])
    session.run(result, {embeds: batch})
    assert np.isfinite(session.run(centers.ctrs)).all()
    for values in ([np.nan], [-np.inf], [np.inf, -np.inf], [np.nan, 3e38]):
        for row in (0, rows - 1):
            bad = np.array(batch)
            bad[row, row % 60 : row % 60 + len(values)] = values
            message = "update_embed_centers: expected finite values of float32"
            check_refused(session, result, {embeds: bad}, message)


def test_finite_rows_are_not_refused_where_their_sum_overflows(use_resource, session):
    # The circulating recipe, to the letter, takes a class of 40 rows twice the way.
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64)
    recipe = tf_centers.ExponentialWindow(0.95, duplicates="sum")
    result = tf_centers.get_embed_centers(np.full([40, D], 1.7e308), [1] * 40, recipe, centers)
    assert np.all(session.run(result) == np.inf)


@pytest.mark.parametrize("decay", [1 - 1e-5, 1 - 3e-8])
def test_a_decay_next_to_one_is_debiased(decay, use_resource, session):
    """`1 - decay^n` has no digit left where it is taken as it stands."""
    centers = make_centers(tf_centers, use_resource, 3, 1)
    updater = tf_centers.ExponentialWindow(decay, debias=True)
    rows = tf_centers.get_embed_centers([[5.0], [7.0]], [1, 1], updater, centers)
    np.testing.assert_allclose(session.run(rows), 6.0, rtol=1e-4)


@pytest.mark.parametrize("name", STABLE)
def test_the_mean_of_huge_rows_is_finite(name, use_resource, session):
    huge, updater = np.float32(-3e38), UPDATERS[name].updater
    how = dict(initializer=np.full([3, 2], huge), count_dtype=UPDATERS[name].count_dtype)
    centers = make_centers(tf_centers, use_resource, 3, 2, **how)
    rows = tf_centers.get_embed_centers(np.full([4, 2], huge), [1, 1, 1, 1], updater, centers)
    for _ in range(2):
        np.testing.assert_allclose(session.run(rows), huge, rtol=1e-5)
    np.testing.assert_allclose(session.run(centers.ctrs), huge, rtol=1e-5)
