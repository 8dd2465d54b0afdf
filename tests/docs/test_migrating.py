"""docs/migrating.md: each code before and after runs, and the numbers change as it says."""

import functools
import re

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from documents import MIGRATING
from helpers import B, C, D, initialized_session, make_batch
from tensorflow import keras

TEXT = MIGRATING.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
START, *SECTIONS = [BLOCK.findall(section) for section in TEXT.split("\n## ")]
DISTINCT = (make_batch(0, rows=4)[0].astype(np.float32), np.array([5, 0, 3, 6]))
REPEATED = (make_batch(1)[0].astype(np.float32), make_batch(1)[1])
OLD = np.linspace(-2, 3, C * D).reshape([C, D]).astype(np.float32)
BEFORE_AND_AFTER = pytest.mark.parametrize("when", [0, 1], ids=["before", "after"])


def code(section, when):
    """The functions of a section, `when` 0 before and 1 after."""
    found = {}
    exec(START[0] + SECTIONS[section][when], found)
    return found


def oracle(rule, batch):
    return reference.apply(rule, OLD, np.zeros(C, int), *batch)[0]


def run(build, batch):
    """Builds a graph on a batch, and returns what it fetches and the centers after that."""
    with tf.Graph().as_default():
        features = tf.placeholder(tf.float32, [None, D])
        labels = tf.placeholder(tf.int32, [None])
        fetches, ctrs = build(features, labels)
        with initialized_session() as session:
            ctrs.load(OLD, session)
            found = session.run(fetches, {features: batch[0], labels: batch[1]})
            return found, session.run(ctrs)


def equal(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5)


def differ(one, other):
    assert np.abs(np.subtract(one, other)).max() > 0.05


def test_every_section_has_both_codes():
    assert [len(blocks) for blocks in [START] + SECTIONS] == [1, 2, 2, 2, 2, 2, 2, 2, 0]
    assert TEXT.count("```") == 2 * 15


def as_op(update):
    return update.op if tf.is_tensor(update) else update


def make_ctrs():
    with tf.variable_scope("embed"):
        # With resource variables, the old code never moves it.
        return tf.get_variable("ctrs", initializer=OLD, trainable=False, use_resource=False)


def recipe(found, features, labels, **how):
    ctrs = make_ctrs()
    return [found["get_embed_centers"](features, labels, **how)], ctrs


def facenet(found, features, labels, **how):
    loss, centers = found["center_loss"](features, labels, 0.95, C, **how)
    return [loss, tf.gradients(loss, features)[0]], centers


def eq4(found, features, labels, update=True):
    loss, centers, op = found["get_center_loss"](features, labels, 0.5, C)
    return [loss, tf.gradients(loss, features)[0]] + [as_op(op)] * update, centers


def on_the_table(found, features, labels, name="update_centers", rate=0.5):
    ctrs = make_ctrs()
    return [as_op(found[name](ctrs, features, labels, rate))], ctrs


DECAY = 0.75
average = functools.partial(on_the_table, name="average_centers", rate=DECAY)
WINDOW, SUMMED, WEN = reference.exponential_window, reference.summed_window, reference.wen_update
MEAN_OF_BATCH = functools.partial(reference.averaged_window, decay=0.5)


@pytest.mark.parametrize(
    "section, build, batch, rules",
    [
        (0, recipe, DISTINCT, [WINDOW, WINDOW]),
        (0, recipe, REPEATED, [SUMMED, WINDOW]),
        (1, facenet, REPEATED, [SUMMED, WINDOW]),
        (2, eq4, REPEATED, [WEN, WEN]),
        (3, on_the_table, REPEATED, [MEAN_OF_BATCH, MEAN_OF_BATCH]),
        (4, on_the_table, REPEATED, [WEN, WEN]),
    ],
)
def test_centers_before_and_after(section, build, batch, rules):
    tables = []
    for when, rule in enumerate(rules):
        fetched, ctrs = run(functools.partial(build, code(section, when)), batch)
        equal(ctrs, oracle(rule, batch))
        if build is recipe and batch is DISTINCT:
            equal(fetched[0], ctrs[batch[1]])
        tables.append(ctrs)
    if rules[0] is not rules[1] and batch is REPEATED:
        differ(*tables)


@BEFORE_AND_AFTER
def test_loss_and_gradient_are_those_of_the_centers_before_the_update(when):
    difference = REPEATED[0] - OLD[REPEATED[1]]
    (loss, gradient), _ = run(functools.partial(facenet, code(1, when)), REPEATED)
    np.testing.assert_allclose(loss, np.mean(difference**2), rtol=1e-5)
    equal(gradient, 2 / (B * D) * difference)
    (loss, gradient, _), _ = run(functools.partial(eq4, code(2, when)), REPEATED)
    np.testing.assert_allclose(loss, 0.5 * np.sum(difference**2), rtol=1e-5)
    equal(gradient, difference)
    # The loss alone moves nothing.
    assert (run(functools.partial(eq4, code(2, when), update=False), REPEATED)[1] == OLD).all()


@BEFORE_AND_AFTER
def test_facenet_validates(when):
    how = {"is_training": False} if when else {}
    _, ctrs = run(functools.partial(facenet, code(1, when), **how), REPEATED)
    assert (ctrs == OLD).all() == bool(when)


def test_dense_average():
    window = functools.partial(WINDOW, decay=DECAY)
    mean = functools.partial(reference.averaged_window, decay=DECAY)
    for batch in (DISTINCT, REPEATED):
        before, after = (
            run(functools.partial(average, code(4, when)), batch)[1] for when in (0, 1)
        )
        absent = np.setdiff1d(np.arange(C), batch[1])
        shrunk = oracle(mean, batch)
        shrunk[absent] *= DECAY
        equal(before, shrunk)
        equal(after, oracle(window, batch))
        assert (after[absent] == OLD[absent]).all()


WEIGHT, F = 0.7, 6
FEATURES = np.random.RandomState(5).randn(B, F).astype(np.float32)
KERNEL = np.random.RandomState(3).randn(F, D)


def set_weights(model):
    model.get_layer("embeds").set_weights([KERNEL, np.zeros(D)])
    model.get_layer("logits").set_weights([np.random.RandomState(4).randn(D, C), np.zeros(C)])


def total_of(losses):
    return losses[0] if isinstance(losses, (list, tuple)) else losses


def kernel_of(model):
    return model.get_layer("embeds").get_weights()[0]


def keras_model(when):
    """A model with its centers at `OLD`, and functions that feed it and look at its centers."""
    model, centers = code(5, when)["build_model"](F, C, D, WEIGHT)
    set_weights(model)
    if when:
        centers.set_weights([OLD, np.zeros(C, int)])
    elif tf.executing_eagerly():
        centers.assign(OLD)
    else:
        centers.load(OLD, keras.backend.get_session())

    def call(method, x, y):
        y = y[:, np.newaxis]
        return total_of(getattr(model, method)(*(([x, y], y) if when else (x, [y, y]))))

    def look():
        return centers.get_weights()[0] if when else keras.backend.get_value(centers)

    return model, call, look


@pytest.mark.eager
def test_keras():
    y, losses, kernels = DISTINCT[1], [], []
    x = FEATURES[: len(y)]
    for when in (0, 1):
        model, call, look = keras_model(when)
        losses.append(call("train_on_batch", x, y))
        kernels.append(kernel_of(model))
        equal(look(), oracle(WINDOW, (x.dot(KERNEL), y)))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-5)
    # The center loss has its share in both.
    assert losses[1] > WEIGHT * np.mean((x.dot(KERNEL) - OLD[y]) ** 2) > 0.1
    assert np.abs(kernels[1] - KERNEL).max() > 1e-3


@pytest.mark.eager
def test_keras_repeated_labels_and_evaluation():
    y = REPEATED[1]
    for when, rule in enumerate((SUMMED, WINDOW)):
        model, call, look = keras_model(when)
        expected = oracle(rule, (FEATURES.dot(KERNEL), y))
        call("test_on_batch", FEATURES, y)
        equal(look(), OLD if when else expected)
        if when:
            call("train_on_batch", FEATURES, y)
            equal(look(), expected)
        assert ((C, D) in [w.shape for w in model.get_weights()]) is bool(when)
    inputs, logits = model.inputs[0], model.get_layer("logits").output
    assert keras.Model(inputs, logits).predict(FEATURES, verbose=0).shape == (B, C)


def keras_layer(when):
    """A model with its layer of centers, at `OLD`, and what the code defines."""
    found = code(6, when)
    if when == 0 and not hasattr(keras.layers.Layer, "add_update"):
        found["CenterLossLayer"].add_update = lambda self, pair: None  # as tf.keras has it
    model, center = found["build_model"](F, C, D, WEIGHT)
    set_weights(model)
    center.set_weights([OLD, np.zeros(C)] if when else [OLD])
    return model, center, found


@pytest.mark.eager
def test_keras_layer():
    y, one_hot = REPEATED[1], np.eye(C, dtype=np.float32)[REPEATED[1]]
    losses, kernels = [], []
    expected = oracle(WEN, (FEATURES.dot(KERNEL), y))
    for when in (0, 1):
        model, center, _ = keras_layer(when)
        targets = one_hot if when else [one_hot, np.zeros([B, 1])]
        losses.append(total_of(model.train_on_batch([FEATURES, one_hot], targets)))
        kernels.append(kernel_of(model))
        equal(center.get_weights()[0], expected if when else OLD)
    differ(expected, OLD)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-5)
    assert losses[0] > WEIGHT * np.mean(np.sum((FEATURES.dot(KERNEL) - OLD[y]) ** 2, axis=1)) > 0.1


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_old_weights_of_a_keras_layer(tmp_path):
    # Of this format, Keras 3 writes whole models alone.
    method = "save_weights" if hasattr(keras.layers.Layer, "add_update") else "save"
    path = str(tmp_path / "old.h5")
    old, _, _ = keras_layer(0)
    getattr(old, method)(path)
    model, center, found = keras_layer(1)
    for layer in model.layers:
        layer.set_weights([np.full(w.shape, 7) for w in layer.get_weights()])
    found["load_old_weights"](model, center, path)
    np.testing.assert_array_equal(center.get_weights()[0], OLD)
    np.testing.assert_array_equal(center.get_weights()[1], np.ones(C, int))
    for name in ("embeds", "logits"):
        weights = [of.get_layer(name).get_weights() for of in (model, old)]
        for one, other in zip(*weights):
            np.testing.assert_array_equal(one, other)
