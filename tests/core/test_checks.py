"""Wrong calls: the right error, a message that tells, and nothing made. Also what is warned of."""

import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D, initialized_session, make_centers, make_ctrs

import tf_centers


def _floats(*shape):
    return np.zeros(shape, np.float32)


def _ints(*shape):
    return np.zeros(shape, np.int32)


ROWS, LABELS = _floats(B, D), _ints(B)
BATCH = dict(embed_batch=ROWS, label_batch=LABELS)
# Every call, and arguments that are right.
CALLS = {
    "get_embed_centers": BATCH,
    "update_embed_centers": BATCH,
    "lookup_embed_centers": dict(label_batch=LABELS),
    "nearest_centers": dict(embed_batch=ROWS),
    "center_distances": dict(embed_batch=ROWS),
    "summarize_centers": {},
    "center_loss": dict(embed_batch=ROWS, embed_ctrs_batch=ROWS),
    "create_embed_centers": dict(num_classes=3, num_dims=2, scope="new"),
}
WITH_CENTERS = [name for name in CALLS if name not in ("center_loss", "create_embed_centers")]


def call(name, **how):
    return getattr(tf_centers, name)(**{**CALLS[name], **how})


def embeds(value):
    return dict(embed_batch=value)


def labels(value):
    return dict(label_batch=value)


# For all that take a batch: the wrong argument, and what the message tells.
WRONG_BATCHES = [
    (embeds(_floats(D)), ValueError, r"embed_batch .*\[B, (T, )?5\]"),
    (embeds(_floats(B, D, 1)), ValueError, r"embed_batch .*\[B, (T, )?5\]"),
    (embeds(_floats(B, D + 1)), ValueError, r"embed_batch .*\[B, 5\].*12, 6"),
    (embeds(_ints(B, D)), TypeError, "embed_batch .*int32"),
    (embeds(ROWS.astype(np.complex64)), TypeError, "embed_batch .*complex64"),
    (embeds(None), TypeError, "embed_batch .*None"),
    (embeds([[1.0], [1.0, 2.0]]), TypeError, "embed_batch .*tensor"),
    (labels(_ints(B - 1)), ValueError, r"label_batch .*B = 12, got \(11,"),
    (labels(_ints(3, 1)), ValueError, r"label_batch .*B = 12, got \(3, 1"),
    (labels(_ints()), ValueError, r"label_batch .*\[B, 1\]"),
    (labels(_ints(1, B)), ValueError, "label_batch .*1, 12"),
    (labels(_ints(B, 1, 1)), ValueError, "label_batch"),
    (labels(_ints(B, C)), ValueError, r"label_batch .*12, 7.*tf\.argmax\(label_b"),
    (labels(_floats(B, C)), TypeError, r"label_batch .*float32.*tf\.argmax\(label_b"),
    (labels(_floats(B)), TypeError, r"label_batch .*integer.*float32.*tf\.cast\(label_b"),
    (labels(_floats(B, 1)), TypeError, r"label_batch .*integer.*float32.*tf\.cast\(label_b"),
    (labels([True] * B), TypeError, "label_batch .*bool"),
    (labels(["a"] * B), TypeError, "label_batch .*string"),
    (labels([2**65] * B), TypeError, "label_batch must be .*36893488147"),
    (labels(None), TypeError, "label_batch .*None"),
    (dict(mask=np.ones(B - 1, bool)), ValueError, r"mask .*B = 12, got \(11,"),
    (dict(mask=np.ones([B, 1], bool)), ValueError, r"mask .*\[B\].*12, 1"),
    (dict(mask=np.ones(B)), TypeError, r"mask must be bool, got float64"),
    (dict(updater=0.95), TypeError, r"updater must be .*0\.95; .*ExponentialWindow\(0\.95\)"),
    (dict(updater=np.float32(0.5)), TypeError, r"updater must be .*ExponentialWindow\(0\.5\)"),
    (dict(updater=tf_centers.CumulativeMean), TypeError, "updater must be .*CumulativeMean"),
    (dict(decay=0.9), TypeError, r"expected .*ExponentialWindow\(0\.9\)"),
    (dict(centers=3), TypeError, r"centers must be .*3"),
    (dict(centers=_floats(C, D)), TypeError, r"centers must be .*variable"),
    (dict(centers="nowhere"), ValueError, r"no variable nowhere/ctrs.*embed/ctrs"),
    (dict(use_locking="yes"), TypeError, r"use_locking must be True or False, got 'yes'"),
    (dict(validate_args=1), TypeError, r"validate_args must be True or False, got 1"),
]


@pytest.mark.parametrize("name", ["get_embed_centers", "update_embed_centers", "no training"])
@pytest.mark.parametrize("how, error, message", WRONG_BATCHES)
def test_a_wrong_batch(how, error, message, name):
    make_ctrs(True)
    if name == "no training":
        how, name = dict(how, is_training=False), "get_embed_centers"
    with pytest.raises(error, match=f"^{name}: {message}"):
        call(name, **how)


def _no_centers(shape, dtype=tf.float32):
    return lambda: dict(centers=tf.get_variable("x", shape, dtype))


def _no_counts(shape, dtype):
    return lambda: dict(
        centers=tf_centers.EmbedCenters(
            tf.get_variable("x", [C, D]), tf.get_variable("y", shape, dtype)
        )
    )


GET = [
    (dict(read="now"), ValueError, "read must be 'after' or 'before', got 'now'"),
    (dict(read=None), ValueError, "read must be 'after' or 'before', got None"),
    (dict(is_training=1), TypeError, "is_training must be a bool .*1"),
    (dict(is_training="yes"), TypeError, "is_training must be a bool .*'yes'"),
    (lambda: dict(is_training=tf.constant(1)), TypeError, "is_training .*int32"),
    (lambda: dict(is_training=tf.constant([True])), ValueError, "is_training must be a scalar"),
    (dict(read="before", stop_gradient=False), ValueError, "stop_gradient=False .*'before'"),
    (dict(stop_gradient=0), TypeError, "stop_gradient must be True or False"),
    (_no_centers([C]), ValueError, r".*static shape \[C, D\]"),
    (_no_centers([C, D], tf.int32), TypeError, ".*floating dtype, got int32"),
    (_no_counts([C], tf.int32), TypeError, ".*counts must be int64.*, got int32"),
    (_no_counts([D], tf.int64), ValueError, r".*counts must have shape \[7\].*5"),
    (
        lambda: dict(centers=tf.Variable(tf.placeholder(tf.float32), validate_shape=False)),
        ValueError,
        r".*static shape \[C, D\]",
    ),
]
CREATE = [
    (dict(num_classes=0), ValueError, "num_classes must be at least 1, got 0"),
    (dict(num_dims=-2), ValueError, "num_dims must be at least 1, got -2"),
    (dict(num_classes=3.0), TypeError, "num_classes must be a Python integer, got 3.0"),
    (dict(num_dims="2"), TypeError, "num_dims must be a Python integer, got '2'"),
    (dict(num_classes=True), TypeError, "num_classes must be a Python integer, got True"),
    (dict(scope=7), TypeError, "scope must be a string, got 7"),
    (dict(dtype=tf.int32), TypeError, "dtype must be tf.float16 or .*, got int32"),
    (dict(dtype="no dtype"), TypeError, "dtype must be tf.float16 or .*, got 'no dtype'"),
    (dict(initializer=np.zeros([3, 4])), ValueError, r"initializer .*\[3, 2\].*4"),
]
K = [
    (dict(k=k), ValueError, r"k must be .*\[1, 7\], got")
    for k in (0, -1, C + 1, 1.5, "1", None, True)
]
LOOKUP = [
    (labels(_floats(B)), TypeError, "label_batch .*integer.*float32"),
    (labels(_floats(B, C)), TypeError, "label.*12, 7.*tf.argmax"),
    (labels(_ints(B, 1, C)), ValueError, "label_batch .*12, 1, 7"),
    (dict(centers="away"), ValueError, "no variable away/ctrs"),
]
SEARCH = [
    (embeds(_floats(B, D - 1)), ValueError, r"embed_batch .*\[B, (T, )?5\]"),
    (embeds(_ints(B, D)), TypeError, "embed_batch .*int32"),
    (dict(centers="no"), ValueError, "no variable no/ctrs"),
]
LOSS = [
    (dict(embed_ctrs_batch=_floats(1, D)), ValueError, "embed_ctrs_batch .*D = 5"),
    (dict(embed_ctrs_batch=_floats(D)), ValueError, r"embed_ctrs.*\[B, D\]"),
    (dict(embed_ctrs_batch=_ints(B, D)), TypeError, "embed_ctrs.*int32"),
    (embeds(_floats(B, 3, D)), ValueError, "embed"),
    (dict(embed_batch=_floats(D), embed_ctrs_batch=_floats(D)), ValueError, "embed_batch"),
]
WRONG = [
    (name, *row)
    for name, rows in {
        "get_embed_centers": GET,
        "create_embed_centers": CREATE,
        "nearest_centers": SEARCH + K,
        "center_distances": SEARCH,
        "lookup_embed_centers": LOOKUP,
        "center_loss": LOSS,
    }.items()
    for row in rows
]


@pytest.mark.parametrize("name, how, error, message", WRONG)
def test_a_wrong_argument(name, how, error, message):
    make_ctrs(True)
    how = how() if callable(how) else how
    before = tf.global_variables()
    with pytest.raises(error, match=f"^{name}: {message}"):
        call(name, **how)
    assert tf.global_variables() == before


@pytest.mark.parametrize("name", WITH_CENTERS)
@pytest.mark.parametrize("shards", [None, 2])
def test_what_is_passed_as_centers(name, shards, use_resource):
    """A plain pair is refused by the name of what it should be, a table of another graph by its."""
    centers = make_centers(tf_centers, use_resource, shards=shards)
    with pytest.raises(TypeError, match=f"^{name}: .*EmbedCenters"):
        call(name, centers=tuple(centers))
    with tf.Graph().as_default():
        away = make_centers(tf_centers, use_resource, shards=shards, scope="away")
    for given in (away, away.ctrs):
        with pytest.raises(ValueError, match=f"^{name}: .*(away/ctrs.*graph|graph.*away/ctrs)"):
            call(name, centers=given)
    if "update" in name:
        with pytest.raises(ValueError, match=f"^{name}: .*away/ctrs_count.*graph"):
            call(name, centers=tf_centers.EmbedCenters(centers.ctrs, away.counts))


def test_how_to_make_missing_centers(use_resource):
    """What the message advises makes a table of zeros that no optimizer touches."""
    with pytest.raises(ValueError, match="^get_embed_centers: ") as caught:
        call("get_embed_centers")
    advice = re.search(r"tf\.get_variable\((?:[^()]|\([^()]*\))*\)", str(caught.value)).group()
    with tf.variable_scope("embed", use_resource=use_resource):
        ctrs = eval(advice, {"tf": tf, "num_classes": C, "num_dims": D})
    assert not tf.trainable_variables()
    call("get_embed_centers")
    with initialized_session() as session:
        np.testing.assert_array_equal(session.run(ctrs), np.zeros([C, D]))


@pytest.mark.parametrize("first", ["get_embed_centers", "update_embed_centers", "nearest_centers"])
@pytest.mark.parametrize("second", ["get_embed_centers", "update_embed_centers"])
def test_counts_made_late_are_warned_of_once(first, second, use_resource, warnings):
    make_ctrs(use_resource)
    call("lookup_embed_centers")
    call("get_embed_centers", is_training=False)
    call(first)
    assert not warnings
    for _ in range(2):
        call(second, updater=MEAN, use_locking=True)
    (text,) = [text for text in warnings if "count" in text]
    assert first in text and second in text and "embed/ctrs" in text and "lookup" not in text


@pytest.mark.parametrize("trainable", [True, False])
def test_distances_to_a_trainable_table_are_warned_of(trainable, use_resource, warnings):
    with tf.variable_scope("embed", use_resource=use_resource):
        tf.get_variable("ctrs", [C, D], trainable=trainable)
    call("center_distances")
    texts = [text for text in warnings if "gradient" in text]
    assert len(texts) == (1 if trainable else 0)
    assert all(text.startswith("center_distances: ") and "embed/ctrs" in text for text in texts)
