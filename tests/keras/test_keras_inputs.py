"""What the Keras layer takes for labels and embeddings, and what it refuses."""

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D
from keras_models import (
    IN_KERAS3,
    IN_TF2,
    MARKS,
    batches,
    check_refused,
    check_weights,
    compiled,
    feed,
    layer_of,
    needs_keras3,
    plain_model,
)
from tensorflow import keras
from tf2_code import needs_tf2

from tf_centers.keras import ComputeCenter

pytestmark = MARKS
LABELS, EMBEDS = (rf"{kind} of inputs \[labels, embeddings\]" for kind in ("labels", "embeddings"))
BAD_BATCHES = [
    (feed([0, C]), r"expected every label in \[0, 7\), found.*7"),
    (feed([-1, 0]), r"expected every label in \[0, 7\), found.*-1"),
    (feed([0, 1], np.nan), "expected finite values"),
    (feed([0, 1], np.inf), "expected finite values"),
]


def test_bad_batches_are_refused():
    model = plain_model(MEAN)
    if IN_KERAS3:
        with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
            compiled(model, jit_compile=True)
    assert not getattr(model, "jit_compile", False)
    model.fit(feed([3, 4]), batch_size=2, verbose=0)
    for batch, message in BAD_BATCHES:
        methods = ["fit"] + ["evaluate", "predict"] * ("label" in message)
        message = r"ComputeCenter: inputs \[labels, embeddings\]: " + message
        check_refused(model, batch, message, *methods, batch_size=2, verbose=0)


@needs_keras3
def test_declares_that_xla_is_not_for_it(monkeypatch):
    """On a machine with a GPU, "auto" means XLA wherever every layer supports it."""
    devices = tensorflow.config.list_physical_devices()
    gpu = type(devices[0])("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda *_: devices + [gpu])
    assert not plain_model().jit_compile
    assert compiled(keras.Sequential([keras.Input((D,)), keras.layers.Dense(1)])).jit_compile


class Late(keras.Model):
    """Makes the layer where `compile` does not see it."""

    def build(self, input_shape):
        self.center = ComputeCenter(C)

    def call(self, inputs):
        return self.center(inputs)


@needs_tf2
@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_xla_never_runs_it_unchecked(call):
    model = compiled(Late(), jit_compile=True)
    assert model.jit_compile
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        getattr(model, call)(feed([0, C]), verbose=0)


@pytest.mark.parametrize(
    "dtype, shape",
    [(dtype, ()) for dtype in ("uint8", "int16", "int64", "float16", "float64")]
    + [(dtype, (1,)) for dtype in ("int8", "uint32", "float32")],
)
def test_integers_and_whole_floats_as_labels(dtype, shape):
    model = plain_model(MEAN, dtype, shape)
    batch, rows = batches(1)[0]
    model.train_on_batch([batch.reshape((-1,) + shape).astype(dtype), rows])
    counts = layer_of(model).get_weights()[1]
    np.testing.assert_array_equal(counts, np.bincount(batch.ravel(), minlength=C))


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_one_hot_labels_give_the_same_numbers(dtype):
    models = [plain_model(MEAN), plain_model(MEAN, dtype, shape=(C,))]
    for labels, rows in batches(3):
        kinds = labels, np.eye(C)[labels.ravel()].astype(dtype)
        assert len({float(m.train_on_batch([y, rows])) for m, y in zip(models, kinds)}) == 1
        assert len({float(m.test_on_batch([y, rows])) for m, y in zip(models, kinds)}) == 1
    check_weights(*models)
    found = [m.predict([y, rows], verbose=0) for m, y in zip(models, kinds)]
    np.testing.assert_array_equal(*found)
    assert found[0].any()


def test_one_class_is_a_column():
    model = plain_model(MEAN, "float32", classes=1)
    model.train_on_batch([np.zeros([3, 1]), np.ones([3, D])])
    assert layer_of(model).get_weights()[1].tolist() == [3]


NOT_ONE_HOT = [
    [0.1, 0.9, 0, 0, 0, 0, 0],
    [0.5, 0.5, 0, 0, 0, 0, 0],
    [1, np.nan, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0],
    [0, 2, 0, 0, 0, 0, 0],
    [0, -1, 0, 0, 0, 0, 0],
    [1, 0, 0, 0, 0, 0, -1],
]
NOT_WHOLE = [0.5, 2.999, -0.5, np.nan, np.inf, -np.inf, 1e30]


@pytest.mark.parametrize(
    "form, dtype, good, bad",
    [
        ("one-hot", "float32", np.eye(C)[1], NOT_ONE_HOT),
        ("one-hot", "int64", np.eye(C)[1], NOT_ONE_HOT[3:]),
        ("whole numbers", "float32", [1.0], np.reshape(NOT_WHOLE, [-1, 1])),
    ],
)
def test_labels_that_are_of_no_class(form, dtype, good, bad):
    model, rows = plain_model(MEAN, dtype, shape=(len(good),)), np.ones([2, D])
    model.train_on_batch([np.array([good, good], dtype), rows])
    message = f"ComputeCenter: expected {LABELS} to be {form}, found"
    for row in bad:
        batch = [np.array([good, row], dtype), rows]
        check_refused(model, batch, message, "train_on_batch", "test_on_batch")


@pytest.mark.parametrize(
    "dtype, most", [("float16", 2**11), ("bfloat16", 2**8), ("float32", 2**24)]
)
def test_floats_that_cannot_tell_labels_apart(dtype, most):
    labels = [0, most - 1]
    if IN_TF2:
        inputs = tf.cast(tf.constant(labels), dtype), tf.ones([2, 1])
        np.testing.assert_allclose(ComputeCenter(most)(inputs), [0.5, 0.5])
        with pytest.raises(tf.errors.InvalidArgumentError, match="every label in"):
            # The next label rounds to itself at worst, never to one in the range.
            ComputeCenter(most)((tf.cast(tf.constant([0, most + 1]), dtype), tf.ones([2, 1])))
    inputs = [keras.Input((), dtype=dtype), keras.Input((1,))]
    message = (
        f"ComputeCenter: {LABELS} must have an integer dtype for {most + 1} classes, got {dtype}"
    )
    with pytest.raises((ValueError, RuntimeError), match=message):  # as Keras 3.0 wraps it
        ComputeCenter(most + 1)(inputs)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"updater": "mean"}, TypeError, "updater must be an instance of.*, got 'mean'"),
        ({"weight": -0.5}, ValueError, "weight must be finite and at least 0, got -0.5"),
        ({"weight": float("nan")}, ValueError, "weight must be finite and at least 0, got nan"),
        ({"weight": float("inf")}, ValueError, "weight must be finite and at least 0, got inf"),
        ({"weight": True}, TypeError, "weight must be .*float.*, got True"),
        ({"weight": "1"}, TypeError, "weight must be .*float.*, got '1'"),
        ({"initializer": "normalish"}, ValueError, "initializer must be .*got 'normalish'"),
        ({"initializer": 0.5}, ValueError, "initializer must be .*Keras.*, got 0.5"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=f"^ComputeCenter: {message}"):
        ComputeCenter(**dict({"num_classes": C}, **kwargs))


@pytest.mark.parametrize(
    "inputs, error, message",
    [
        ([((), "int32")], ValueError, r"inputs must be \[labels, embeddings"),
        (
            [((D,), "int32"), ((D,), "float32")],
            ValueError,
            f"{LABELS} must have .*, 5.*one-hot.* 7",
        ),
        ([((C, 1), "int32"), ((D,), "float32")], ValueError, f"{LABELS} must have shape"),
        ([((None,), "int32"), ((D,), "float32")], ValueError, f"{LABELS} must have a known number"),
        ([((D,), "float32"), ((1,), "int32")], ValueError, f"{LABELS} must have shape.*swapped"),
        ([((), "int32"), ((None,), "float32")], ValueError, f"{EMBEDS} .*with D known statically"),
        ([((), "int32"), ((3, D), "float32")], ValueError, rf"{LABELS} must have shape \[B, T\]"),
        ([((3, 1), "int32"), ((3, D), "float32")], ValueError, rf"{LABELS} must .* \[B, T\] with"),
        ([((), "int32"), ((D,), "float32"), ((2,), "bool")], ValueError, "mask must have shape"),
        ([((), "int32"), ((D,), "float32"), ((), "int32")], TypeError, "mask must be bool"),
        ([((), "int32"), ((D,), "int32")], TypeError, f"{EMBEDS} must have a floating dtype"),
        ([((), "bool"), ((D,), "float32")], TypeError, f"{LABELS} must be numbers, got bool"),
    ],
)
def test_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=f"ComputeCenter: {message}"):
        ComputeCenter(C)([keras.Input(shape, dtype=dtype) for shape, dtype in inputs])


@pytest.mark.parametrize(
    "labels, dims, message",
    [
        ([2], D, rf"{LABELS} must have shape \[B\] or \[B, 1\] with B = 3, got \(2,\)"),
        ([4, C], D, rf"{LABELS} must have shape \[B, 7\] with B = 3, got \(4, 7\)"),
        ([3, C + 1], D, rf"{LABELS} must have .*got \(3, 8\); one-hot labels .* \[B, 7\]"),
        ([3], D + 1, rf"{EMBEDS} must have shape \[B, 5\], got \(3, 6\)"),
    ],
)
@needs_tf2
def test_bad_inputs_of_a_layer_that_is_built(labels, dims, message):
    layer = ComputeCenter(C)
    layer([tf.zeros([3], tf.int32), tf.ones([3, D])])
    with pytest.raises(ValueError, match=f"ComputeCenter: {message}"):
        layer([tf.zeros(labels, tf.int32), tf.ones([3, dims])])


def test_only_on_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="(?i)ComputeCenter: .*backend.*jax"):
        ComputeCenter(C)
