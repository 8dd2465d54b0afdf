"""docs/migrating.md: each code before and after runs, and the numbers change as it says."""

import pathlib
import re

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch
from tensorflow import keras

import tf_centers

TEXT = (pathlib.Path(__file__).resolve().parents[2].joinpath("docs", "migrating.md")).read_text(
    encoding="utf-8"
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
START, *SECTIONS = [BLOCK.findall(section) for section in TEXT.split("\n## ")]
DISTINCT = (make_batch(0, rows=4)[0].astype(np.float32), np.array([5, 0, 3, 6]))
REPEATED = (make_batch(1)[0].astype(np.float32), make_batch(1)[1])
OLD = np.linspace(-2, 3, C * D).reshape([C, D]).astype(np.float32)


def code(section, when):
    """The functions of a section, `when` 0 before and 1 after."""
    found = {}
    exec(START[0] + SECTIONS[section][when], found)
    return found


def oracle(rule, batch, times=1, ctrs=OLD):
    counts = np.zeros(C, int)
    for _ in range(times):
        ctrs, counts = reference.apply(rule, ctrs, counts, *batch)
    return ctrs


def make_ctrs(use_resource=False):
    with tf.variable_scope("embed"):
        return tf.get_variable("ctrs", initializer=OLD, trainable=False, use_resource=use_resource)


def run(build, batch, times=1, **kwargs):
    """Builds a graph on a batch, and returns what it fetches at last and the centers."""
    with tf.Graph().as_default():
        features = tf.placeholder(tf.float32, [None, D])
        labels = tf.placeholder(tf.int32, [None])
        fetches, ctrs = build(features, labels, **kwargs)
        with initialized_session() as session:
            ctrs.load(OLD, session)
            for _ in range(times):
                found = session.run(fetches, {features: batch[0], labels: batch[1]})
            return found, session.run(ctrs)


def equal(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5)


def differ(one, other):
    assert np.abs(np.subtract(one, other)).max() > 0.05


def test_every_section_has_both_codes():
    assert [len(blocks) for blocks in [START] + SECTIONS] == [1, 2, 2, 2, 2, 2, 2, 2, 0]
    assert TEXT.count("```") == 2 * 15


@pytest.fixture
def recipe():
    def build(features, labels, when, use_resource=False, **kwargs):
        ctrs = make_ctrs(use_resource)
        return code(0, when)["get_embed_centers"](features, labels, **kwargs), ctrs

    return build


def test_recipe(recipe):
    window, summed = reference.exponential_window, reference.summed_window
    for when in (0, 1):
        rows, ctrs = run(recipe, DISTINCT, when=when)
        equal(ctrs, oracle(window, DISTINCT))
        equal(rows, ctrs[DISTINCT[1]])
    _, before = run(recipe, REPEATED, when=0)
    _, after = run(recipe, REPEATED, when=1)
    equal(before, oracle(summed, REPEATED))
    equal(after, oracle(window, REPEATED))
    differ(before, after)
    old = tf_centers.ExponentialWindow(0.95, duplicates="sum")

    def build(features, labels):
        ctrs = make_ctrs()
        return tf_centers.get_embed_centers(features, labels, old), ctrs

    equal(run(build, REPEATED)[1], before)


def facenet(features, labels, when, **kwargs):
    loss, centers = code(1, when)["center_loss"](features, labels, 0.95, C, **kwargs)
    return [loss, tf.gradients(loss, features)[0]], centers


def test_facenet():
    # The mean over B rows and D dims, with the centers from before the update.
    expected = np.mean((REPEATED[0] - OLD[REPEATED[1]]) ** 2)
    (loss, gradient), before = run(facenet, REPEATED, when=0)
    (after_loss, after_gradient), after = run(facenet, REPEATED, when=1)
    np.testing.assert_allclose([loss, after_loss], expected, rtol=1e-5)
    equal(gradient, 2 / (B * D) * (REPEATED[0] - OLD[REPEATED[1]]))
    equal(after_gradient, gradient)
    equal(before, oracle(reference.summed_window, REPEATED))
    equal(after, oracle(reference.exponential_window, REPEATED))
    differ(before, after)


def test_facenet_validates():
    for when, training in ((0, {}), (1, {"is_training": False})):
        (loss, _), ctrs = run(facenet, REPEATED, when=when, **training)
        np.testing.assert_allclose(loss, np.mean((REPEATED[0] - OLD[REPEATED[1]]) ** 2), rtol=1e-5)
        assert (ctrs == OLD).all() == bool(when)


def test_facenet_checkpoint(tmp_path):
    path = str(tmp_path / "model")
    with tf.Graph().as_default():
        _, centers = facenet(tf.ones([1, D]), [0], 0)
        assert centers not in tf.trainable_variables()  # which are all that facenet saves
        saver = tf.train.Saver(tf.trainable_variables() + [centers])
        with initialized_session() as session:
            centers.load(OLD, session)
            saver.save(session, path)
    with tf.Graph().as_default():
        _, centers = facenet(tf.ones([1, D]), [0], 1)
        saver = tf.train.Saver(tf.trainable_variables() + [centers])
        with initialized_session() as session:
            saver.restore(session, path)
            np.testing.assert_array_equal(session.run(centers), OLD)


def eq4(features, labels, when, update=True):
    loss, centers, op = code(2, when)["get_center_loss"](features, labels, 0.5, C)
    fetches = [loss, tf.gradients(loss, features)[0]]
    if update:
        fetches.append(op.op if tf.is_tensor(op) else op)
    return fetches, centers


def test_eq4():
    difference = REPEATED[0] - OLD[REPEATED[1]]
    for when in (0, 1):
        (loss, gradient, _), ctrs = run(eq4, REPEATED, when=when)
        np.testing.assert_allclose(loss, 0.5 * np.sum(difference**2), rtol=1e-5)
        equal(gradient, difference)
        equal(ctrs, oracle(reference.wen_update, REPEATED))
        assert (run(eq4, REPEATED, when=when, update=False)[1] == OLD).all()
    differ(ctrs, oracle(reference.exponential_window, REPEATED))


def mean_of_batch(features, labels, when):
    ctrs = make_ctrs()
    op = code(3, when)["update_centers"](ctrs, features, labels, 0.3)
    return (op.op if tf.is_tensor(op) else op), ctrs


def test_mean_of_batch():
    expected = OLD.astype(np.float64)
    for label in set(REPEATED[1]):
        mean = REPEATED[0][REPEATED[1] == label].mean(axis=0)
        expected[label] += 0.3 * (mean - expected[label])
    for when in (0, 1):
        equal(run(mean_of_batch, REPEATED, when=when)[1], expected)


def dense(features, labels, when, name, rate):
    ctrs = make_ctrs()
    return code(4, when)[name](ctrs, features, labels, rate), ctrs


def test_dense_eq4():
    for when in (0, 1):
        _, ctrs = run(dense, REPEATED, when=when, name="update_centers", rate=0.5)
        equal(ctrs, oracle(reference.wen_update, REPEATED))


def test_dense_average():
    decay, absent = 0.75, [1, 2, 4]
    average = {"name": "average_centers", "rate": decay}

    def window(center, seen, rows):
        return reference.exponential_window(center, seen, rows, decay)

    _, before = run(dense, DISTINCT, when=0, **average)
    _, after = run(dense, DISTINCT, when=1, **average)
    equal(after, oracle(window, DISTINCT))
    equal(before[DISTINCT[1]], after[DISTINCT[1]])
    equal(before[absent], decay * OLD[absent])
    assert (after[absent] == OLD[absent]).all()

    _, before = run(dense, REPEATED, when=0, **average)
    _, after = run(dense, REPEATED, when=1, **average)
    equal(after, oracle(window, REPEATED))
    label = np.bincount(REPEATED[1]).argmax()
    rows = REPEATED[0][REPEATED[1] == label]
    assert len(rows) > 1
    equal(before[label], decay * OLD[label] + (1 - decay) * rows.mean(axis=0))
    differ(before[label], after[label])


@pytest.mark.parametrize("name", ["update_centers", "average_centers"])
def test_dense_on_bad_batches(name):
    features, labels = DISTINCT
    wrong = np.where(labels == 5, C, labels)
    _, before = run(dense, (features, wrong), when=0, name=name, rate=0.5)
    assert np.isfinite(before).all()
    spoilt = features.copy()
    spoilt[1, 2] = np.nan
    _, before = run(dense, (spoilt, labels), when=0, name=name, rate=0.5)
    assert np.isnan(before[:, 2]).all()
    for batch in ((features, wrong), (spoilt, labels)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            run(dense, batch, when=1, name=name, rate=0.5)


WEIGHT, F = 0.7, 6


def keras_model(when):
    """A model with its centers, set to `OLD`, and functions to feed, measure and look at them."""
    model, centers = code(5, when)["build_model"](F, C, D, WEIGHT)
    kernel = np.random.RandomState(3).randn(F, D)
    if when == 0 and not tf.executing_eagerly():
        keras.backend.get_session().run(tf.variables_initializer([centers]))
    model.get_layer("embeds").set_weights([kernel, np.zeros(D)])
    logits = model.get_layer("logits")
    logits.set_weights([np.random.RandomState(4).randn(D, C), np.zeros(C)])
    if when == 1:
        centers.set_weights([OLD, np.zeros(C, int)])
    elif tf.executing_eagerly():
        centers.assign(OLD)
    else:
        centers.load(OLD, keras.backend.get_session())

    def call(method, x, y):
        y = y[:, np.newaxis]
        found = getattr(model, method)(*(([x, y], y) if when else (x, [y, y])))
        return found[0] if isinstance(found, (list, tuple)) else found

    def look():
        ctrs = centers.get_weights()[0] if when else keras_value(centers)
        return ctrs, [w for w in model.get_weights() if w.shape == (F, D)][0]

    return model, call, look, kernel


def keras_value(variable):
    if tf.executing_eagerly():
        return variable.numpy()
    return keras.backend.get_session().run(variable)


@pytest.fixture
def features():
    return np.random.RandomState(5).randn(B, F).astype(np.float32)


@pytest.mark.eager
def test_keras(features):
    y, found = DISTINCT[1], []
    x = features[: len(y)]
    for when in (0, 1):
        _, call, look, kernel = keras_model(when)
        embeds = x.dot(kernel)
        loss = call("train_on_batch", x, y)
        ctrs, learned = look()
        equal(ctrs, oracle(reference.exponential_window, (embeds, y)))
        found.append((loss, learned))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    # The center loss has its share: by hand, with the softmax of the same logits.
    logits = embeds.dot(np.random.RandomState(4).randn(D, C))
    softmax = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y])
    center = WEIGHT * np.mean((embeds - OLD[y]) ** 2)
    np.testing.assert_allclose(found[1][0], softmax + center, rtol=1e-4)
    assert center > 0.1
    assert np.abs(found[1][1] - kernel).max() > 1e-3


@pytest.mark.eager
def test_keras_repeated_labels_and_evaluation(features, tmp_path):
    y = REPEATED[1]
    for when, rule in enumerate((reference.summed_window, reference.exponential_window)):
        model, call, look, kernel = keras_model(when)
        expected = oracle(rule, (features.dot(kernel), y))
        call("test_on_batch", features, y)
        equal(look()[0], OLD if when else expected)
        if when:
            call("train_on_batch", features, y)
            equal(look()[0], expected)
        shapes = [w.shape for w in model.get_weights()]
        assert ((C, D) in shapes) is bool(when)
    inputs, logits = model.inputs[0], model.get_layer("logits").output
    assert keras.Model(inputs, logits).predict(features, verbose=0).shape == (B, C)


def keras_layer(when, patch=True):
    """A model with its layer of centers, set to `OLD`, and a function that trains one batch."""
    found = code(6, when)
    if when == 0 and patch and not hasattr(keras.layers.Layer, "add_update"):
        found["CenterLossLayer"].add_update = lambda self, pair: None  # as tf.keras has it
    model, center = found["build_model"](F, C, D, WEIGHT)
    model.get_layer("embeds").set_weights([np.random.RandomState(3).randn(F, D), np.ones(D)])
    model.get_layer("logits").set_weights([np.random.RandomState(4).randn(D, C), np.ones(C)])
    center.set_weights([OLD, np.zeros(C)] if when else [OLD])

    def train(x, y):
        one_hot = np.eye(C, dtype=np.float32)[y]
        targets = one_hot if when else [one_hot, np.zeros([len(y), 1])]
        loss = model.train_on_batch([x, one_hot], targets)
        return loss[0] if isinstance(loss, (list, tuple)) else loss

    return model, center, train, found


@pytest.mark.eager
def test_keras_layer(features):
    y = REPEATED[1]
    losses, kernels = [], []
    for when in (0, 1):
        model, center, train, _ = keras_layer(when)
        embeds = features.dot(model.get_layer("embeds").get_weights()[0]) + 1
        losses.append(train(features, y))
        kernels.append(model.get_layer("embeds").get_weights()[0])
        expected = oracle(reference.wen_update, (embeds, y))
        equal(center.get_weights()[0], expected if when else OLD)
        differ(expected, OLD)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-5)
    assert losses[0] > WEIGHT * np.mean(np.sum((embeds - OLD[y]) ** 2, axis=1)) > 0.1


@pytest.mark.eager
@pytest.mark.skipif(hasattr(keras.layers.Layer, "add_update"), reason="Keras 3 only")
def test_keras_3_has_no_add_update():
    with pytest.raises(Exception, match="add_update"):
        keras_layer(0, patch=False)


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_old_weights_of_a_keras_layer(tmp_path):
    # Of this format, Keras 3 writes whole models alone.
    method = "save_weights" if hasattr(keras.layers.Layer, "add_update") else "save"
    path = str(tmp_path / "old.h5")
    old, _, _, _ = keras_layer(0)
    getattr(old, method)(path)
    model, center, _, found = keras_layer(1)
    for layer in model.layers:
        layer.set_weights([np.full(w.shape, 7) for w in layer.get_weights()])
    found["load_old_weights"](model, center, path)
    np.testing.assert_array_equal(center.get_weights()[0], OLD)
    np.testing.assert_array_equal(center.get_weights()[1], np.ones(C, int))
    for name in ("embeds", "logits"):
        for one, other in zip(
            model.get_layer(name).get_weights(), old.get_layer(name).get_weights()
        ):
            np.testing.assert_array_equal(one, other)
            assert not (one == 7).all()
