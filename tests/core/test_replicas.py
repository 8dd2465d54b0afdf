"""Replicas of a distribution strategy: the same centers on each, as in a single process."""

import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import C, D, initialized_session

import tf_centers

PROGRAM = pathlib.Path(__file__).resolve().parent / "replicas_program.py"
MEAN = tf_centers.CumulativeMean()
GATHERS = hasattr(tensorflow.distribute.ReplicaContext, "all_gather")


@pytest.fixture(scope="module")
def faults(start):
    """What went wrong in each check of the program."""
    run = start(PROGRAM, apart=True)
    assert run.wait() == 0, run.errors
    return json.loads(run.output.splitlines()[-1])


@pytest.mark.skipif(not GATHERS, reason="TensorFlow before 2.4 cannot gather within replicas")
@pytest.mark.parametrize("check", re.findall(r"^def (check_\w+)", PROGRAM.read_text(), re.M))
def test_on_three_replicas(check, faults):
    assert faults[check] == ""


@pytest.mark.parametrize("made_by", ["create_embed_centers", "get_variable"])
def test_one_replica_works_on_every_version(made_by):
    strategy = tensorflow.distribute.MirroredStrategy(["/device:CPU:0"])
    with strategy.scope():
        if made_by == "get_variable":
            with tf.variable_scope("embed"):
                tf.get_variable("ctrs", [C, D], initializer=tf.zeros_initializer())
        else:
            tf_centers.create_embed_centers(C, D)

    def update():
        return tf_centers.get_embed_centers([[2.0] * D, [4.0] * D], [1, 1], MEAN)

    within = getattr(strategy, "run", None) or strategy.experimental_run_v2
    rows = [within(update)]
    with tf.control_dependencies(strategy.experimental_local_results(rows[0])):
        rows.append(update())
    counts = [v for v in tf.global_variables() if v.name == "embed/ctrs_count:0"][0].read_value()
    with initialized_session() as session:
        for found in session.run([strategy.experimental_local_results(row) for row in rows]):
            np.testing.assert_allclose(np.reshape(found, [2, D]), np.full([2, D], 3.0), rtol=1e-6)
        assert session.run(counts).tolist() == [0, 4] + [0] * (C - 2)


@pytest.mark.skipif(GATHERS, reason="from TensorFlow 2.4 on every replica has a copy")
def test_several_replicas_are_refused_before_tensorflow_2_4():
    message = "centers must be one variable before TensorFlow 2.4, got one with 2 copies.*lock"
    strategy = tensorflow.distribute.MirroredStrategy(["/device:CPU:0", "/device:CPU:1"])
    with strategy.scope():
        ctrs = tf.get_variable("embed/ctrs", [C, D])
        with pytest.raises(ValueError, match="^create_embed_centers: " + message):
            tf_centers.create_embed_centers(C, D, scope="other")
    assert not [v for v in tf.global_variables() if v.name.startswith("other")]
    batch = [[1.0] * D], [1]
    for centers in (ctrs, tf_centers.EmbedCenters(ctrs), "embed"):
        with pytest.raises(ValueError, match="^update_embed_centers: " + message):
            tf_centers.update_embed_centers(*batch, MEAN, centers)
        with pytest.raises(ValueError, match="^lookup_embed_centers: " + message):
            tf_centers.lookup_embed_centers([1], centers)
    with pytest.raises(ValueError, match="^nearest_centers: " + message):
        tf_centers.nearest_centers([[1.0] * D], ctrs)
    # What the message tells to do instead works here.
    centers, updates = tf_centers.create_embed_centers(C, D, scope="towers"), []
    for place, device in enumerate(["/device:CPU:0", "/device:CPU:1"]):
        with tf.device(device):
            updates.append(
                tf_centers.update_embed_centers(
                    [[1.0 + 2.0 * place] * D], [3], MEAN, centers, use_locking=True
                )
            )
    init = tf.global_variables_initializer()
    with tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
        session.run(init)
        session.run(updates)
        np.testing.assert_allclose(session.run(centers.ctrs)[3], [2.0] * D)


def _model_fn(features, labels, mode):
    weights = tf.get_variable("weights", [2, 2], initializer=tf.zeros_initializer())
    embeds = features + tf.matmul(features, weights)
    training = mode == tf.estimator.ModeKeys.TRAIN
    centers = tf_centers.create_embed_centers(3, 2)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers, is_training=training)
    loss = tf.reduce_mean(tf_centers.center_loss(embeds, rows))
    step = tf.train.GradientDescentOptimizer(0.0).minimize(loss, tf.train.get_global_step())
    nearest = tf_centers.nearest_centers(embeds, centers).labels[:, 0]
    accuracy = tf.metrics.accuracy(labels, nearest)
    return tf.estimator.EstimatorSpec(mode, nearest, loss, step, {"accuracy": accuracy})


@pytest.mark.skipif(not hasattr(tf, "estimator"), reason="this TensorFlow has no Estimator")
def test_estimator_under_a_mirrored_strategy(tmp_path):
    replicas = 2 if GATHERS else 1
    strategy = tensorflow.distribute.MirroredStrategy(
        [f"/device:CPU:{place}" for place in range(replicas)]
    )
    embeds = np.float32([[0, 0], [2, 0], [9, 9], [9, 7], [0, 5], [0, 7], [1, 0]])
    labels = np.array([0, 0, 1, 1, 2, 2, 0])

    def input_fn():
        # Four batches, the last of one row: two steps on two replicas.
        return tf.data.Dataset.from_tensor_slices((embeds, labels)).batch(2)

    config = tf.estimator.RunConfig(
        train_distribute=strategy,
        eval_distribute=strategy,
        session_config=tf.ConfigProto(device_count={"CPU": replicas}),
    )
    estimator = tf.estimator.Estimator(_model_fn, str(tmp_path), config)
    estimator.train(input_fn)
    np.testing.assert_allclose(
        estimator.get_variable_value("embed/ctrs"), [[1, 0], [9, 8], [0, 6]], rtol=1e-6
    )
    assert estimator.get_variable_value("embed/ctrs_count").tolist() == [3, 2, 2]
    assert estimator.evaluate(input_fn)["accuracy"] == 1.0
