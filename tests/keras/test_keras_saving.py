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
    plain_model,
)
from tensorflow import keras
from tf2_code import needs_tf2
from updaters import UPDATERS, WITH_RATE

import tf_centers
from tf_centers.keras import ComputeCenter

pytestmark = MARKS
# What Keras 3 makes of a name that ends in .keras, and Keras 2 of TensorFlow 2.12 has to be told.
KERAS_FORMAT = {} if IN_KERAS3 else {"save_format": "keras_v3"}


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_configuration(name):
    for rate in (0.25, np.float32(0.25), 0):
        layer = ComputeCenter(C, UPDATERS[name].make(rate), weight=np.float32(0.25), name="mine")
        twin = ComputeCenter.from_config(json.loads(json.dumps(layer.get_config())))
        assert twin.get_config() == layer.get_config()
        assert (twin.num_classes, twin.weight, twin.name) == (C, 0.25, "mine")
        assert repr(twin.updater) == repr(UPDATERS[name].make(float(rate)))
    assert repr(ComputeCenter(C).updater) == repr(tf_centers.ExponentialWindow(0.95))


@pytest.mark.parametrize(
    "initializer",
    [
        "uniform",
        keras.initializers.Constant(2.5),
        {"class_name": "Constant", "config": {"value": 2.5}},
    ],
    ids=["name", "instance", "configuration"],
)
def test_initializer(initializer):
    model = dense_model(MEAN, initializer=initializer)
    twin = keras.models.model_from_json(model.to_json())
    for each in (model, twin):
        ctrs, counts = layer_of(each).get_weights()
        assert ctrs.std() > 0.01 if initializer == "uniform" else (ctrs == 2.5).all()
        assert not counts.any()
    config = layer_of(model).get_config()
    del config["initializer"]  # as earlier versions wrote it
    layer = ComputeCenter.from_config(config)
    layer.build([(None,), (None, D)])
    assert not layer.get_weights()[0].any()


@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_a_tensor_cannot_be_saved(name):
    for rate in (tf.constant(0.5), tensorflow.Variable(0.5)):
        updater = UPDATERS[name].make(rate)
        message = f"ComputeCenter: .* of {type(updater).__name__} must be a Python float"
        with pytest.raises(ValueError, match=message):
            ComputeCenter(C, updater).get_config()


def test_an_updater_of_ones_own_cannot_be_saved(warnings):
    class Mine(tf_centers.WenUpdate):
        pass

    ComputeCenter(C)
    assert not warnings
    ComputeCenter(C, Mine())  # It is told at once.
    assert "ComputeCenter: updater must be one of" in warnings[0]
    assert "only the weights can be saved" in warnings[0]
    with pytest.raises(ValueError, match="ComputeCenter: updater must be one of .* to be saved"):
        ComputeCenter(C, Mine()).get_config()
    config = dict(ComputeCenter(C).get_config(), updater={"class_name": "Mine", "config": {}})
    with pytest.raises(ValueError, match="ComputeCenter: updater must be one of .*, got .*Mine"):
        ComputeCenter.from_config(config)


@pytest.mark.parametrize("how", ["json", pytest.param("file", marks=needs_tf2)])
def test_a_copy_goes_on_to_the_same_numbers(how, tmp_path):
    """Without `custom_objects`."""
    model = dense_model(tf_centers.ExponentialWindow(0.5, debias=True))
    first, second = batches(2, D + 1)
    model.train_on_batch(first)
    if how == "json":
        twin = compiled(keras.models.model_from_json(model.to_json()))
        twin.set_weights(model.get_weights())
    else:
        model.save(str(tmp_path / "model.keras"), **KERAS_FORMAT)
        twin = keras.models.load_model(str(tmp_path / "model.keras"))
    assert layer_of(twin).get_config() == layer_of(model).get_config()
    for _ in range(2):
        check_weights(model, twin)
        for each in (model, twin):
            each.reset_metrics()  # which some versions of Keras add up
        assert model.train_on_batch(second) == twin.train_on_batch(second)


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


class Late(keras.Model):
    """Reaches the layer in its own training step only, as losses are often written."""

    def __init__(self, num_dims=D, **kwargs):
        super().__init__(**kwargs)
        self.embed = keras.layers.Dense(D, use_bias=False)
        self.center = ComputeCenter(C, MEAN, num_dims=num_dims)

    def call(self, inputs):
        return self.embed(inputs)


def trained_late(num_dims=D):
    model, ((labels, rows),) = Late(num_dims), batches(1, D + 1)
    embeds = model(tf.constant(rows))
    model.center([tf.constant(labels), embeds], training=True)
    return model, rows


@needs_tf2
@pytest.mark.parametrize(
    "form, num_dims",
    [(form, D) for form in ("keras", "weights.h5", "checkpoint", "saved_model")]
    # Keras 2 raises, or restores the checkpoint when the layer is built.
    + [(form, None) for form in ("keras", "weights.h5", "checkpoint") if IN_KERAS3],
)
def test_a_layer_that_is_reached_late(form, num_dims, tmp_path):
    model, rows = trained_late(num_dims)
    path = str(tmp_path / ("model." + form))
    if form == "keras":
        model.save(path, **KERAS_FORMAT)
        twin = keras.models.load_model(path, custom_objects={"Late": Late})
    elif form == "weights.h5":
        model.save_weights(path)
        twin = Late(num_dims)
        twin(tf.constant(rows))
        twin.load_weights(path)
    elif form == "checkpoint":
        saved = tensorflow.train.Checkpoint(model=model).save(path)
        twin = Late(num_dims)
        status = tensorflow.train.Checkpoint(model=twin).restore(saved)
        if num_dims is None:
            with pytest.raises(AssertionError):
                status.assert_consumed()
            return
    else:
        tensorflow.saved_model.save(model, path)
        twin = tensorflow.saved_model.load(path)
    found = twin.center.ctrs, twin.center.counts
    for value, expected in zip(found, model.center.get_weights()):
        value = value if hasattr(value, "numpy") else value.value  # Keras 3 wraps its variables.
        assert expected.any()
        np.testing.assert_array_equal(value.numpy(), expected)


@needs_tf2
def test_the_table_in_every_other_call(tmp_path):
    """The variables of the layer, which Keras 3 wraps, without a session."""
    model, _ = trained_late()
    ctrs, counts = model.center.get_weights()
    centers = tf_centers.EmbedCenters(model.center.ctrs, model.center.counts)
    rows = np.random.RandomState(3).randn(9, D).astype(np.float32)
    squares = ((rows[:, np.newaxis] - ctrs) ** 2).sum(axis=2)
    np.testing.assert_allclose(tf_centers.center_distances(rows, centers), squares, rtol=1e-4)
    nearest = tf_centers.nearest_centers(rows, centers).labels[:, 0]
    expected = np.where(counts > 0, squares, np.inf).argmin(axis=1)
    np.testing.assert_array_equal(nearest, expected)
    found = tf_centers.lookup_embed_centers([3, 0], centers.ctrs)
    np.testing.assert_array_equal(found, ctrs[[3, 0]])
    tf_centers.update_embed_centers(rows[:1], [2], MEAN, centers)
    np.testing.assert_allclose(model.center.get_weights()[0][2], rows[0], rtol=1e-5)
    with tf.Graph().as_default(), tf.Session() as session:
        old = tf.get_variable("centers", initializer=ctrs[:4] + 1)
        session.run(old.initializer)
        path = tf.train.Saver().save(session, str(tmp_path / "tf1"))
    tf_centers.warm_start_embed_centers(path, centers, "centers", counts=7)
    np.testing.assert_array_equal(model.center.get_weights()[0][:4], ctrs[:4] + 1)
    assert model.center.get_weights()[1][:4].tolist() == [7] * 4


@needs_tf2
def test_a_program_without_the_import(start, tmp_path):
    """Keras finds the layer by itself, or names the module to import."""
    plain_model().save(str(tmp_path / "model.keras"), **KERAS_FORMAT)
    program = tmp_path / "load.py"
    program.write_text(
        "import sys, tf_centers\nfrom tensorflow import keras\n"
        "keras.models.load_model(sys.argv[1])\n"
    )
    run = start(program, str(tmp_path / "model.keras"))
    # Keras 2 knows the package alone, and tf_keras calls the name of the layer.
    named = ["'tf_centers>ComputeCenter'", "'str' object is not callable"]
    named = ["'module': 'tf_centers.keras'"] if IN_KERAS3 else named
    assert run.wait() == 0 or any(name in run.output for name in named)
