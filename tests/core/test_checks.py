"""Wrong calls: the right error, a message that tells, and nothing made. Also what is warned of."""

import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D, make_centers, make_ctrs

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
    (embeds(_floats(B, D + 1)), ValueError, r"embed_batch .*\[B, 5\].*12, 6"),
    (embeds(_ints(B, D)), TypeError, "embed_batch .*int32"),
    (labels(_ints(B - 1)), ValueError, r"label_batch .*B = 12, got \(11,"),
    (labels(_ints()), ValueError, r"label_batch .*\[B, 1\]"),
    (labels(_ints(B, C)), ValueError, r"label_batch .*12, 7.*tf\.argmax\(label_b"),
    (labels(_floats(B, C)), TypeError, r"label_batch .*float32.*tf\.argmax\(label_b"),
    (labels(_floats(B)), TypeError, r"label_batch .*integer.*float32.*tf\.cast\(label_b"),
    (labels([True] * B), TypeError, "label_batch .*bool"),
    (labels([2**65] * B), TypeError, "label_batch must be .*36893488147"),
    (dict(mask=np.ones(B - 1, bool)), ValueError, r"mask .*B = 12, got \(11,"),
    (dict(mask=np.ones([B, 1], bool)), ValueError, r"mask .*\[B\].*12, 1"),
    (dict(mask=np.ones(B)), TypeError, r"mask must be bool, got float64"),
    (dict(updater=0.95), TypeError, r"updater must be .*0\.95; .*ExponentialWindow\(0\.95\)"),
    (dict(updater=tf_centers.CumulativeMean), TypeError, "updater must be .*CumulativeMean"),
    (dict(decay=0.9), TypeError, r"expected .*ExponentialWindow\(0\.9\)"),
    (dict(centers=3), TypeError, r"centers must be .*3"),
    (dict(centers=_floats(C, D)), TypeError, r"centers must be .*variable"),
    (dict(use_locking="yes"), TypeError, r"use_locking must be True or False, got 'yes'"),
    (dict(validate_args=1), TypeError, r"validate_args must be True or False, got 1"),
]


@pytest.mark.parametrize("how, error, message", WRONG_BATCHES)
def test_a_wrong_batch(how, error, message):
    make_ctrs(True)
    for name, more in (
        ("get_embed_centers", {}),
        ("get_embed_centers", {"is_training": False}),
        ("update_embed_centers", {}),
    ):
        with pytest.raises(error, match=f"^{name}: {message}"):
            call(name, **how, **more)


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
    (dict(is_training=1), TypeError, "is_training must be a bool .*1"),
    (lambda: dict(is_training=tf.constant(1)), TypeError, "is_training .*int32"),
    (lambda: dict(is_training=tf.constant([True])), ValueError, "is_training must be a scalar"),
    (dict(read="before", stop_gradient=False), ValueError, "stop_gradient=False .*'before'"),
    (dict(stop_gradient=0), TypeError, "stop_gradient must be True or False"),
    (_no_centers([C]), ValueError, r".*static shape \[C, D\]"),
    (_no_centers([C, D], tf.int32), TypeError, ".*floating dtype, got int32"),
    (_no_counts([C], tf.int32), TypeError, ".*counts must be int64.*, got int32"),
    (_no_counts([D], tf.int64), ValueError, r".*counts must have shape \[7\].*5"),
]
CREATE = [
    (dict(num_classes=0), ValueError, "num_classes must be at least 1, got 0"),
    (dict(num_dims=-2), ValueError, "num_dims must be at least 1, got -2"),
    (dict(num_classes=3.0), TypeError, "num_classes must be a Python integer, got 3.0"),
    (dict(scope=7), TypeError, "scope must be a string, got 7"),
    (dict(dtype=tf.int32), TypeError, "dtype must be tf.float16 or .*, got int32"),
    (dict(initializer=np.zeros([3, 4])), ValueError, r"initializer .*\[3, 2\].*4"),
    (dict(initializer="zeros"), (TypeError, ValueError), ""),
    (dict(initializer=lambda: None), (TypeError, ValueError), ""),
    (dict(initial_counts=-1), ValueError, "initial_counts must be .* 3 of them, got -1"),
    (dict(initial_counts=[1, 2]), ValueError, r"initial_counts must be .* 3 of them.*\[2\]"),
    (dict(initial_counts=1.0), TypeError, "initial_counts must be .* 3 of them, got 1.0"),
    (dict(initial_counts=[True] * 3), TypeError, "initial_counts must be .* 3 of them"),
]
K = [
    (dict(k=k), ValueError, r"k must be .*\[1, 7\], got")
    for k in (0, -1, C + 1, 1.5, "1", None, True)
]
LOOKUP = [
    (labels(_floats(B, C)), TypeError, "label.*12, 7.*tf.argmax"),
    (dict(centers="away"), ValueError, "no variable away/ctrs"),
]
SEARCH = [
    (embeds(_floats(B, D - 1)), ValueError, r"embed_batch .*\[B, (T, )?5\]"),
    (embeds(_ints(B, D)), TypeError, "embed_batch .*int32"),
    (dict(centers="no"), ValueError, "no variable no/ctrs"),
]
SUMMARY = [
    (dict(centers="nowhere"), ValueError, "no variable nowhere/ctrs"),
    (dict(centers=3), TypeError, "centers must be"),
]
LOSS = [
    (dict(embed_ctrs_batch=_floats(1, D)), ValueError, "embed_ctrs_batch .*D = 5"),
    (dict(embed_ctrs_batch=_ints(B, D)), TypeError, "embed_ctrs.*int32"),
    (embeds(_floats(B, 3, D)), ValueError, "embed"),
]
WRONG = [
    (name, *row)
    for name, rows in {
        "get_embed_centers": GET,
        "create_embed_centers": CREATE,
        "nearest_centers": SEARCH + K,
        "center_distances": SEARCH,
        "lookup_embed_centers": LOOKUP,
        "summarize_centers": SUMMARY,
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


def test_how_to_make_missing_centers(use_resource, session):
    """What the message advises makes a table of zeros that no optimizer touches."""
    missing = "^get_embed_centers: no variable outer/inner/ctrs or inner/ctrs.*scope='inner'"
    with tf.variable_scope("outer"), pytest.raises(ValueError, match=missing):
        call("get_embed_centers", centers="inner")
    with pytest.raises(ValueError, match="^get_embed_centers: ") as caught:
        call("get_embed_centers")
    advice = re.search(r"tf\.get_variable\((?:[^()]|\([^()]*\))*\)", str(caught.value)).group()
    with tf.variable_scope("embed", use_resource=use_resource):
        ctrs = eval(advice, {"tf": tf, "num_classes": C, "num_dims": D})
    assert not tf.trainable_variables()
    call("get_embed_centers")
    np.testing.assert_array_equal(session.run(ctrs), np.zeros([C, D]))


@pytest.mark.parametrize(
    "first, second",
    [
        ("get_embed_centers", "update_embed_centers"),
        ("update_embed_centers", "get_embed_centers"),
        ("nearest_centers", "update_embed_centers"),
    ],
)
def test_counts_made_late_are_warned_of_once(first, second, use_resource, warnings):
    kept = make_centers(tf_centers, use_resource, scope="kept")
    call(first, centers=kept)
    call(second, centers=kept, updater=MEAN)
    with tf.Graph().as_default():
        make_ctrs(use_resource)
        call(first)
    make_ctrs(use_resource)
    call("lookup_embed_centers")
    call("get_embed_centers", is_training=False)
    call(first)
    assert not [text for text in warnings if "count" in text]
    for _ in range(2):
        call(second, updater=MEAN, use_locking=True)
    (text,) = [text for text in warnings if "count" in text]
    assert first in text and second in text and "embed/ctrs" in text and "lookup" not in text


@pytest.mark.parametrize("trainable", [True, False])
def test_distances_to_a_trainable_table_are_warned_of(trainable, use_resource, warnings):
    make_ctrs(use_resource, trainable=trainable)
    call("center_distances")
    texts = [text for text in warnings if "gradient" in text]
    assert len(texts) == (1 if trainable else 0)
    assert all(text.startswith("center_distances: ") and "embed/ctrs" in text for text in texts)
