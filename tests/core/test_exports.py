"""Graphs and models that are saved, shipped and loaded elsewhere."""

import os
import sys

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D, make_centers
from tf2_code import in_tf2

import tf_centers

B, DIMS = 9, 4
TWO_ROWS = np.array([[1.0] * D, [3.0] * D], np.float32)


def make_rows(classes):
    rng = np.random.RandomState(0)
    return rng.randn(B, DIMS), 1 + 2 * rng.randn(classes, DIMS)


def build_for_serving(use_resource, shards, shape, classes):
    """A graph with all calls that change nothing, its inputs and its named outputs."""
    embeds, table = make_rows(classes)
    how = dict(initializer=table, initial_counts=np.arange(classes) % 3, shards=shards)
    make_centers(tf_centers, use_resource, classes, DIMS, **how)
    held, labels = tf.placeholder(tf.float32, shape), tf.placeholder_with_default([5] * B, [None])
    outputs = list(tf_centers.nearest_centers(held, k=3)) + [
        tf_centers.center_distances(held),
        tf_centers.lookup_embed_centers(labels),
        tf_centers.get_embed_centers(held, labels, is_training=False),
    ]
    return embeds.astype(np.float32), held, labels, [tf.identity(output) for output in outputs]


@pytest.mark.parametrize(
    "classes, shape, shards", [(23, [None, DIMS], 2), (23, None, None), (9000, None, None)]
)
def test_a_frozen_graph(classes, shape, shards, use_resource, session):
    """Before which no value on the way is infinite."""
    embeds, held, labels, outputs = build_for_serving(use_resource, shards, shape, classes)
    checked, names = tf.add_check_numerics_ops(), [output.op.name for output in outputs]
    _, before = session.run([checked, outputs], {held: embeds})
    frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, names)
    assert not {"VariableV2", "VarHandleOp", "ReadVariableOp"} & {node.op for node in frozen.node}
    with tf.Graph().as_default(), tf.Session() as other:
        tf.import_graph_def(frozen, name="")
        after = other.run([output.name for output in outputs], {held.name: embeds})
        for lookup in outputs[3:]:
            feed = {held.name: embeds, labels.name: [classes] * B}
            with pytest.raises(tf.errors.InvalidArgumentError, match=rf"label in \[0, {classes}\)"):
                other.run(lookup.name, feed)
    for one, other in zip(before, after):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("classes", [23, 9000])
def test_tflite(classes, use_resource, monkeypatch, session):
    # The converter of TensorFlow 1.15 is a program beside Python, started by a shell.
    folders = [os.path.dirname(sys.executable), "/bin", os.environ.get("PATH", "")]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    embeds, held, _, outputs = build_for_serving(use_resource, None, [B, DIMS], classes)
    before = session.run(outputs[:3], {held: embeds})
    converter = tf.lite.TFLiteConverter.from_session(session, [held], outputs[:3])
    operations = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.target_spec.supported_ops = operations
    model = converter.convert()
    if classes == 23 or tf.__version__.startswith("2"):
        # What TensorFlow 1.15 makes of the merged blocks converts, but does not run.
        check_tflite(model, embeds, before)


def check_tflite(model, embeds, expected):
    try:
        interpreter = tf.lite.Interpreter(model_content=model)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):
        return  # It is converted, but this interpreter has no ops of TensorFlow.
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], embeds)
    interpreter.invoke()
    for detail, wanted in zip(interpreter.get_output_details(), expected):
        found = interpreter.get_tensor(detail["index"])
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


@in_tf2
@pytest.mark.parametrize("classes", [23, 9000])
def test_a_function_is_frozen_and_converted(classes):
    freeze = pytest.importorskip("tensorflow.python.framework.convert_to_constants")
    embeds, table = make_rows(classes)
    counts = tensorflow.Variable(np.arange(classes) % 3)
    centers = tf_centers.EmbedCenters(tensorflow.Variable(table.astype(np.float32)), counts)

    @tensorflow.function
    def search(rows):
        found = tf_centers.nearest_centers(rows, centers, k=3)
        return found.labels, found.distances, tf_centers.center_distances(rows, centers)

    concrete = search.get_concrete_function(tensorflow.TensorSpec([B, DIMS]))
    rows = tensorflow.constant(embeds, tensorflow.float32)
    before = [output.numpy() for output in concrete(rows)]
    np.testing.assert_array_equal(before[0], reference.nearest(embeds, table, counts.numpy(), 3)[0])
    frozen = freeze.convert_variables_to_constants_v2(concrete)
    for one, other in zip(before, frozen(rows)):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], search)
    check_tflite(converter.convert(), rows.numpy(), before)


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
