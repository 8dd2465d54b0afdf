"""Models around the layer, and what they should come to by the oracle."""

import contextlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import B, C, D, make_batch
from tensorflow import keras

from tf_centers.keras import ComputeCenter
from tf_centers.keras_arguments import VERSION

IN_TF2 = tf.executing_eagerly()
IN_KERAS3 = tuple(map(int, VERSION.split(".")[:2])) >= (3, 0)
MINOR = int(VERSION.split(".")[1])
needs_keras3 = pytest.mark.skipif(not IN_KERAS3, reason="Keras 3 only")
needs_graphs = pytest.mark.skipif(IN_TF2, reason="the graphs of TensorFlow 1.15 only")
MARKS = [
    pytest.mark.eager,
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights"),
]
RATE, WEIGHT = 0.5, 0.3


def layer_of(model):
    return next(layer for layer in model.layers if isinstance(layer, ComputeCenter))


def plain_model(updater=None, labels="int64", shape=(1,), classes=C, **kwargs):
    """A functional model of the layer alone: embeddings come as they are."""
    inputs = [keras.Input(shape, dtype=labels), keras.Input((D,))]
    return compiled(keras.Model(inputs, ComputeCenter(classes, updater, **kwargs)(inputs)))


def dense_model(updater=None, weight=WEIGHT, **kwargs):
    """A functional model that learns its embeddings, of D + 1 features, by the center loss."""
    inputs = [keras.Input((1,), dtype="int32"), keras.Input((D + 1,))]
    embeds = keras.layers.Dense(D, use_bias=False, name="embed")(inputs[1])
    distances = ComputeCenter(C, updater, weight, **kwargs)([inputs[0], embeds])
    return compiled(keras.Model(inputs, distances))


class Subclassed(keras.Model):
    """The same as a subclass, which has no use for the distances."""

    def __init__(self, updater=None, weight=WEIGHT, **kwargs):
        super().__init__(**kwargs)
        self.embed = keras.layers.Dense(D, use_bias=False, name="embed")
        self.center = ComputeCenter(C, updater, weight, name="center")

    def call(self, inputs, training=None):
        embeds = self.embed(inputs[1])
        self.center([inputs[0], embeds])
        return embeds


def compiled(model, **kwargs):
    model.compile(keras.optimizers.SGD(RATE), **kwargs)
    return model


def batches(count, dims=D):
    """Batches `[labels [B, 1], rows [B, dims]]` of float32."""
    made = [make_batch(seed, dims=dims) for seed in range(count)]
    return [[labels[:, np.newaxis], rows.astype(np.float32)] for rows, labels in made]


def feed(labels, value=1.0):
    """A batch of rows of one value."""
    return [np.array(labels)[:, np.newaxis], np.full([len(labels), D], value, np.float32)]


def half_squares(rows, ctrs, labels):
    """The distance of each row to its center, one row after the other."""
    return np.array([0.5 * sum((row - ctrs[i]) ** 2) for row, i in zip(rows, labels.ravel())])


@contextlib.contextmanager
def unchanged(layer):
    """Every bit of the centers and counts is as it was."""
    before = [value.tobytes() for value in layer.get_weights()]
    assert len(before) == 2
    yield
    assert [value.tobytes() for value in layer.get_weights()] == before


def check_refused(model, batch, message, *methods, **how):
    """Each method of the model refuses the batch with this message, and changes nothing."""
    for method in methods:
        with unchanged(layer_of(model)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                getattr(model, method)(batch, **how)


def check_weights(model, twin):
    """Two models that have seen a batch at least hold the same weights."""
    assert layer_of(model).get_weights()[1].sum() >= B
    for one, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(one, other)
