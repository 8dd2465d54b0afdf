"""What an updater may be and be given, and how precise it is."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, D, make_centers
from tf2_code import eager_centers, in_tf2
from updaters import Weighted

import tf_centers

WINDOW, WEN = tf_centers.ExponentialWindow, tf_centers.WenUpdate


def test_what_is_no_row_weight_is_refused():
    centers = tf_centers.create_embed_centers(3, 2)
    for weigh, message in (
        (lambda n, k, later: 0.5, r"\[R\].*\(\)"),
        (lambda n, k, later: tf.expand_dims(k, 1), r"\[R\]"),
        (lambda n, k, later: tf.cast(k, tf.int32), "float32.*int32"),
        (lambda n, k, later: None, r"\[R\] .*None"),
    ):
        message = "update_embed_centers: Weighted.row_weights must return .*" + message
        with pytest.raises(ValueError, match=message):
            tf_centers.update_embed_centers(np.ones([4, 2]), [0, 1, 1, 2], Weighted(weigh), centers)


def test_an_updater_without_row_weights_and_one_that_hides_its_need_of_counts():
    class Undeclared(tf_centers.Updater):
        def row_weights(self, rows):
            return 1 / (rows.seen + rows.sizes)

    centers = tf_centers.create_embed_centers(3, 2)
    with pytest.raises(NotImplementedError, match="Updater must define row_weights"):
        tf_centers.update_embed_centers(np.ones([1, 2]), [1], tf_centers.Updater(), centers)
    with pytest.raises(ValueError, match="needs_counts = True"):
        tf_centers.update_embed_centers(np.ones([1, 2]), [1], Undeclared(), centers)


def test_a_center_does_not_drift_from_rows_that_are_all_alike(use_resource, session):
    # If w and 1 - w were rounded apart, the window would settle beside the rows.
    centers = make_centers(tf_centers, use_resource, 2, 1, initializer=[[0.7], [0.7]])
    update = tf_centers.update_embed_centers([[0.7]], [1], WINDOW(0.999), centers)
    for _ in range(3000):
        session.run(update)
    np.testing.assert_allclose(session.run(centers.ctrs)[1], 0.7, rtol=2e-7)


@pytest.mark.parametrize(
    "rows, dtype, precision", [(1000, "float32", 5e-5), (20000, "float64", 1e-10)]
)
def test_precision_of_a_million_rows(rows, dtype, precision, use_resource, session):
    rng = np.random.RandomState(4)
    centers = make_centers(tf_centers, use_resource, 2, 2, dtype=dtype)
    embeds = tf.placeholder(tf.float32, [None, 2])
    update = tf_centers.update_embed_centers(embeds, tf.ones([rows], tf.int32), MEAN, centers)
    total = np.zeros(2)
    for _ in range(10**6 // rows):
        batch = (100 + rng.randn(rows, 2)).astype(np.float32)
        total += batch.sum(axis=0, dtype=np.float64)
        session.run(update, {embeds: batch})
    assert session.run(centers.counts).tolist() == [0, 10**6]
    np.testing.assert_allclose(session.run(centers.ctrs)[1], total / 10**6, rtol=precision)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_centers_are_summed_in_full(dtype, use_resource, session):
    # 600 weights of 1 / 600 each, and their products, would be off by percents in half precision.
    centers = make_centers(tf_centers, use_resource, 2, 1, dtype=dtype)
    rows = np.linspace(1.0, 3.0, 600)[:, None]
    result = tf_centers.get_embed_centers(tf.constant(rows, tf.float32), [1] * 600, MEAN, centers)
    expected = rows.astype(dtype.as_numpy_dtype).astype(np.float64).mean()
    found = session.run(result).astype(np.float64)
    step = {tf.float16: 2**-9, tf.bfloat16: 2**-6}[dtype]  # to the next value of the dtype
    np.testing.assert_allclose(found, expected, atol=0.6 * step)


def test_decay_keeps_its_digits(session):
    # In float32, 1 - 0.9999 is off by 2e-4 of itself.
    centers = tf_centers.create_embed_centers(2, 1)
    result = tf_centers.get_embed_centers([[1.0]], [0], WINDOW(0.9999), centers)
    np.testing.assert_allclose(session.run(result), [[1e-4]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["float", "integer", "tensor", "variable"])
def test_rates_at_the_ends_of_their_range(kind, use_resource, session):
    results = []
    for rate in (0, 1):
        given = rate if kind == "integer" else float(rate)
        if kind == "tensor":
            given = tf.placeholder_with_default(given, [])
        elif kind == "variable":
            given = tf.get_variable(f"rate_{rate}", initializer=given, use_resource=use_resource)
        for updater in (WINDOW(given), WEN(given)):
            with tf.variable_scope(f"{type(updater).__name__}_{rate}"):
                centers = tf_centers.create_embed_centers(2, 1, initializer=[[2.0], [2.0]])
            results.append(tf_centers.get_embed_centers([[9.0]], [1], updater, centers))
    # 5.5 is 2 + 1 * (9 - 2) / (1 + 1)
    assert session.run(results) == [[[9.0]], [[2.0]], [[2.0]], [[5.5]]]


@pytest.mark.parametrize(
    "make, how, message",
    [
        (WINDOW, {"decay": 1.5}, r"decay .*\[0, 1\].*1\.5"),
        (WINDOW, {"decay": float("nan")}, "decay .*nan"),
        (WINDOW, {"decay": "0.9"}, r"decay .*'0\.9'"),
        (WINDOW, {"decay": True}, "decay .*True"),
        (WINDOW, lambda: {"decay": tf.constant([0.9])}, r"decay .*scalar.*\(1,\)"),
        (WINDOW, lambda: {"decay": tf.constant(1)}, "decay .*scalar float.*int32"),
        (WINDOW, {"decay": 1.0, "debias": True}, r"decay .*\[0, 1\), got 1\.0"),
        (WINDOW, {"duplicates": "last"}, "duplicates .*'last'"),
        (WINDOW, {"debias": True, "duplicates": "mean"}, "debias=True needs duplicates='seq.*mean"),
        (WINDOW, {"debias": "sum"}, "debias must be True or False.*'sum'"),
        (tf_centers.FadingMean, {"decay": 1.01}, r"decay .*\[0, 1\], got 1\.01"),
        (WEN, {"alpha": 1.01}, r"alpha .*\[0, 1\], got 1\.01"),
        (WEN, {"alpha": -1}, r"alpha .*\[0, 1\], got -1"),
    ],
)
def test_bad_parameters(make, how, message):
    how = how() if callable(how) else how
    with pytest.raises(ValueError, match=f"{make.__name__}: {message}"):
        make(**how)


class ByRate(tf_centers.Updater):
    def __init__(self, *rates):
        self.rates = rates

    def row_weights(self, rows):
        rates = [tf.cast(rows.rate("share", rate), rows.dtype) for rate in self.rates]
        return tf.add_n(rates) * tf.ones_like(rows.sizes)


@in_tf2
def test_rates_of_eager_tensors_that_are_gone():
    class Sum(tf_centers.Updater):
        def row_weights(self, rows):
            shares = [rows.rate("share", tf.constant(rate)) for rate in (0.125, 0.25, 0.5)]
            return tf.cast(tf.add_n(shares), rows.dtype) * tf.ones_like(rows.sizes)

    rows = tf_centers.get_embed_centers(tf.ones([1, D]), [3], Sum(), eager_centers())
    np.testing.assert_array_equal(rows, np.full([1, D], 0.875))


def test_each_rate_is_read_by_itself(use_resource, session):
    centers = make_centers(tf_centers, use_resource)
    updater = ByRate(0.25, tf.constant(0.5), tf.constant(0.125))
    rows = tf_centers.get_embed_centers(tf.ones([1, D]), [3], updater, centers)
    for rate in (1.5, -0.1, float("nan"), "half"):
        with pytest.raises(ValueError, match=r"get_embed_centers: share .*\[0, 1\]"):
            tf_centers.get_embed_centers(tf.ones([1, D]), [3], ByRate(rate), centers)
    np.testing.assert_array_equal(session.run(rows), np.full([1, D], 0.875))
