"""docs/migrating.md: each code before and after runs, and the numbers change as it says."""

import functools

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from documents import MIGRATING, define, python_blocks
from helpers import B, C, D, initialized_session, make_batch
from tensorflow import keras

TEXT = MIGRATING.read_text(encoding="utf-8")
START, *SECTIONS = map(python_blocks, TEXT.split("\n## "))
DISTINCT = (make_batch(0, rows=4)[0].astype(np.float32), np.array([5, 0, 3, 6]))
REPEATED = (make_batch(1)[0].astype(np.float32), make_batch(1)[1])
OLD = np.linspace(-2, 3, C * D).reshape([C, D]).astype(np.float32)
BEFORE_AND_AFTER = pytest.mark.parametrize("when", [0, 1], ids=["before", "after"])
WINDOW, SUMMED, WEN = reference.exponential_window, reference.summed_window, reference.wen_update
MEAN_OF_BATCH = functools.partial(reference.averaged_window, decay=0.5)


def code(section, when):
    """The functions of a section, `when` 0 before and 1 after."""
    return define([*START, SECTIONS[section][when]])


def oracle(rule, batch):
    return reference.apply(rule, OLD, np.zeros(C, int), *batch)[0]


def run(section, when, build, batch, **how):
    """Builds a graph with the code of a section; what it fetches, and the centers after that."""
    with tf.Graph().as_default():
        features = tf.placeholder(tf.float32, [None, D])
        labels = tf.placeholder(tf.int32, [None])
        fetches, ctrs = build(code(section, when), features, labels, **how)
        with initialized_session() as session:
            ctrs.load(OLD, session)
            found = session.run(fetches, {features: batch[0], labels: batch[1]})
            return found, session.run(ctrs)


def equal(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_every_section_has_both_codes():
    assert [len(blocks) for blocks in [START] + SECTIONS] == [1, 2, 2, 2, 2, 2, 2, 2, 0]
    assert TEXT.count("```") == 2 * 15


def as_op(update):
    return update.op if tf.is_tensor(update) else update


def make_ctrs():
    with tf.variable_scope("embed"):
        # With resource variables, the old code never moves it.
        return tf.get_variable("ctrs", initializer=OLD, trainable=False, use_resource=False)


def recipe(found, features, labels):
    ctrs = make_ctrs()
    return [found["get_embed_centers"](features, labels)], ctrs


def facenet(found, features, labels, **how):
    loss, centers = found["center_loss"](features, labels, 0.95, C, **how)
    return [loss, tf.gradients(loss, features)[0]], centers


def eq4(found, features, labels, update=True):
    loss, centers, op = found["get_center_loss"](features, labels, 0.5, C)
    return [loss, tf.gradients(loss, features)[0]] + [as_op(op)] * update, centers


def on_the_table(found, features, labels, name="update_centers", rate=0.5):
    ctrs = make_ctrs()
    return [as_op(found[name](ctrs, features, labels, rate))], ctrs


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
@BEFORE_AND_AFTER
def test_centers(when, section, build, batch, rules):
    fetched, ctrs = run(section, when, build, batch)
    equal(ctrs, oracle(rules[when], batch))
    if batch is DISTINCT:
        equal(fetched[0], ctrs[batch[1]])


def test_rules_differ():
    for rule in (SUMMED, WEN, MEAN_OF_BATCH):
        assert np.abs(oracle(rule, REPEATED) - oracle(WINDOW, REPEATED)).max() > 0.05


@BEFORE_AND_AFTER
def test_loss_and_gradient_are_those_of_the_centers_before_the_update(when):
    difference = REPEATED[0] - OLD[REPEATED[1]]
    (loss, gradient), _ = run(1, when, facenet, REPEATED)
    np.testing.assert_allclose(loss, np.mean(difference**2), rtol=1e-5)
    equal(gradient, 2 / (B * D) * difference)
    (loss, gradient, _), _ = run(2, when, eq4, REPEATED)
    np.testing.assert_allclose(loss, 0.5 * np.sum(difference**2), rtol=1e-5)
    equal(gradient, difference)
    # The loss alone moves nothing.
    assert (run(2, when, eq4, REPEATED, update=False)[1] == OLD).all()


@BEFORE_AND_AFTER
def test_facenet_validates(when):
    how = {"is_training": False} if when else {}
    assert (run(1, when, facenet, REPEATED, **how)[1] == OLD).all() == bool(when)


@pytest.mark.parametrize("batch", [DISTINCT, REPEATED], ids=["distinct", "repeated"])
def test_dense_average(batch):
    decay, absent = 0.75, np.setdiff1d(np.arange(C), batch[1])
    how = dict(name="average_centers", rate=decay)
    before, after = (run(4, when, on_the_table, batch, **how)[1] for when in (0, 1))
    shrunk = oracle(functools.partial(reference.averaged_window, decay=decay), batch)
    shrunk[absent] *= decay
    equal(before, shrunk)
    equal(after, oracle(functools.partial(WINDOW, decay=decay), batch))


WEIGHT, F = 0.7, 6
FEATURES = np.random.RandomState(5).randn(B, F).astype(np.float32)
KERNEL = np.random.RandomState(3).randn(F, D)
EMBEDS = FEATURES.dot(KERNEL)


def build_model(section, when):
    """A Keras model with its centers at `OLD`, what holds them, and what the code defines."""
    found = code(section, when)
    if (section, when) == (6, 0) and not hasattr(keras.layers.Layer, "add_update"):
        found["CenterLossLayer"].add_update = lambda self, pair: None  # as tf.keras has it
    model, center = found["build_model"](F, C, D, WEIGHT)
    model.get_layer("embeds").set_weights([KERNEL, np.zeros(D)])
    model.get_layer("logits").set_weights([np.random.RandomState(4).randn(D, C), np.zeros(C)])
    if hasattr(center, "set_weights"):
        center.set_weights([OLD, np.zeros(C)] if when else [OLD])
    else:
        keras.backend.set_value(center, OLD)
    return model, center, found


def ctrs_of(center):
    is_layer = hasattr(center, "get_weights")
    return center.get_weights()[0] if is_layer else keras.backend.get_value(center)


def call(method, *arguments):
    """The total loss."""
    losses = method(*arguments)
    return losses[0] if isinstance(losses, (list, tuple)) else losses


def check_same_training(section, batches, least):
    """The code before and after has the same loss, which is above `least`, and the same kernel."""
    losses, kernels, tables = [], [], []
    for when in (0, 1):
        model, center, _ = build_model(section, when)
        losses.append(call(model.train_on_batch, *batches[when]))
        kernels.append(model.get_layer("embeds").get_weights()[0])
        tables.append(ctrs_of(center))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    np.testing.assert_allclose(*kernels, rtol=1e-4, atol=1e-5)
    assert losses[1] > least > 0.1  # The center loss has its share in both.
    assert np.abs(kernels[1] - KERNEL).max() > 1e-3
    return tables


@pytest.mark.eager
def test_keras():
    y = DISTINCT[1]
    x, column = FEATURES[: len(y)], y[:, np.newaxis]
    least = WEIGHT * np.mean((EMBEDS[: len(y)] - OLD[y]) ** 2)
    batches = (x, [column, column]), ([x, column], column)
    for table in check_same_training(5, batches, least):
        equal(table, oracle(WINDOW, (EMBEDS[: len(y)], y)))


@BEFORE_AND_AFTER
@pytest.mark.eager
def test_keras_repeated_labels_and_evaluation(when):
    model, center, _ = build_model(5, when)
    column = REPEATED[1][:, np.newaxis]
    batch = ([FEATURES, column], column) if when else (FEATURES, [column, column])
    expected = oracle((SUMMED, WINDOW)[when], (EMBEDS, REPEATED[1]))
    call(model.test_on_batch, *batch)
    equal(ctrs_of(center), OLD if when else expected)
    assert ((C, D) in [w.shape for w in model.get_weights()]) is bool(when)
    if when:
        call(model.train_on_batch, *batch)
        equal(ctrs_of(center), expected)
        classifier = keras.Model(model.inputs[0], model.get_layer("logits").output)
        assert classifier.predict(FEATURES, verbose=0).shape == (B, C)


@pytest.mark.eager
def test_keras_layer():
    y = REPEATED[1]
    one_hot = np.eye(C, dtype=np.float32)[y]
    least = WEIGHT * np.mean(np.sum((EMBEDS - OLD[y]) ** 2, axis=1))
    targets = [one_hot, np.zeros([B, 1])], one_hot
    before, after = check_same_training(6, [([FEATURES, one_hot], t) for t in targets], least)
    equal(before, OLD)
    equal(after, oracle(WEN, (EMBEDS, y)))


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_old_weights_of_a_keras_layer(tmp_path):
    # Of this format, Keras 3 writes whole models alone.
    method = "save_weights" if hasattr(keras.layers.Layer, "add_update") else "save"
    path = str(tmp_path / "old.h5")
    old, _, _ = build_model(6, 0)
    getattr(old, method)(path)
    model, center, found = build_model(6, 1)
    for layer in model.layers:
        layer.set_weights([np.full(w.shape, 7) for w in layer.get_weights()])
    found["load_old_weights"](model, center, path)
    np.testing.assert_array_equal(center.get_weights()[0], OLD)
    np.testing.assert_array_equal(center.get_weights()[1], np.ones(C, int))
    for name in ("embeds", "logits"):
        weights = [of.get_layer(name).get_weights() for of in (model, old)]
        for one, other in zip(*weights):
            np.testing.assert_array_equal(one, other)
