"""The error table: the right error, a message that tells, and not a bit of the state changed."""

import functools

import numpy as np
import pytest
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
    make_ctrs,
    state_bits,
)
from updaters import UPDATERS, WITH_RATE

import tf_centers


def _get(embeds, labels, **kwargs):
    return tf_centers.get_embed_centers(embeds, labels, **kwargs)


CALLS = {
    "get_embed_centers": _get,
    "get_embed_centers not training": functools.partial(_get, is_training=False),
    "update_embed_centers": lambda *batch, **how: tf_centers.update_embed_centers(*batch, **how),
}


def _floats(*shape):
    return np.zeros(shape, np.float32)


def _ints(*shape):
    return np.zeros(shape, np.int32)


def _unknown(dtype=tf.float32, shape=None):
    return tf.placeholder(dtype, shape)


ROWS, LABELS = _floats(B, D), _ints(B)
BUILDING = {
    "embeds of rank 1": (_floats(D), LABELS, ValueError, r"embed_batch .*\[B, (T, )?5\]"),
    "embeds of rank 3": (_floats(B, D, 1), LABELS, ValueError, r"embed_batch .*\[B, (T, )?5\]"),
    "D": (_floats(B, D + 1), LABELS, ValueError, r"embed_batch .*\[B, 5\].*12, 6"),
    "B": (ROWS, _ints(B - 1), ValueError, r"label_batch .*B = 12, got \(11,"),
    "B of a column": (ROWS, _ints(3, 1), ValueError, r"label_batch .*B = 12, got \(3, 1"),
    "labels of rank 0": (ROWS, _ints(), ValueError, r"label_batch .*\[B, 1\]"),
    "labels in a row": (ROWS, _ints(1, B), ValueError, "label_batch .*1, 12"),
    "labels of rank 3": (ROWS, _ints(B, 1, 1), ValueError, "label_batch"),
    "one-hot integers": (
        ROWS,
        _ints(B, C),
        ValueError,
        r"label_batch .*12, 7.*tf\.argmax\(label_b",
    ),
    "one-hot floats": (
        ROWS,
        _floats(B, C),
        TypeError,
        r"label_batch .*float32.*tf\.argmax\(label_b",
    ),
    "float labels": (ROWS, _floats(B), TypeError, "label_batch .*float32"),
    "bool labels": (ROWS, [True] * B, TypeError, "label_batch .*bool"),
    "string labels": (ROWS, ["a"] * B, TypeError, "label_batch .*string"),
    "integer embeds": (_ints(B, D), LABELS, TypeError, "embed_batch .*int32"),
    "complex embeds": (ROWS.astype(np.complex64), LABELS, TypeError, "embed_batch .*complex64"),
    "no embeds": (None, LABELS, TypeError, "embed_batch .*None"),
    "no labels": (ROWS, None, TypeError, "label_batch .*None"),
    "ragged": ([[1.0], [1.0, 2.0]], _ints(2), TypeError, "embed_batch .*tensor"),
}


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("wrong", sorted(BUILDING))
def test_wrong_when_building(wrong, call):
    make_ctrs(True)
    *arguments, error, message = BUILDING[wrong]
    with pytest.raises(error, match="^" + call.split()[0] + ": " + message):
        CALLS[call](*arguments)


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"mask": np.ones(B - 1, bool)}, ValueError, r"mask .*B = 12, got \(11,"),
        ({"mask": np.ones([B, 1], bool)}, ValueError, r"mask .*\[B\].*12, 1"),
        ({"mask": np.ones(B)}, TypeError, r"mask must be bool, got float64"),
        ({"updater": 0.95}, TypeError, r"updater must be .*0\.95"),
        ({"updater": tf_centers.CumulativeMean}, TypeError, r"updater must be .*CumulativeMean"),
        ({"centers": 3}, TypeError, r"centers must be .*3"),
        ({"centers": np.zeros([C, D], np.float32)}, TypeError, r"centers must be .*variable"),
        ({"centers": "nowhere"}, ValueError, r"no variable nowhere/ctrs.*embed/ctrs"),
    ],
)
def test_wrong_keyword_when_building(kwargs, error, message, call):
    make_ctrs(True)
    with pytest.raises(error, match="^" + call.split()[0] + ": " + message):
        CALLS[call](ROWS, LABELS, **kwargs)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"read": "now"}, ValueError, r"read must be 'after' or 'before', got 'now'"),
        ({"read": None}, ValueError, r"read must be 'after' or 'before', got None"),
        ({"is_training": 1}, TypeError, r"is_training must be a bool .*1"),
        ({"is_training": "yes"}, TypeError, r"is_training must be a bool .*'yes'"),
        ({"is_training": lambda: tf.constant(1)}, TypeError, "is_training .*int32"),
        ({"is_training": lambda: tf.constant([True])}, ValueError, "is_training must be a scalar"),
        ({"use_locking": "yes"}, TypeError, r"use_locking must be True or False, got 'yes'"),
        ({"validate_args": 1}, TypeError, r"validate_args must be True or False, got 1"),
    ],
)
def test_wrong_option_of_get(kwargs, error, message):
    make_ctrs(True)
    kwargs = {name: value() if callable(value) else value for name, value in kwargs.items()}
    with pytest.raises(error, match="^get_embed_centers: " + message):
        _get(ROWS, LABELS, **kwargs)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((0, 3), ValueError, "num_classes must be at least 1, got 0"),
        ((3, -2), ValueError, "num_dims must be at least 1, got -2"),
        ((3.0, 2), TypeError, "num_classes must be a Python integer, got 3.0"),
        ((3, "2"), TypeError, "num_dims must be a Python integer, got '2'"),
        ((True, 2), TypeError, "num_classes must be a Python integer, got True"),
        ((3, 2, 7), TypeError, "scope must be a string, got 7"),
        ((3, 2, "embed", tf.int32), TypeError, "dtype must be a floating dtype, got int32"),
        ((3, 2, "embed", "no dtype"), TypeError, "dtype must be a floating dtype, got 'no dtype'"),
        ((3, 2, "embed", tf.float32, np.zeros([3, 4])), ValueError, r"initializer .*\[3, 2\].*4"),
    ],
)
def test_create_errors(arguments, error, message):
    with pytest.raises(error, match="^create_embed_centers: " + message):
        tf_centers.create_embed_centers(*arguments)
    assert not tf.global_variables()


@pytest.mark.parametrize("k", [0, -1, C + 1, 1.5, "1", None, True])
def test_bad_k(k):
    make_ctrs(True)
    with pytest.raises(ValueError, match=r"^nearest_centers: k must be .*\[1, 7\], got"):
        tf_centers.nearest_centers(_floats(B, D), k=k)


@pytest.mark.parametrize(
    "call, arguments, error, message",
    [
        ("lookup_embed_centers", [_floats(B)], TypeError, "label_batch .*float32"),
        ("lookup_embed_centers", [_ints(B, 1, C)], ValueError, "label_batch .*12, 1, 7"),
        ("lookup_embed_centers", [_floats(B, C)], TypeError, "label.*12, 7.*tf.argmax"),
        ("lookup_embed_centers", [_ints(B), "away"], ValueError, "no variable away/ctrs"),
        ("nearest_centers", [_floats(B, D - 1)], ValueError, r"embed_batch .*\[B, (T, )?5\]"),
        ("nearest_centers", [_ints(B, D)], TypeError, "embed_batch .*int32"),
        ("center_distances", [_floats(B, D - 1)], ValueError, r"embed_batch .*\[B, (T, )?5\]"),
        ("center_distances", [_ints(B, D)], TypeError, "embed_batch .*int32"),
        ("center_distances", [ROWS, "no"], ValueError, "no variable no/ctrs"),
        ("center_loss", [ROWS, _floats(1, D)], ValueError, "embed_ctrs_batch .*D = 5"),
        ("center_loss", [ROWS, _floats(D)], ValueError, r"embed_ctrs.*\[B, D\]"),
        ("center_loss", [ROWS, _ints(B, D)], TypeError, "embed_ctrs.*int32"),
    ],
)
def test_other_calls_when_building(call, arguments, error, message):
    make_ctrs(True)
    with pytest.raises(error, match=f"^{call}: {message}"):
        getattr(tf_centers, call)(*arguments)


def _good():
    batch, labels = make_batch(0)
    return {"embeds": batch.astype(np.float32), "labels": labels, "mask": np.ones(B, bool)}


def _with(**changes):
    feed = _good()
    feed.update(changes)
    return feed


def _with_value(value, dtype=np.float32):
    batch = _good()["embeds"].astype(dtype)
    batch[3, 2] = value
    return _with(embeds=batch)


def _with_label(value):
    labels = _good()["labels"].astype(np.int64)
    labels[-1] = value
    return _with(labels=labels)


# Which of the run-time checks each input violates, and what its message must tell.
RUNNING = {
    "label too large": (_with_label(C), r"\[0, 7\).*\[7\]"),
    "label negative": (_with_label(-1), r"\[0, 7\).*\[-1\]"),
    "label 2^32": (_with_label(2**32), r"\[0, 7\).*\[4294967296\]"),
    "label -2^63": (_with_label(-(2**63)), r"\[0, 7\)"),
    "label 2^63 - 1": (_with_label(2**63 - 1), r"\[0, 7\)"),
    "fewer labels": (_with(labels=_good()["labels"][:-1]), r"label_batch .*12 5\] \[11\]"),
    "one label": (_with(labels=[1]), r"label_batch .*12 5\] \[1\]"),
    "no labels": (_with(labels=np.zeros([0], int)), r"label_batch .*12 5\] \[0\]"),
    "labels a scalar": (_with(labels=3), r"label_batch of shape \[B\] or \[B, 1\]"),
    "labels in a row": (_with(labels=_good()["labels"][None]), r"label_batch of shape .*1 12"),
    "one-hot": (_with(labels=np.zeros([B, C], int)), r"label_batch of shape .*12 7"),
    "labels of rank 3": (_with(labels=np.zeros([B, 1, 1], int)), r"label_batch of shape .*12 1 1"),
    "empty one-hot": (
        _with(embeds=np.zeros([0, D]), labels=np.zeros([0, C], int), mask=np.ones([0], bool)),
        r"label_batch of shape .*0 7",
    ),
    "D": (_with(embeds=np.zeros([B, D + 1])), r"embed_batch of shape \[B, 5\].*12 6"),
    "one column": (_with(embeds=np.zeros([B, 1])), r"embed_batch of shape \[B, 5\].*12 1"),
    "embeds of rank 1": (_with(embeds=np.zeros([B])), r"embed_batch of shape \[B, 5\].*12"),
    "embeds of rank 3": (_with(embeds=np.zeros([B, D, 1])), r"embed_batch of shape .*12 5 1"),
    "mask too short": (_with(mask=np.ones([B - 1], bool)), r"mask .*\[12\] \[11\]"),
    "mask too long": (_with(mask=np.ones([B + 1], bool)), r"mask .*\[12\] \[13\]"),
    "mask of rank 2": (_with(mask=np.ones([B, 1], bool)), r"mask of shape \[B\].*12 1"),
}
NOT_FINITE = {
    "NaN": _with_value(np.nan),
    "Inf": _with_value(np.inf),
    "-Inf": _with_value(-np.inf),
    "NaN among large values": _with(
        embeds=np.where(np.arange(B * D).reshape(B, D) == 7, np.nan, 3e38)
    ),
    "too large for float32": _with_value(1e300, np.float64),
}


def _build(call, updater, use_resource, embeds_dtype=tf.float32):
    """Everything unknown until run time; masked and not; and the state it must not touch."""
    centers = make_centers(tf_centers, use_resource, initializer=np.arange(C * D).reshape(C, D))
    holders = {
        "embeds": _unknown(embeds_dtype),
        "labels": _unknown(tf.int64),
        "mask": _unknown(tf.bool),
    }
    arguments = {"centers": centers, "mask": holders["mask"]}
    if call in ("training tensor", "not training tensor"):
        switch = tf.constant(call == "training tensor")
        arguments["is_training"] = tf.placeholder_with_default(switch, [])
        call = "get_embed_centers"
    result = CALLS[call](holders["embeds"], holders["labels"], updater=updater, **arguments)
    return centers, holders, result


def _feed(holders, values):
    return {holders[key]: value for key, value in values.items()}


@pytest.mark.parametrize("call", sorted(CALLS) + ["training tensor", "not training tensor"])
def test_wrong_at_run_time(call, use_resource):
    centers, holders, result = _build(call, MEAN, use_resource)
    name = call.split()[0] if call in CALLS else "get_embed_centers"
    with initialized_session() as session:
        session.run(result, _feed(holders, _good()))
        for _, (values, message) in sorted(RUNNING.items()):
            message = "(?s)" + name + ": expected .*" + message
            check_refused(session, result, _feed(holders, values), message, *centers)
        session.run(result, _feed(holders, _good()))


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers", "training tensor"])
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_not_finite_at_run_time(call, name, use_resource):
    centers, holders, result = _build(call, UPDATERS[name].updater, use_resource, tf.float64)
    message = (call if call in CALLS else "get_embed_centers") + ": expected finite values"
    with initialized_session() as session:
        for wrong, values in sorted(NOT_FINITE.items()):
            feed = _feed(holders, values)
            check_refused(session, result, feed, message, *centers)
            # The same value in a masked row is nobody's business.
            before = state_bits(session, *centers)
            row = 3 if wrong != "NaN among large values" else 1
            feed[holders["mask"]] = np.arange(B) != row
            feed[holders["embeds"]] = np.where(np.arange(B)[:, None] == row, values["embeds"], 1.0)
            session.run(result, feed)
            assert state_bits(session, *centers) != before, wrong
            assert np.isfinite(session.run(centers.ctrs)).all()


def test_finite_rows_are_not_refused_where_their_sum_overflows(use_resource):
    # The circulating recipe, to the letter, takes a class of 40 rows twice the way.
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64)
    recipe = tf_centers.ExponentialWindow(0.95, duplicates="sum")
    result = tf_centers.get_embed_centers(np.full([40, D], 1.7e308), [1] * 40, recipe, centers)
    with initialized_session() as session:
        assert np.all(session.run(result) == np.inf)


@pytest.mark.parametrize("rate", [1.5, -0.5, float("nan")])
@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_rate_out_of_range_at_run_time(rate, name, use_resource):
    holder = tf.placeholder_with_default(0.5, [])
    updater = UPDATERS[name].make(holder)
    centers, holders, result = _build("get_embed_centers", updater, use_resource)
    feed = _feed(holders, _good())
    with initialized_session() as session:
        message = r"expected (decay|alpha) in \[0, 1[\])], found"
        check_refused(session, result, {**feed, holder: rate}, message, *centers)
        if name == "debiased":
            check_refused(session, result, {**feed, holder: 1.0}, r"decay in \[0, 1\), f", *centers)
        session.run(result, feed)


@pytest.mark.parametrize("shape", [[B, None], [None, None], None], ids=str)
@pytest.mark.parametrize("labels_shape", [[B], [None], [B, None], None], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_every_result_depends_on_every_check(shape, labels_shape, training, use_resource):
    """A wrong D or rank is refused however much of the rest is static, and in a lookup too."""
    make_ctrs(use_resource)
    embeds, labels = _unknown(shape=shape), _unknown(tf.int32, labels_shape)
    result = _get(embeds, labels, is_training=training, use_locking=training)
    column = labels_shape == [B, None]
    wrong = [(B, D + 1), (B, 1)]
    if shape is None:
        wrong += [(B * D,), (B, D, 1), (B, 1, D), (B // 2, 2, D), (1, B, D)]
    with initialized_session() as session:
        for each in wrong:
            feed = {embeds: np.ones(each), labels: np.zeros([B, 1] if column else [B])}
            check_refused(session, result, feed, r"expected embed_batch of shape \[B, 5\]")


@pytest.mark.parametrize("wrong", ["label too large", "label negative", "labels a scalar"])
def test_lookup_errors_at_run_time(wrong, use_resource):
    make_ctrs(use_resource)
    labels = _unknown(tf.int64)
    rows = tf_centers.lookup_embed_centers(labels)
    values, message = RUNNING[wrong]
    message = "(?s)lookup_embed_centers: expected .*" + message
    with initialized_session() as session:
        check_refused(session, rows, {labels: values["labels"]}, message)


def test_nearest_and_loss_errors_at_run_time():
    make_ctrs(True)
    embeds, rows = _unknown(), _unknown()
    found = tf_centers.nearest_centers(embeds).labels
    squares = tf_centers.center_distances(embeds)
    loss = tf_centers.center_loss(embeds, rows)
    with initialized_session() as session:
        for fetch, name, shape, other in (
            (found, "nearest_centers", [B, D + 1], [1]),
            (squares, "center_distances", [B, 2, D], [1]),
            (loss, "center_loss", [B, D], [1, D]),
            (loss, "center_loss", [B, D], [B, 1]),
            (loss, "center_loss", [B, D], [B + 1, D]),
        ):
            feed = {embeds: np.zeros(shape), rows: np.zeros(other)}
            check_refused(session, fetch, feed, f"{name}: expected embed_batch")


def _counts(shape, dtype):
    counts = tf.get_variable("y", shape, dtype)
    return tf_centers.EmbedCenters(tf.get_variable("x", [C, D]), counts)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: tf.get_variable("x", [C]), ValueError, r"static shape \[C, D\]"),
        (lambda: tf.get_variable("x", [C, D], tf.int32), TypeError, r"floating dtype, got int32"),
        (
            lambda: tf.Variable(tf.placeholder(tf.float32), validate_shape=False),
            ValueError,
            r"static shape \[C, D\]",
        ),
        (lambda: _counts([C], tf.int32), TypeError, "counts must be int64.*, got int32"),
        (lambda: _counts([D], tf.int64), ValueError, r"counts must have shape \[7\].*5"),
    ],
)
def test_variables_that_are_no_centers(make, error, message):
    with pytest.raises(error, match="^get_embed_centers: .*" + message):
        _get(ROWS, LABELS, centers=make())
