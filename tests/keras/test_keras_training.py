"""The Keras layer in training: its loss, its gradient, its centers."""

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D
from keras_models import (
    IN_KERAS3,
    MARKS,
    MINOR,
    RATE,
    WEIGHT,
    Subclassed,
    batches,
    compiled,
    dense_model,
    feed,
    half_squares,
    layer_of,
    needs_graphs,
    needs_keras3,
    plain_model,
    unchanged,
)
from tensorflow import keras
from tf2_code import as_called, eager_or_function, needs_tf2
from updaters import UPDATERS

import tf_centers
from tf_centers.keras import ComputeCenter

pytestmark = MARKS
MODELS = pytest.mark.parametrize("model", [dense_model, Subclassed])


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_tracks_and_measures(name):
    """Every loss, and the state after each batch, against the oracle."""
    entry = UPDATERS[name]
    model = plain_model(entry.updater, weight=WEIGHT)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for labels, rows in batches(3):
        before = half_squares(rows, ctrs, labels)
        ctrs, counts = reference.apply(entry.rule, ctrs, counts, rows, labels.ravel())
        after = half_squares(rows, ctrs, labels)
        model.reset_metrics()  # which some versions of Keras add up
        loss = model.train_on_batch([labels, rows])
        np.testing.assert_allclose(loss, WEIGHT * before.mean(), rtol=1e-5)
        found = layer_of(model).get_weights()
        np.testing.assert_allclose(found[0], ctrs, atol=1e-5)
        np.testing.assert_array_equal(found[1], counts)
        with unchanged(layer_of(model)):
            np.testing.assert_allclose(model.predict([labels, rows], verbose=0), after, 1e-4, 1e-6)
            loss = model.evaluate([labels, rows], batch_size=B, verbose=0)
            np.testing.assert_allclose(loss, WEIGHT * after.mean(), rtol=1e-5)


@MODELS
def test_learns_by_the_gradient(model):
    """A kernel learns by the center loss alone, as gradients by hand say."""
    model, fed = compiled(model(MEAN)), batches(3, D + 1)
    model.predict(fed[0], verbose=0)  # makes the weights of a subclassed model
    embed = next(layer for layer in model.layers if layer.name == "embed")
    kernel = np.random.RandomState(7).randn(D + 1, D)
    embed.set_weights([kernel])
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for labels, rows in fed:
        model.train_on_batch([labels, rows])
        embeds = rows.astype(np.float64).dot(kernel)
        # The loss is WEIGHT / B * sum(0.5 * ||x - c||^2), with centers that stand still.
        gradient = WEIGHT / B * rows.T.dot(embeds - ctrs[labels.ravel()])
        kernel = kernel - RATE * gradient
        rule = reference.cumulative_mean
        ctrs, counts = reference.apply(rule, ctrs, counts, embeds, labels.ravel())
        np.testing.assert_allclose(embed.get_weights()[0], kernel, rtol=1e-3, atol=1e-4)


@MODELS
def test_fit_runs_every_batch(model, recwarn):
    model = compiled(model(MEAN))
    labels, rows = (np.concatenate(parts) for parts in zip(*batches(3, D + 1)))
    model.fit([labels, rows], batch_size=B, epochs=2, verbose=0)
    counts = layer_of(model).get_weights()[1]
    np.testing.assert_array_equal(counts, 2 * np.bincount(labels.ravel(), minlength=C))
    assert not [w for w in model.trainable_weights if "ctrs" in w.name or "counts" in w.name]
    # Keras finds the shapes of a subclassed model before there are variables.
    assert not [w for w in recwarn if "unbuilt" in str(w.message)]


def test_frozen_it_only_looks_up():
    model = plain_model(MEAN)
    model.train_on_batch(feed([1, 3]))
    weights = model.get_weights()
    model = plain_model(MEAN, trainable=False)
    model.set_weights(weights)
    with unchanged(layer_of(model)):
        assert model.train_on_batch(feed([1, 3], 2.0)) == 0.5 * D


@needs_tf2
@eager_or_function
@pytest.mark.parametrize("switch", [bool, tf.constant], ids=["bool", "tensor"])
def test_called_by_hand(how, switch):
    """In a training loop of one's own: no path to the centers, one trace for all batches."""
    layer, traces, ctrs = ComputeCenter(C, MEAN, WEIGHT, num_dims=D), [], np.zeros([C, D])
    table = layer.ctrs.value if IN_KERAS3 else layer.ctrs

    def step(labels, rows, training):
        traces.append(1)
        with tensorflow.GradientTape() as tape:
            tape.watch([rows, table])
            distances = layer([labels, rows], training=training)
            loss = tensorflow.add_n(layer.losses)
        gradient, none = tape.gradient(loss, [rows, table])
        assert none is None
        return distances, loss, gradient

    step = as_called(how, step)
    for labels, rows in batches(3):
        labels = labels.ravel()
        batch, expected = [tf.constant(labels), tf.constant(rows)], half_squares(rows, ctrs, labels)
        distances, loss, gradient = step(*batch, switch(True))
        np.testing.assert_allclose(distances, expected, rtol=1e-5)
        np.testing.assert_allclose(loss, WEIGHT * expected.mean(), rtol=1e-5)
        np.testing.assert_allclose(gradient, WEIGHT / B * (rows - ctrs[labels]), atol=1e-6)
        ctrs = layer.get_weights()[0]
        with unchanged(layer):
            distances, _, _ = step(*batch, switch(False))
            np.testing.assert_allclose(distances, half_squares(rows, ctrs, labels), rtol=1e-4)
    assert layer.get_weights()[1].sum() == 3 * B
    assert len(traces) == {"eager": 6, "function": 2 if switch is bool else 1}[how]


@needs_tf2
def test_empty_batch():
    layer = ComputeCenter(C)
    assert layer([tf.zeros([0], tf.int64), tf.zeros([0, D])], training=True).shape == (0,)
    assert [float(loss) for loss in layer.losses] == [0.0]


@needs_keras3
def test_stateless_call_is_refused():
    layer = ComputeCenter(C)
    inputs = [tf.constant([1]), tf.ones([1, D])]
    layer(inputs)
    state = [tf.identity(v.value) for v in layer.non_trainable_variables]
    with pytest.raises(NotImplementedError, match="ComputeCenter: stateless_call"):
        layer.stateless_call([], state, inputs, training=True)


@needs_tf2
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_precision(policy, set_policy):
    """Centers are float32 at least, and float labels keep their digits."""
    set_policy(policy)
    if policy.startswith("mixed") and IN_KERAS3 and MINOR < 2:
        with pytest.raises(NotImplementedError, match="ComputeCenter: .* pass dtype='float32'"):
            plain_model()
        return
    inputs = [keras.Input((), dtype="float32"), keras.Input((D + 1,))]
    embeds = keras.layers.Dense(D, use_bias=False, kernel_initializer="ones")(inputs[1])
    assert tf.as_dtype(embeds.dtype).name == policy.replace("mixed_", "")
    distances = ComputeCenter(5000, MEAN)([inputs[0], embeds])
    # With a loss beside that of the layer: Keras adds only losses of one dtype.
    model = compiled(keras.Model(inputs, [embeds, distances]), loss=["mse", None])
    label = 4097  # 4096 in float16
    rows = np.linspace(1, 2, D + 1, dtype=np.float32)[np.newaxis]
    model.fit([np.array([label], np.float32), rows], np.ones([1, D]), verbose=0)
    ctrs, counts = layer_of(model).get_weights()
    assert ctrs.dtype == (np.float64 if policy == "float64" else np.float32)
    assert counts[label] == 1 == counts.sum()
    np.testing.assert_allclose(ctrs[label], [9.0] * D, rtol=0.01)  # 1 + 1.2 + 1.4 + ... + 2
    assert tf.as_dtype(layer_of(model).ctrs.dtype).name == ctrs.dtype.name


@needs_graphs
def test_precision_in_graphs():
    policy = keras.mixed_precision.experimental.Policy("mixed_float16")
    layer = ComputeCenter(C, MEAN, dtype=policy)
    layer([tf.constant([1]), tf.ones([1, D], tf.float16)], training=True)
    assert layer.ctrs.dtype.base_dtype == tf.float32 and isinstance(layer.ctrs, tf.Variable)
    assert type(layer.ctrs) is type(layer.counts)  # none that casts itself
    keras.backend.set_floatx("float64")
    try:
        assert plain_model().layers[-1].get_weights()[0].dtype == np.float64
    finally:
        keras.backend.set_floatx("float32")


@needs_tf2
@pytest.mark.parametrize("as_a_loss", [True, False])
def test_sample_weight_reaches_compiled_losses_alone(as_a_loss):
    def as_it_is(y_true, y_pred):
        return y_pred

    inputs = [keras.Input((1,), dtype="int64"), keras.Input((D,))]
    layer = ComputeCenter(C, MEAN, 0 if as_a_loss else WEIGHT, initializer="ones")
    model = keras.Model(inputs, [keras.layers.Dense(D)(inputs[1]), layer(inputs)])
    losses = ["mse", as_it_is if as_a_loss else None]
    model.compile("sgd", loss=losses, loss_weights=[1.0, WEIGHT])
    ((labels, rows),) = batches(1)
    weights = np.linspace(0, 2, B)
    errors = np.square(model.predict([labels, rows], verbose=0)[0]).mean(axis=1)
    distances = half_squares(rows, np.ones([C, D]), labels)
    distances = weights * distances if as_a_loss else distances
    targets = [np.zeros([B, D]), np.zeros(B)]
    history = model.fit([labels, rows], targets, B, sample_weight=[weights] * 2, verbose=0)
    expected = np.mean(weights * errors) + WEIGHT * distances.mean()
    np.testing.assert_allclose(history.history["loss"], expected, rtol=1e-5)
    assert layer.get_weights()[1].sum() == B


@needs_tf2
def test_centers_in_an_embedding_layer():
    """What such a layer learns by SGD is a summed window."""
    rate, lam = 0.4, 0.5
    inputs = [keras.Input((1,), dtype="int64"), keras.Input((D,))]
    ctrs = keras.layers.Embedding(C, D, embeddings_initializer="zeros", name="ctrs")(inputs[0])
    old = keras.Model(inputs, keras.layers.Subtract()([inputs[1], keras.layers.Flatten()(ctrs)]))

    def loss(y_true, y_pred):
        return lam * tf.reduce_sum(tf.square(y_pred), axis=-1)

    old.compile(keras.optimizers.SGD(rate), loss=loss)
    updater = tf_centers.ExponentialWindow(1 - 2 * rate * lam / B, duplicates="sum")
    new = plain_model(updater, weight=2 * lam)
    for labels, rows in batches(3):
        for model in (old, new):
            model.reset_metrics()
        losses = old.train_on_batch([labels, rows], rows), new.train_on_batch([labels, rows])
        np.testing.assert_allclose(*losses, rtol=1e-5)
        found = old.get_layer("ctrs").get_weights()[0], layer_of(new).get_weights()[0]
        np.testing.assert_allclose(*found, atol=1e-5)
