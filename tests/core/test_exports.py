"""Graphs and models that are saved, shipped and loaded elsewhere."""

import os

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D, make_centers
from tf2_code import in_tf2, needs_gathers

import tf_centers

TWO_ROWS = np.array([[1.0] * D, [3.0] * D], np.float32)


class Module(tensorflow.Module):
    """Centers with an update that locks and a search, as functions to be saved."""

    def __init__(self):
        super().__init__()
        self.ctrs = tensorflow.Variable(tf.zeros([C, D]), trainable=False, name="ctrs")
        self.counts = tensorflow.Variable(tf.zeros([C], tf.int64), trainable=False, name="counts")
        self.centers = tf_centers.EmbedCenters(self.ctrs, self.counts)

    @tensorflow.function(
        input_signature=[
            tensorflow.TensorSpec([None, D], tf.float32),
            tensorflow.TensorSpec([None], tf.int64),
        ]
    )
    def update(self, embeds, labels):
        first = tf_centers.get_embed_centers(embeds, labels, MEAN, self.centers, use_locking=True)
        # Twice in one function, the second in a branch.
        return tf.cond(
            tf.size(labels) > 1,
            lambda: tf_centers.get_embed_centers(
                embeds, labels, MEAN, self.centers, use_locking=True
            ),
            lambda: first,
        )

    @tensorflow.function(input_signature=[tensorflow.TensorSpec([None, D], tf.float32)])
    def search(self, embeds):
        return tf_centers.nearest_centers(embeds, self.centers).labels


@in_tf2
def test_functions_that_lock_are_saved_loaded_and_called(tmp_path):
    module = Module()
    module.update(TWO_ROWS, [1, 1])
    tensorflow.saved_model.save(module, str(tmp_path / "model"))
    module.update(TWO_ROWS, [1, 1])  # The one that was saved goes on as well.
    for _ in range(2):
        loaded = tensorflow.saved_model.load(str(tmp_path / "model"))
        np.testing.assert_array_equal(loaded.counts, [0, 4] + [0] * (C - 2))
        rows = loaded.update(tf.constant(TWO_ROWS + 8.0), tf.constant([1, 1], tf.int64))
        np.testing.assert_allclose(rows, np.full([2, D], 6.0), rtol=1e-6)
        assert loaded.counts.numpy()[1] == 8
        assert loaded.search(tf.constant(TWO_ROWS)).numpy().tolist() == [[1], [1]]
        with pytest.raises(tf.errors.InvalidArgumentError, match="every label in"):
            loaded.update(tf.constant(TWO_ROWS), tf.constant([1, C], tf.int64))
        loaded.update(tf.constant(TWO_ROWS), tf.constant([2, 2], tf.int64))
        assert loaded.counts.numpy()[1:3].tolist() == [8, 4]


@pytest.mark.parametrize("use_locking", [False, True])
def test_simple_save(use_locking, use_resource, tmp_path):
    centers = make_centers(tf_centers, use_resource)
    embeds, labels = tf.placeholder(tf.float32, [None, D]), tf.placeholder(tf.int64, [None])
    is_training = tf.placeholder_with_default(False, [])
    rows = tf_centers.get_embed_centers(
        embeds, labels, MEAN, centers, is_training=is_training, use_locking=use_locking
    )
    nearest = tf_centers.nearest_centers(embeds, centers).labels
    path = str(tmp_path / "model")
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        feed = {embeds: TWO_ROWS, labels: [1, 1], is_training: True}
        session.run(rows, feed)
        tf.saved_model.simple_save(
            session, path, {"embeds": embeds, "labels": labels}, {"rows": rows, "nearest": nearest}
        )
    with tf.Graph().as_default(), tf.Session() as session:
        signature = tf.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        tensors = {name: info.name for name, info in signature.inputs.items()}
        feed = {tensors["embeds"]: TWO_ROWS + 8.0, tensors["labels"]: [1, 1]}
        found = session.run(fetches, feed)
        np.testing.assert_allclose(found["rows"], np.full([2, D], 2.0))
        assert found["nearest"].tolist() == [[1], [1]]
        # The update is part of the graph, behind the switch that serving leaves off.
        feed[is_training.name] = True
        np.testing.assert_allclose(session.run(fetches["rows"], feed), np.full([2, D], 6.0))


def model_fn(features, labels, mode, params):
    """Two classes and more, with the centers beside an embedding that stays as it is."""
    estimator = params["estimator"]
    with tf.variable_scope("", use_resource=params["use_resource"]):
        kernel = tf.get_variable("kernel", [D, D], initializer=tf.zeros_initializer())
        embeds = features["x"] + tf.matmul(features["x"], kernel)
        centers = tf_centers.create_embed_centers(C, D)
    nearest = tf_centers.nearest_centers(embeds, centers).labels[:, 0]
    if mode == estimator.ModeKeys.PREDICT:
        return estimator.EstimatorSpec(mode, {"nearest": nearest})
    rows = tf_centers.get_embed_centers(
        embeds, labels, MEAN, centers, is_training=mode == estimator.ModeKeys.TRAIN
    )
    loss = tf.reduce_mean(tf_centers.center_loss(embeds, rows))
    step = tf.train.GradientDescentOptimizer(0.0).minimize(loss, tf.train.get_global_step())
    accuracy = {"accuracy": tf.metrics.accuracy(labels, nearest)}
    return estimator.EstimatorSpec(mode, None, loss, step, accuracy)


@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="this TensorFlow has no Estimator")
@pytest.mark.parametrize("replicas", [None, 1 if needs_gathers.args[0] else 2])
def test_estimator_trains_restarts_and_exports(replicas, use_resource, tmp_path):
    # Four batches, the last of one row: two steps on two replicas.
    values = np.float32([[0], [2], [9], [7], [4], [6], [1]]) * np.ones(D, np.float32)
    labels, expected = np.array([0, 0, 1, 1, 2, 2, 0]), [3, 2, 2] + [0] * (C - 3)

    def batches():
        return tf.data.Dataset.from_tensor_slices(({"x": values}, labels)).batch(2)

    how = {"params": {"use_resource": use_resource, "estimator": tf.estimator}}
    if replicas:
        devices = [f"/device:CPU:{place}" for place in range(replicas)]
        strategy = tensorflow.distribute.MirroredStrategy(devices)
        cpus = tf.ConfigProto(device_count={"CPU": replicas})
        how["config"] = tf.estimator.RunConfig(
            train_distribute=strategy, eval_distribute=strategy, session_config=cpus
        )
    for run in (1, 2):  # A new Estimator goes on from the checkpoint of the one before.
        model = tf.estimator.Estimator(model_fn, str(tmp_path / "model"), **how)
        model.train(batches)
        counts = model.get_variable_value("embed/ctrs_count")
        np.testing.assert_array_equal(counts, np.multiply(run, expected))
    ctrs = model.get_variable_value("embed/ctrs")
    np.testing.assert_allclose(ctrs[:3], np.outer([1, 8, 5], np.ones(D)), rtol=1e-6)
    assert model.evaluate(batches)["accuracy"] == 1.0
    assert model.get_variable_value("embed/ctrs_count")[0] == 6
    receiver = tf.estimator.export.build_raw_serving_input_receiver_fn(
        {"x": tf.placeholder(tf.float32, [None, D])}
    )
    path = os.fsdecode(model.export_saved_model(str(tmp_path / "export"), receiver))
    with tf.Graph().as_default(), tf.Session() as session:
        signature = tf.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        feed = {signature.inputs["x"].name: TWO_ROWS}
        assert session.run(signature.outputs["nearest"].name, feed).tolist() == [0, 0]
