"""The Keras layer on two replicas, held against the same model in a single process."""

import os
import tempfile

import check_replicas
import numpy as np
import pytest
import tensorflow
from helpers import MEAN
from programs import in_own_process
from tensorflow import keras
from tf2_code import needs_gathers

from tf_centers.keras import ComputeCenter

BATCH = 8


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


@needs_gathers
@in_own_process
def test_fit_evaluate_save_and_load_on_two_replicas():
    strategy = check_replicas.make_strategy(2)
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
        fit(copied, rows)
        fit(single, rows)
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
