"""The Keras layer on replicas, held against the same model in a single process."""

import os
import tempfile

import check_replicas
import numpy as np
import pytest
import tensorflow
from helpers import MEAN
from keras_models import IN_KERAS3, MINOR
from programs import in_own_process
from tensorflow import keras
from tf2_code import needs_gathers

from tf_centers.keras import ComputeCenter

BATCH = 8
PENALTY_IS_MEAN = not IN_KERAS3 or MINOR >= 14
pytestmark = [
    needs_gathers,
    pytest.mark.skipif(IN_KERAS3 and MINOR < 10, reason="refused before Keras 3.10"),
]


def _make_model():
    features, labels = keras.Input([4]), keras.Input([1], dtype="int64")
    embeds = keras.layers.Dense(3, kernel_initializer="ones")(features)
    logits = keras.layers.Dense(5, kernel_initializer="zeros")(embeds)
    distances = ComputeCenter(5, MEAN, 0.1, name="center")([labels, embeds])
    model = keras.Model([features, labels], [logits, distances])
    softmax = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Nothing else learns, so that the embeddings of both models stay the same bits.
    model.compile(keras.optimizers.SGD(0.0), loss=[softmax, None])
    return model


def _values(strategy, model):
    """The values of `ctrs` and of `counts`, each a list of the bits of every copy."""
    layer = model.get_layer("center")
    weights = [
        weight if isinstance(weight, tensorflow.Variable) else weight.value
        for weight in (layer.ctrs, layer.counts)
    ]
    return [
        [copy.numpy().tobytes() for copy in strategy.experimental_local_results(weight)]
        for weight in weights
    ]


def _check_refused(strategy):
    """A mask, and a second call in a step; nothing is left of what failed."""
    with strategy.scope():
        layer = ComputeCenter(5, MEAN, num_dims=3)
    data = tensorflow.constant([1, 2]), tensorflow.ones([2, 3])
    mask = tensorflow.constant([True, False])

    def twice():
        layer(data, training=True)
        layer(data, training=True)

    with pytest.raises(ValueError, match="ComputeCenter: .*expected no mask on 2 replicas"):
        strategy.run(lambda: layer(data + (mask,), training=True))
    if IN_KERAS3:
        with pytest.raises(ValueError, match="ComputeCenter: .*expected one call .* found two"):
            strategy.run(twice)
        strategy.run(lambda: layer(data, training=True))
        assert layer.get_weights()[1].tolist() == [0, 2, 2, 0, 0]


@in_own_process
def test_fit_evaluate_save_and_load_on_two_replicas():
    strategy = check_replicas.make_strategy(2)
    _check_refused(strategy)
    with strategy.scope():
        copied = _make_model()
    single = _make_model()
    rng = np.random.RandomState(0)
    # The last batch has 2 rows, and one more epoch ends with a part that is empty.
    x, y = rng.randn(42, 4).astype("float32"), rng.randint(5, size=[42, 1])

    def fit(model, rows=42, labels=y):
        data = [x[:rows], labels[:rows]]
        model.fit(data, y[:rows], batch_size=BATCH, shuffle=False, verbose=0)

    def check_same(model):
        for found, expected in zip(_values(strategy, model), _values(strategy, single)):
            assert found == expected * 2, (found, expected)

    for rows in (42, 33):
        for model in (copied, single):
            fit(model, rows)
    check_same(copied)
    losses = [
        np.ravel(model.evaluate([x[:40], y[:40]], y[:40], batch_size=BATCH, verbose=0))[0]
        for model in (copied, single)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    check_same(copied)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        copied.save(path)
        loaded = keras.models.load_model(path)
        assert _values(strategy, loaded) == _values(strategy, single)
        with strategy.scope():
            copied = keras.models.load_model(path)
    check_same(copied)
    bad = y.copy()
    bad[5] = 5  # in the part of the second replica
    message = r"expected every label in \[0, 5\), found\] \[5\]"
    with pytest.raises(tensorflow.errors.InvalidArgumentError, match=message):
        fit(copied, BATCH, bad)
    check_same(copied)
    fit(copied)
    fit(single)
    check_same(copied)


class WithLoss(keras.layers.Layer):
    def call(self, inputs):
        loss = 0.1 * tensorflow.reduce_mean(tensorflow.square(inputs))
        self.add_loss(loss, **({} if IN_KERAS3 else {"inputs": True}))
        return inputs


def _model_of_losses(others):
    """A model that learns, with two of the layers and `others` or with the center loss alone."""
    features, labels = keras.Input([4]), keras.Input([1], dtype="int64")
    # Before Keras 3.14, which divides it by the rows, it differs by replica.
    penalty = keras.regularizers.L2(0.01) if others and PENALTY_IS_MEAN else None
    how = {"kernel_initializer": keras.initializers.Constant(0.3)}
    embeds = keras.layers.Dense(3, activity_regularizer=penalty, **how)(features)
    embeds = WithLoss()(embeds) if others else embeds
    distances = ComputeCenter(5, MEAN, 0.1)([labels, embeds])
    outputs, losses = [distances], None
    if others:
        twos = keras.layers.Dense(2, **how)(embeds)
        logits = WithLoss()(keras.layers.Dense(5, kernel_initializer="zeros")(twos))
        outputs = [logits, distances, ComputeCenter(5, weight=0.5)([labels, twos])]
        losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), None, None]
    model = keras.Model([features, labels], outputs)
    model.compile(keras.optimizers.SGD(0.1), loss=losses)
    return model


@in_own_process
def test_learns_the_same_on_four_replicas():
    strategy = check_replicas.make_strategy(4)
    rng = np.random.RandomState(0)
    # Keras weighs its own losses by replica. In 42 rows, parts differ and some are empty.
    for others, rows in ((True, 40), (False, 42)):
        with strategy.scope():
            copied = _model_of_losses(others)
        single = _model_of_losses(others)
        x, y = rng.randn(rows, 4).astype("float32"), rng.randint(5, size=[rows, 1])
        data = [x, y], y if others else None
        found, expected = [
            model.fit(*data, batch_size=BATCH, epochs=2, shuffle=False, verbose=0).history["loss"]
            for model in (copied, single)
        ]
        if others or IN_KERAS3:  # Keras 2 does not weigh replicas if no loss is compiled.
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert expected[1] < expected[0]
        for one, other in zip(copied.get_weights(), single.get_weights()):
            np.testing.assert_allclose(one, other, atol=1e-6)
