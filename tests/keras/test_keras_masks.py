"""The Keras layer with masks, with sequences, and with a weight that changes, against loops."""

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D
from keras_models import (
    IN_KERAS3,
    MARKS,
    MINOR,
    RATE,
    compiled,
    dense_model,
    half_squares,
    layer_of,
)
from tensorflow import keras
from tf2_code import needs_tf2

from tf_centers.keras import ComputeCenter

pytestmark = MARKS
T = 4
VARIABLES = [tensorflow.Variable] + ([keras.Variable] if IN_KERAS3 else [])


def sequences(seed):
    rng = np.random.RandomState(seed)
    mask = rng.rand(6, T) < 0.6
    labels, rows = rng.randint(C, size=[6, T]), rng.randn(6, T, D).astype(np.float32)
    return labels, rows, mask


def check(model, as_fed):
    """Trains on masked sequences, and holds loss, distances and state against loops."""
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed in range(3):
        labels, rows, mask = sequences(seed)
        y, x, used = labels.ravel(), rows.reshape([-1, D]), mask.ravel()
        expected = half_squares(x, ctrs, y) * used
        fed = as_fed(labels, rows, mask)
        found = model.predict(fed, verbose=0)
        np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-4, atol=1e-6)
        assert not np.ravel(found)[~used].any()
        model.reset_metrics()  # which some versions of Keras add up
        loss = model.train_on_batch(fed)
        np.testing.assert_allclose(loss, 0.5 * expected.sum() / used.sum(), rtol=1e-5)
        ctrs, counts = reference.apply(reference.cumulative_mean, ctrs, counts, x, y, used)
        values = layer_of(model).get_weights()
        np.testing.assert_allclose(values[0], ctrs, atol=1e-5)
        np.testing.assert_array_equal(values[1], counts)


@pytest.mark.parametrize(
    "axes, form", [([T], "int64"), ([T], "one-hot"), ([], "float32"), ([], "one-hot")]
)
def test_a_third_input_masks(axes, form):
    """Of masked rows neither labels nor embeddings are looked at."""
    is_one_hot = form == "one-hot"
    shapes = [axes + [C] * is_one_hot, axes + [D], axes]
    dtypes = ["float32" if is_one_hot else form, "float32", "bool"]
    inputs = [keras.Input(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes)]
    model = compiled(keras.Model(inputs, ComputeCenter(C, MEAN, 0.5)(inputs)))

    def as_fed(y, x, mask):
        y = np.eye(C)[y] * mask[..., np.newaxis] if is_one_hot else np.where(mask, y, -1)
        values = y.astype(dtypes[0]), np.where(mask[..., np.newaxis], x, np.nan), mask
        return [np.reshape(value, [-1] + shape) for value, shape in zip(values, shapes)]

    check(model, as_fed)


@pytest.mark.skipif(IN_KERAS3 and MINOR < 4, reason="Keras refuses None among masks")
def test_masks_of_keras():
    inputs = [keras.Input([T], dtype="int64"), keras.Input([T, D])]
    embeds = keras.layers.Masking()(inputs[1])
    model = compiled(keras.Model(inputs, ComputeCenter(C, MEAN, 0.5)([inputs[0], embeds])))
    check(model, lambda y, x, mask: [np.where(mask, y, -1), x * mask[..., np.newaxis]])


@needs_tf2
def test_gradient_of_masked_rows():
    layer, (labels, rows, mask) = ComputeCenter(C, MEAN, 0.5), sequences(0)
    rows = tf.constant(np.where(mask[..., np.newaxis], rows, np.nan))
    with tensorflow.GradientTape() as tape:
        tape.watch(rows)
        layer([tf.constant(labels), rows, tf.constant(mask)], training=True)
        (loss,) = layer.losses
    expected = 0.5 / mask.sum() * np.where(mask[..., np.newaxis], rows, 0)
    np.testing.assert_allclose(tape.gradient(loss, rows), expected, rtol=1e-5)
    none = layer([tf.constant(labels), rows, tf.zeros(mask.shape, tf.bool)], training=True)
    assert not np.any(none) and float(layer.losses[-1]) == 0


@needs_tf2
@pytest.mark.parametrize("make", VARIABLES)
def test_a_weight_that_changes(make):
    weight, batch = make(0.5), [np.array([[1], [1]]), np.ones([2, D + 1], np.float32)]
    model = dense_model(MEAN, weight, trainable=False)
    layer, embed = layer_of(model), model.get_layer("embed")
    for value in (0.5, 0.0, 0.25):
        weight.assign(value)
        model.reset_metrics()
        row = embed.get_weights()[0].sum(axis=0)
        loss = model.train_on_batch(batch)
        np.testing.assert_allclose(loss, value * 0.5 * (row**2).sum(), rtol=1e-5)
        moved = row - RATE * value * (D + 1) * row
        np.testing.assert_allclose(embed.get_weights()[0].sum(axis=0), moved, 1e-4, 1e-5)
    assert layer.weight is weight and float(tf.convert_to_tensor(weight)) == 0.25  # untrained
    with pytest.raises(AttributeError, match="weight"):
        layer.weight = 1.0
    with pytest.raises(ValueError, match="ComputeCenter: weight must be .* to be saved"):
        layer.get_config()
    for wrong in (make([0.5]), tensorflow.Variable(1)):
        with pytest.raises(ValueError, match="^ComputeCenter: weight must be a scalar variable"):
            ComputeCenter(C, weight=wrong)


def test_a_constraint_is_applied_saved_and_checked():
    labels, embeds = keras.Input([1], dtype="int64"), keras.Input([2])
    unit = keras.constraints.UnitNorm(axis=1)
    layer = ComputeCenter(3, MEAN, constraint=unit)
    model = keras.Model([labels, embeds], layer([labels, embeds]))
    model.compile("sgd")
    for _ in range(2):  # ((0.6, 0.8) * 1 + (6, 8)) / 2, and of norm 1 again
        model.train_on_batch([np.array([[1]]), np.array([[6.0, 8.0]])])
    np.testing.assert_allclose(layer.get_weights()[0], [[0, 0], [0.6, 0.8], [0, 0]], rtol=1e-5)
    twin = ComputeCenter.from_config(layer.get_config())
    assert twin.constraint.get_config() == unit.get_config()
    with pytest.raises(ValueError, match="constraint must be a Keras constraint, got 'round'"):
        ComputeCenter(3, constraint="round")
