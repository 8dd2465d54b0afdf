"""The error table: the right error, a message that tells, and not a bit of the state changed."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch, make_centers, make_ctrs, state_bits

import tf_centers

InvalidArgumentError = tf.errors.InvalidArgumentError


def _get(embeds, labels, **kwargs):
    return tf_centers.get_embed_centers(embeds, labels, **kwargs)


def _lookup_form(embeds, labels, **kwargs):
    return tf_centers.get_embed_centers(embeds, labels, is_training=False, **kwargs)


def _update(embeds, labels, **kwargs):
    return tf_centers.update_embed_centers(embeds, labels, **kwargs)


CALLS = {
    "get_embed_centers": _get,
    "get_embed_centers not training": _lookup_form,
    "update_embed_centers": _update,
}


def _floats(*shape):
    return tf.zeros(shape, tf.float32)


def _ints(*shape):
    return tf.zeros(shape, tf.int32)


def _unknown(dtype=tf.float32, shape=None):
    return tf.placeholder(dtype, shape)


BUILDING = {
    "embeds of rank 1": (
        lambda: (_floats(D), _ints(B)),
        ValueError,
        r"embed_batch .*\[B, 5\].*\(5,\)|embed_batch .*\[B, 5\]",
    ),
    "embeds of rank 3": (
        lambda: (_floats(B, D, 1), _ints(B)),
        ValueError,
        r"embed_batch .*\[B, 5\]",
    ),
    "D": (lambda: (_floats(B, D + 1), _ints(B)), ValueError, r"embed_batch .*\[B, 5\].*12, 6"),
    "B": (lambda: (_floats(B, D), _ints(B - 1)), ValueError, r"embed_batch and label_b.*12 and 11"),
    "B of a column": (
        lambda: (_floats(B, D), _ints(3, 1)),
        ValueError,
        r"embed_batch and label_b.*12 and 3",
    ),
    "labels of rank 0": (lambda: (_floats(B, D), _ints()), ValueError, r"label_batch .*\[B, 1\]"),
    "labels in a row": (lambda: (_floats(B, D), _ints(1, B)), ValueError, r"label_batch .*1, 12"),
    "one-hot integers": (lambda: (_floats(B, D), _ints(B, C)), ValueError, r"label_batch .*12, 7"),
    "labels of rank 3": (lambda: (_floats(B, D), _ints(B, 1, 1)), ValueError, r"label_batch"),
    "float labels": (lambda: (_floats(B, D), _floats(B)), TypeError, r"label_batch .*float32"),
    "one-hot floats": (lambda: (_floats(B, D), _floats(B, C)), TypeError, r"label_batch .*float32"),
    "bool labels": (lambda: (_floats(B, D), [True] * B), TypeError, r"label_batch .*bool"),
    "string labels": (lambda: (_floats(B, D), ["a"] * B), TypeError, r"label_batch .*string"),
    "integer embeds": (lambda: (_ints(B, D), _ints(B)), TypeError, r"embed_batch .*int32"),
    "complex embeds": (
        lambda: (tf.zeros([B, D], tf.complex64), _ints(B)),
        TypeError,
        r"embed_batch .*complex64",
    ),
    "no embeds": (lambda: (None, _ints(B)), TypeError, r"embed_batch .*None"),
    "no labels": (lambda: (_floats(B, D), None), TypeError, r"label_batch .*None"),
    "ragged": (lambda: ([[1.0], [1.0, 2.0]], _ints(2)), TypeError, r"embed_batch .*tensor"),
}


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("wrong", sorted(BUILDING))
def test_wrong_when_building(wrong, call):
    make_ctrs(True)
    arguments, error, message = BUILDING[wrong]
    with pytest.raises(error, match="^" + call.split()[0] + ": " + message):
        CALLS[call](*arguments())


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"mask": np.ones(B - 1, bool)}, ValueError, r"embed_batch and mask .*12 and 11"),
        ({"mask": np.ones([B, 1], bool)}, ValueError, r"mask .*\[B\].*12, 1"),
        ({"mask": np.ones(B)}, TypeError, r"mask must be bool, got float64"),
        ({"updater": 0.95}, TypeError, r"updater must be .*0\.95"),
        ({"updater": tf_centers.CumulativeMean}, TypeError, r"updater must be .*CumulativeMean"),
        ({"centers": 3}, TypeError, r"centers must be .*3"),
        ({"centers": np.zeros([C, D], np.float32)}, TypeError, r"centers must be .*variable"),
        ({"centers": "nowhere"}, ValueError, r"no variable nowhere/ctrs.*create_embed_centers"),
    ],
)
def test_wrong_keyword_when_building(kwargs, error, message, call):
    make_ctrs(True)
    with pytest.raises(error, match="^" + call.split()[0] + ": " + message):
        CALLS[call](_floats(B, D), _ints(B), **kwargs)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"read": "now"}, ValueError, r"read must be 'after' or 'before', got 'now'"),
        ({"read": None}, ValueError, r"read must be 'after' or 'before', got None"),
        ({"is_training": 1}, TypeError, r"is_training must be a bool .*1"),
        ({"is_training": "yes"}, TypeError, r"is_training must be a bool .*'yes'"),
        ({"use_locking": "yes"}, TypeError, r"use_locking must be True or False, got 'yes'"),
        ({"validate_args": 1}, TypeError, r"validate_args must be True or False, got 1"),
    ],
)
def test_wrong_option_of_get(kwargs, error, message):
    make_ctrs(True)
    with pytest.raises(error, match="^get_embed_centers: " + message):
        _get(_floats(B, D), _ints(B), **kwargs)


def test_wrong_switch_tensors():
    make_ctrs(True)
    with pytest.raises(TypeError, match="^get_embed_centers: is_training .*int32"):
        _get(_floats(B, D), _ints(B), is_training=tf.constant(1))
    with pytest.raises(ValueError, match="^get_embed_centers: is_training must be a scalar"):
        _get(_floats(B, D), _ints(B), is_training=tf.constant([True]))


def test_lookup_errors_when_building():
    make_ctrs(True)
    with pytest.raises(TypeError, match="^lookup_embed_centers: label_batch .*float32"):
        tf_centers.lookup_embed_centers(_floats(B))
    with pytest.raises(ValueError, match="^lookup_embed_centers: label_batch .*12, 1, 7"):
        tf_centers.lookup_embed_centers(_ints(B, 1, C))
    with pytest.raises(TypeError, match="^lookup_embed_centers: label_batch .*12, 7.*tf.argmax"):
        tf_centers.lookup_embed_centers(_floats(B, C))
    with pytest.raises(ValueError, match="^lookup_embed_centers: no variable away/ctrs"):
        tf_centers.lookup_embed_centers(_ints(B), "away")


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


def test_nearest_and_loss_errors_when_building():
    make_ctrs(True)
    with pytest.raises(ValueError, match=r"^nearest_centers: embed_batch .*\[B, 5\]"):
        tf_centers.nearest_centers(_floats(B, D - 1))
    with pytest.raises(TypeError, match="^nearest_centers: embed_batch .*int32"):
        tf_centers.nearest_centers(_ints(B, D))
    with pytest.raises(ValueError, match=r"^center_distances: embed_batch .*\[B, 5\]"):
        tf_centers.center_distances(_floats(B, D - 1))
    with pytest.raises(TypeError, match="^center_distances: embed_batch .*int32"):
        tf_centers.center_distances(_ints(B, D))
    with pytest.raises(ValueError, match="^center_distances: no variable none/ctrs"):
        tf_centers.center_distances(_floats(B, D), "none")
    with pytest.raises(ValueError, match=r"^center_loss: embed_batch and embed_ctrs_batch"):
        tf_centers.center_loss(_floats(B, D), _floats(1, D))
    with pytest.raises(ValueError, match=r"^center_loss: embed_ctrs_batch .*\[B, D\]"):
        tf_centers.center_loss(_floats(B, D), _floats(D))
    with pytest.raises(TypeError, match="^center_loss: embed_ctrs_batch .*int32"):
        tf_centers.center_loss(_floats(B, D), _ints(B, D))


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
    "fewer labels": (_with(labels=_good()["labels"][:-1]), r"label_batch .*rows.*11.*12"),
    "one label": (_with(labels=[1]), r"label_batch .*rows.*1.*12"),
    "no labels": (_with(labels=np.zeros([0], int)), r"label_batch .*rows.*0.*12"),
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
    "mask too short": (_with(mask=np.ones([B - 1], bool)), r"mask .*rows.*11.*12"),
    "mask too long": (_with(mask=np.ones([B + 1], bool)), r"mask .*rows.*13.*12"),
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


@pytest.mark.parametrize("call", sorted(CALLS) + ["training tensor", "not training tensor"])
def test_wrong_at_run_time(call, use_resource):
    centers, holders, result = _build(call, tf_centers.CumulativeMean(), use_resource)
    name = call.split()[0] if call in CALLS else "get_embed_centers"
    with initialized_session() as session:
        good = {holders[key]: value for key, value in _good().items()}
        session.run(result, good)
        before = state_bits(session, *centers)
        for wrong, (values, message) in sorted(RUNNING.items()):
            feed = {holders[key]: value for key, value in values.items()}
            expected = "(?s)" + name + ": expected .*" + message
            with pytest.raises(InvalidArgumentError, match=expected):
                session.run(result, feed)
                raise AssertionError(f"{wrong} was not refused")
            assert state_bits(session, *centers) == before, wrong
        session.run(result, good)


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers", "training tensor"])
@pytest.mark.parametrize(
    "updater",
    [tf_centers.CumulativeMean(), tf_centers.ExponentialWindow(1.0), tf_centers.WenUpdate()],
    ids=repr,
)
def test_not_finite_at_run_time(call, updater, use_resource):
    centers, holders, result = _build(call, updater, use_resource, tf.float64)
    name = call if call in CALLS else "get_embed_centers"
    with initialized_session() as session:
        for wrong, values in sorted(NOT_FINITE.items()):
            feed = {holders[key]: value for key, value in values.items()}
            before = state_bits(session, *centers)
            with pytest.raises(InvalidArgumentError, match=name + ": expected finite values"):
                session.run(result, feed)
                raise AssertionError(f"{wrong} was not refused")
            assert state_bits(session, *centers) == before, wrong
            # The same value in a masked row is nobody's business.
            row = 3 if wrong != "NaN among large values" else 1
            feed[holders["mask"]] = np.arange(B) != row
            feed[holders["embeds"]] = np.where(np.arange(B)[:, None] == row, values["embeds"], 1.0)
            session.run(result, feed)
            assert state_bits(session, *centers) != before, wrong
            assert np.isfinite(session.run(centers.ctrs)).all()


@pytest.mark.parametrize("dtype, value", [(tf.float32, 3e38), (tf.float64, 1e308)])
def test_large_finite_values_are_not_refused(dtype, value, use_resource):
    centers = make_centers(tf_centers, use_resource, dtype=dtype)
    result = tf_centers.get_embed_centers(
        tf.constant([[value] * D, [-value] * D], dtype),
        [0, 1],
        tf_centers.CumulativeMean(),
        centers,
    )
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(result), [[value] * D, [-value] * D], rtol=1e-6)


def test_finite_rows_are_not_refused_where_their_sum_overflows(use_resource):
    # The circulating recipe, to the letter, takes a class of 40 rows twice the way.
    centers = make_centers(tf_centers, use_resource, dtype=tf.float64)
    recipe = tf_centers.ExponentialWindow(0.95, duplicates="sum")
    result = tf_centers.get_embed_centers(np.full([40, D], 1.7e308), [1] * 40, recipe, centers)
    with initialized_session() as session:
        assert np.all(session.run(result) == np.inf)


def test_labels_of_masked_rows_are_not_read(use_resource):
    centers, holders, result = _build("get_embed_centers", None, use_resource)
    labels = _good()["labels"].astype(np.int64)
    labels[[0, 5]] = [-1, 2**40]
    keep = np.ones(B, bool)
    keep[[0, 5]] = False
    with initialized_session() as session:
        feed = {holders[key]: value for key, value in _with(labels=labels, mask=keep).items()}
        rows = session.run(result, feed)
        np.testing.assert_array_equal(rows[[0, 5]], _good()["embeds"][[0, 5]])


@pytest.mark.parametrize("rate", [1.5, -0.5, float("nan")])
@pytest.mark.parametrize("make", [tf_centers.ExponentialWindow, tf_centers.WenUpdate])
def test_rate_out_of_range_at_run_time(rate, make, use_resource):
    holder = tf.placeholder_with_default(0.5, [])
    centers, holders, result = _build("get_embed_centers", make(holder), use_resource)
    name = "decay" if make is tf_centers.ExponentialWindow else "alpha"
    with initialized_session() as session:
        feed = {holders[key]: value for key, value in _good().items()}
        before = state_bits(session, *centers)
        with pytest.raises(InvalidArgumentError, match=name + r" in \[0, 1\]"):
            session.run(result, {**feed, holder: rate})
        assert state_bits(session, *centers) == before
        session.run(result, feed)


def test_debias_refuses_a_decay_of_one_at_run_time():
    holder = tf.placeholder_with_default(1.0, [])
    updater = tf_centers.ExponentialWindow(holder, debias=True)
    centers, holders, result = _build("get_embed_centers", updater, True)
    with initialized_session() as session:
        before = state_bits(session, *centers)
        with pytest.raises(InvalidArgumentError, match=r"expected decay in \[0, 1\), found"):
            session.run(result, {holders[key]: value for key, value in _good().items()})
        assert state_bits(session, *centers) == before


@pytest.mark.parametrize("shape", [[B, None], [None, None], None], ids=str)
@pytest.mark.parametrize("labels_shape", [[B], [None], [B, None], None], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_every_result_depends_on_every_check(shape, labels_shape, training, use_resource):
    """A wrong D is refused however much of the rest is static, and in a lookup too."""
    make_ctrs(use_resource)
    embeds, labels = _unknown(shape=shape), _unknown(tf.int32, labels_shape)
    result = tf_centers.get_embed_centers(embeds, labels, is_training=training)
    column = labels_shape == [B, None]
    feed = {embeds: np.zeros([B, D + 1]), labels: np.zeros([B, 1] if column else [B])}
    with initialized_session() as session:
        with pytest.raises(InvalidArgumentError, match=r"expected embed_batch of shape \[B, 5\]"):
            session.run(result, feed)


@pytest.mark.parametrize("make", [tf_centers.ExponentialWindow, tf_centers.WenUpdate])
def test_a_rate_is_read_once(make, use_resource):
    """So that what was checked is what is used, even where somebody assigns it meanwhile."""
    make_ctrs(use_resource)
    rate = tf.get_variable("rate", initializer=0.5, use_resource=use_resource)
    before = set(tf.get_default_graph().get_operations())
    tf_centers.get_embed_centers(_floats(B, D), _ints(B), make(rate))
    added = [op for op in tf.get_default_graph().get_operations() if op not in before]
    reads = [op for op in added if op.type == "ReadVariableOp" and rate.op in _sources(op)]
    casts = [op for op in added if op.type == "Cast" and rate.op in _sources(op)]
    casts = [op for op in casts if not _sources(op) & set(casts)]
    assert len(reads) == (1 if use_resource else 0) and len(casts) == 1
    asserted = [op for op in added if op.type == "Assert" and casts[0] in _sources(op)]
    used = [op for op in added if "Scatter" in op.type and casts[0] in _sources(op)]
    assert asserted and used


def _sources(op):
    """Every op that a value flows from into this one."""
    found, todo = set(), [op]
    while todo:
        for tensor in todo.pop().inputs:
            if tensor.op not in found:
                found.add(tensor.op)
                todo.append(tensor.op)
    return found


@pytest.mark.parametrize("wrong", ["label too large", "label negative", "labels a scalar"])
def test_lookup_errors_at_run_time(wrong, use_resource):
    make_ctrs(use_resource)
    labels = _unknown(tf.int64)
    rows = tf_centers.lookup_embed_centers(labels)
    values, message = RUNNING[wrong]
    with initialized_session() as session:
        with pytest.raises(
            InvalidArgumentError, match="(?s)lookup_embed_centers: expected .*" + message
        ):
            session.run(rows, {labels: values["labels"]})


def test_constant_input_is_refused_at_run_time_alike(use_resource):
    """A bad label that is known when building is an error of `Session.run` all the same."""
    make_ctrs(use_resource)
    result = tf_centers.get_embed_centers(tf.ones([1, D]), tf.constant([C]))
    with initialized_session() as session:
        with pytest.raises(InvalidArgumentError, match=r"get_embed_centers: .*\[0, 7\)"):
            session.run(result)


def test_nearest_and_loss_errors_at_run_time():
    make_ctrs(True)
    embeds, rows = _unknown(), _unknown()
    found = tf_centers.nearest_centers(embeds)
    squares = tf_centers.center_distances(embeds)
    loss = tf_centers.center_loss(embeds, rows)
    with initialized_session() as session:
        with pytest.raises(InvalidArgumentError, match=r"nearest_centers: expected embed_batch"):
            session.run(found.labels, {embeds: np.zeros([B, D + 1])})
        with pytest.raises(InvalidArgumentError, match=r"center_distances: expected embed_batch"):
            session.run(squares, {embeds: np.zeros([B, 2, D])})
        for shape in ([1, D], [B, 1], [B + 1, D]):
            with pytest.raises(InvalidArgumentError, match="center_loss: expected embed_batch"):
                session.run(loss, {embeds: np.zeros([B, D]), rows: np.zeros(shape)})


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
        (
            lambda: tf_centers.EmbedCenters(
                tf.get_variable("x", [C, D]), tf.get_variable("y", [C], tf.int32)
            ),
            TypeError,
            r"counts must be int64, got int32",
        ),
        (
            lambda: tf_centers.EmbedCenters(
                tf.get_variable("x", [C, D]), tf.get_variable("y", [D], tf.int64)
            ),
            ValueError,
            r"counts must have shape \[7\].*5",
        ),
    ],
)
def test_variables_that_are_no_centers(make, error, message):
    with pytest.raises(error, match="^get_embed_centers: .*" + message):
        tf_centers.get_embed_centers(_floats(B, D), _ints(B), centers=make())
