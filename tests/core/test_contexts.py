"""Where the calls may stand: control flow, towers, finalized graphs, TF2 code."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch, make_centers, make_ctrs

import tf_centers
from tf_centers import distances, ops, variables

MEAN = tf_centers.CumulativeMean()


def _expected(batches, rule=reference.cumulative_mean):
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for batch, labels in batches:
        ctrs, counts = reference.apply(rule, ctrs, counts, batch, labels)
    return ctrs, counts


def _state():
    by_name = {v.name: v for v in tf.global_variables()}
    return [by_name["embed/ctrs:0"], by_name["embed/ctrs_count:0"]]


@pytest.fixture
def enterable(use_resource, control_flow):
    """The kind of variable, where it may enter the control flow at all."""
    if not use_resource and control_flow.endswith("v2"):
        pytest.skip("TensorFlow refuses ref variables in its new control flow")
    return use_resource


@pytest.mark.parametrize("training", ["bool", "tensor"])
def test_in_cond(training, enterable):
    make_ctrs(enterable)
    batch, labels = make_batch(0)
    condition = tf.placeholder(tf.bool, [])
    switch = True if training == "bool" else tf.placeholder_with_default(True, [])

    def update():
        # The count is made here, and has to be outside all the same.
        return tf_centers.get_embed_centers(
            tf.constant(batch, tf.float32), labels, MEAN, is_training=switch
        )

    rows = tf.cond(condition, update, lambda: tf.zeros([B, D]))
    counts = [v for v in tf.global_variables() if v.name == "embed/ctrs_count:0"]
    with initialized_session() as session:
        assert not session.run(rows, {condition: False}).any()
        assert not session.run(counts[0]).any()
        ctrs, expected = _expected([(batch, labels)])
        np.testing.assert_allclose(session.run(rows, {condition: True}), ctrs[labels], atol=1e-6)
        np.testing.assert_array_equal(session.run(counts[0]), expected)


def test_in_while_loop(enterable):
    # One row at a time, each iteration ordered after the one before by what it returns.
    make_ctrs(enterable)
    batch, labels = make_batch(1)
    embeds, label_batch = tf.constant(batch, tf.float32), tf.constant(labels)

    def body(step, previous):
        with tf.control_dependencies([previous]):
            row = tf.identity(embeds[step : step + 1])
            rows = tf_centers.get_embed_centers(row, label_batch[step : step + 1], MEAN)
        rows.set_shape([1, D])
        return step + 1, rows

    last = tf.while_loop(
        lambda step, _: step < B,
        body,
        [tf.constant(0), tf.zeros([1, D])],
        parallel_iterations=1,
    )
    ctrs, counts = _expected([(batch, labels)])
    with initialized_session() as session:
        found = session.run(last)[1]
        np.testing.assert_allclose(found[0], ctrs[labels[-1]], atol=1e-5)
        found = session.run(_state())
        np.testing.assert_allclose(found[0], ctrs, atol=1e-5)
        np.testing.assert_array_equal(found[1], counts)


def test_ref_variable_with_switch(control_flow):
    """A ref variable under disable_eager_execution() alone, with is_training a tensor."""
    ctrs = make_ctrs(False)
    switch = tf.placeholder(tf.bool, [])
    rows = tf_centers.get_embed_centers([[1.0] * D], [0], MEAN, is_training=switch)
    with initialized_session() as session:
        assert not session.run(rows, {switch: False}).any()
        assert session.run(rows, {switch: True}).all()
        assert session.run(ctrs)[0].all()


def test_two_towers_share_their_centers(use_resource):
    batches = [make_batch(2), make_batch(3, absent=(0, 1))]
    previous = []
    for tower, (batch, labels) in enumerate(batches):
        with tf.variable_scope("", reuse=tf.AUTO_REUSE), tf.name_scope(f"tower_{tower}"):
            centers = make_centers(tf_centers, use_resource)
            with tf.control_dependencies(previous):
                previous = [
                    tf_centers.get_embed_centers(
                        tf.identity(tf.constant(batch, tf.float32)), labels, MEAN, centers
                    )
                ]
    ctrs, counts = _expected(batches)
    with initialized_session() as session:
        session.run(previous)
        found = session.run(list(centers))
        np.testing.assert_allclose(found[0], ctrs, atol=1e-6)
        np.testing.assert_array_equal(found[1], counts)


def test_chained_in_one_step(use_resource):
    make_ctrs(use_resource)
    batches = [make_batch(seed) for seed in range(4)]
    rows = None
    for batch, labels in batches:
        with tf.control_dependencies([] if rows is None else [rows]):
            rows = tf_centers.get_embed_centers(
                tf.identity(tf.constant(batch, tf.float32)), labels, MEAN
            )
    ctrs, counts = _expected(batches)
    with initialized_session() as session:
        found = session.run(rows)
        np.testing.assert_allclose(found, ctrs[batches[-1][1]], atol=1e-6)


def test_name_is_the_scope_of_the_ops(use_resource):
    make_ctrs(use_resource)
    before = {op.name for op in tf.get_default_graph().get_operations()}
    rows = tf_centers.get_embed_centers([[1.0] * D], [0], name="mine")
    assert rows.name.startswith("mine/")
    added = {op.name for op in tf.get_default_graph().get_operations()} - before
    assert all(name.startswith("mine/") for name in added)
    assert tf_centers.lookup_embed_centers([0]).name.startswith("lookup_embed_centers/")


def test_tf2_program():
    """The same in a process of its own, which TensorFlow 1.15 can run as well."""
    program = pathlib.Path(__file__).resolve().parent / "tf2_program.py"
    environment = dict(os.environ, PYTHONPATH=str(program.parent.parent.parent))
    result = subprocess.run([sys.executable, str(program)], capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().strip() == "all well"


needs_tf2 = pytest.mark.skipif(
    not tf.executing_eagerly(), reason="TensorFlow 1.15 starts in graph mode"
)


def _eager_centers():
    return tf_centers.EmbedCenters(
        tensorflow.Variable(np.zeros([C, D], np.float32)),
        tensorflow.Variable(np.zeros([C], np.int64)),
    )


@needs_tf2
@pytest.mark.eager
@pytest.mark.parametrize("how", ["eager", "function"])
def test_tf2_code(how):
    centers = _eager_centers()

    def step(embeds, labels, training):
        with tensorflow.GradientTape() as tape:
            tape.watch(embeds)
            rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers, is_training=training)
            loss = tensorflow.reduce_sum(tf_centers.center_loss(embeds, rows))
        gradients = tape.gradient(loss, [embeds, centers.ctrs, rows])
        assert gradients[1:] == [None, None]
        return rows, gradients[0]

    if how != "eager":
        step = tensorflow.function(step)
    batches = [make_batch(seed) for seed in range(3)]
    for batch, labels in batches:
        x = tensorflow.constant(batch, tensorflow.float32)
        rows, gradient = step(x, tensorflow.constant(labels), tensorflow.constant(True))
        np.testing.assert_allclose(gradient, x - rows, atol=1e-6)
    ctrs, counts = _expected(batches)
    np.testing.assert_allclose(centers.ctrs.numpy(), ctrs, atol=1e-6)
    np.testing.assert_array_equal(centers.counts.numpy(), counts)
    rows, _ = step(x, tensorflow.constant(labels), tensorflow.constant(False))
    np.testing.assert_allclose(rows, ctrs[labels], atol=1e-6)
    np.testing.assert_array_equal(centers.counts.numpy(), counts)


@needs_tf2
@pytest.mark.eager
@pytest.mark.parametrize("in_function", [False, True])
def test_tf2_errors(in_function):
    centers = _eager_centers()

    def call(labels, value=1.0):
        return tf_centers.get_embed_centers(tensorflow.fill([2, D], value), labels, MEAN, centers)

    call = tensorflow.function(call) if in_function else call
    for arguments, message in (
        (([0, C],), r"get_embed_centers: expected every label in \[0, 7\)"),
        (([0, 1], float("nan")), "get_embed_centers: expected finite values"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            call(*[tensorflow.constant(argument) for argument in arguments])
    assert not centers.ctrs.numpy().any() and not centers.counts.numpy().any()


@needs_tf2
@pytest.mark.eager
def test_tf2_code_is_run_as_written(monkeypatch):
    """AutoGraph, which rewrites what a tf.function calls, keeps out of the library."""
    files = []

    def find_and_tell(*args, **kwargs):
        files.append(sys._getframe(1).f_code.co_filename)
        return variables.find_table(*args, **kwargs)

    monkeypatch.setattr(ops, "find_table", find_and_tell)
    monkeypatch.setattr(distances, "find_table", find_and_tell)
    centers = _eager_centers()

    @tensorflow.function
    def step(embeds, labels):
        tf_centers.update_embed_centers(embeds, labels, None, centers)
        tf_centers.get_embed_centers(embeds, labels, None, centers)
        tf_centers.lookup_embed_centers(labels, centers)
        tf_centers.center_distances(embeds, centers)
        return tf_centers.nearest_centers(embeds, centers)

    step(tensorflow.ones([2, D]), tensorflow.constant([0, 1]))
    assert [pathlib.Path(name).name for name in files] == ["ops.py"] * 3 + ["distances.py"] * 2


@needs_tf2
@pytest.mark.eager
def test_tf2_names_are_refused_with_a_way_out():
    for call in (tf_centers.lookup_embed_centers, tensorflow.function(lookup)):
        with pytest.raises(ValueError, match="pass centers=EmbedCenters"):
            call(tensorflow.constant([0]))
    with pytest.raises(ValueError, match="needs counts.*EmbedCenters"):
        tf_centers.update_embed_centers([[1.0] * D], [0], MEAN, _eager_centers().ctrs)


def lookup(labels):
    return tf_centers.lookup_embed_centers(labels)


@needs_tf2
@pytest.mark.eager
def test_tf2_the_rest():
    centers = tf_centers.create_embed_centers(C, D)
    assert tf_centers.update_embed_centers([[2.0] * D], [3], None, centers) is None
    np.testing.assert_allclose(tf_centers.lookup_embed_centers([3, 0], centers)[0], [0.1] * D)
    found = tf_centers.nearest_centers([[0.0] * D], centers, k=2)
    assert found.labels.numpy().tolist() == [[3, -1]]
    assert not centers.ctrs.trainable and not centers.counts.trainable
