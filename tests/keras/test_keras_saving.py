"""The configuration of the Keras layer, and models that are saved and loaded."""

import json

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D
from keras_models import (
    IN_KERAS3,
    MARKS,
    Subclassed,
    batches,
    check_weights,
    compiled,
    dense_model,
    layer_of,
    needs_graphs,
)
from tensorflow import keras
from tf2_code import needs_tf2
from updaters import UPDATERS, WITH_RATE

import tf_centers
from tf_centers.keras import ComputeCenter

pytestmark = MARKS
# What Keras 3 makes of a name that ends in .keras, and Keras 2 of TensorFlow 2.12 has to be told.
KERAS_FORMAT = {} if IN_KERAS3 else {"save_format": "keras_v3"}


@pytest.mark.parametrize("rate", [float, np.float32, round])
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_configuration(name, rate):
    made = UPDATERS[name].make(rate(0.25))
    layer = ComputeCenter(C, made, weight=np.float32(0.25), name="mine")
    config = json.loads(json.dumps(layer.get_config()))
    twin = ComputeCenter.from_config(config)
    assert twin.get_config() == layer.get_config()
    assert (twin.num_classes, twin.weight, twin.name) == (C, 0.25, "mine")
    assert repr(twin.updater) == repr(UPDATERS[name].make(float(rate(0.25))))


INITIALIZERS = [
    "uniform",
    keras.initializers.Constant(2.5),
    {"class_name": "Constant", "config": {"value": 2.5}},
]


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=["name", "instance", "configuration"])
def test_initializer(initializer):
    model = dense_model(MEAN, initializer=initializer)
    ctrs, counts = layer_of(model).get_weights()
    assert ctrs.std() > 0.01 if initializer == "uniform" else (ctrs == 2.5).all()
    assert not counts.any()
    config = json.loads(json.dumps(layer_of(model).get_config()))
    twin = compiled(keras.models.model_from_json(model.to_json()))
    assert layer_of(twin).get_config()["initializer"] == config["initializer"]
    if initializer != "uniform":
        np.testing.assert_array_equal(layer_of(twin).get_weights()[0], ctrs)
    del config["initializer"]  # as earlier versions wrote it
    layer = ComputeCenter.from_config(config)
    layer.build([(None,), (None, D)])
    assert not layer.get_weights()[0].any()


def test_default_updater():
    assert repr(ComputeCenter(C).updater) == repr(tf_centers.ExponentialWindow(0.95))


@pytest.mark.parametrize("name", sorted(WITH_RATE))
@pytest.mark.parametrize("kind", [tf.constant, tensorflow.Variable])
def test_a_tensor_cannot_be_saved(kind, name):
    updater = UPDATERS[name].make(kind(0.5))
    message = f"ComputeCenter: .* of {type(updater).__name__} must be a Python float"
    with pytest.raises(ValueError, match=message):
        ComputeCenter(C, updater).get_config()


def test_an_updater_of_ones_own_cannot_be_saved():
    class Mine(tf_centers.WenUpdate):
        pass

    with pytest.raises(ValueError, match="ComputeCenter: updater must be one of .* to be saved"):
        ComputeCenter(C, Mine()).get_config()
    config = dict(ComputeCenter(C).get_config(), updater={"class_name": "Mine", "config": {}})
    with pytest.raises(ValueError, match="ComputeCenter: updater must be one of .*, got .*Mine"):
        ComputeCenter.from_config(config)


def through_json(model, folder):
    """Without `custom_objects`; the weights by themselves."""
    twin = compiled(keras.models.model_from_json(model.to_json()))
    twin.set_weights(model.get_weights())
    return twin


def through_file(model, folder):
    model.save(str(folder / "model.keras"), **KERAS_FORMAT)
    classes = {"Subclassed": Subclassed} if isinstance(model, Subclassed) else None
    return keras.models.load_model(str(folder / "model.keras"), custom_objects=classes)


def through_weights(model, folder):
    twin = dense_model(tf_centers.ExponentialWindow(0.5, debias=True))
    model.save_weights(str(folder / "model.weights.h5"))
    twin.load_weights(str(folder / "model.weights.h5"))
    return twin


@pytest.mark.parametrize(
    "make, copy",
    [
        (dense_model, through_json),
        pytest.param(dense_model, through_file, marks=needs_tf2),
        pytest.param(dense_model, through_weights, marks=needs_tf2),
        pytest.param(Subclassed, through_file, marks=needs_tf2),
    ],
)
def test_a_copy_goes_on_to_the_same_numbers(make, copy, tmp_path):
    updater = None if make is Subclassed else tf_centers.ExponentialWindow(0.5, debias=True)
    model, fed = compiled(make(updater)), batches(2, D + 1)
    model.train_on_batch(fed[0])
    twin = copy(model, tmp_path)
    if copy is not through_weights:
        assert layer_of(twin).get_config() == layer_of(model).get_config()
    for _ in range(2):
        check_weights(model, twin)
        assert model.train_on_batch(fed[1]) == twin.train_on_batch(fed[1])


@needs_graphs
def test_saved_in_graphs(tmp_path):
    """As checkpoints and as a SavedModel; h5 files need a package more."""
    fed = batches(2, D + 1)
    for make in (dense_model, Subclassed):
        model, twin = compiled(make(MEAN)), compiled(make(MEAN))
        for each in (model, twin):
            each.predict(fed[0])
        model.train_on_batch(fed[0])
        model.save_weights(str(tmp_path / make.__name__))
        twin.load_weights(str(tmp_path / make.__name__))
        check_weights(model, twin)
    model = dense_model(MEAN)
    model.train_on_batch(fed[0])
    model.save(str(tmp_path / "saved"), save_format="tf")
    twin = keras.models.load_model(str(tmp_path / "saved"))
    check_weights(model, twin)
    np.testing.assert_array_equal(twin.predict(fed[1]), model.predict(fed[1]))
