"""Distances to the centers and the nearest of them, against one class after the other."""

import os
import sys

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, initialized_session, make_centers, make_ctrs, parts
from tf2_code import in_tf2

import tf_centers

B, C, D = 9, 23, 4
# A small table, and one that is searched in more than one block.
SIZES = pytest.mark.parametrize("classes", [C, 9000])
DTYPES = [(tf.float16, 4e-3), (tf.bfloat16, 4e-2), (tf.float32, 1e-5), (tf.float64, 1e-13)]


def make_rows(seed=0, classes=C):
    rng = np.random.RandomState(seed)
    return rng.randn(B, D), 1 + 2 * rng.randn(classes, D)


def make_shards(table, shards, use_resource, dtype=tf.float32):
    """The same table, whole or in shards, without counts."""
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope("embed", partitioner=partitioner, use_resource=use_resource):
        initial = tf.constant(table, dtype)
        return tf.get_variable("ctrs", initializer=initial, trainable=False)


def squared_distances(embeds, table):
    return np.sum((embeds[:, np.newaxis] - table) ** 2, axis=2)


@pytest.mark.parametrize("classes, k", [(C, 1), (C, 4), (C, C), (9000, 4)])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("shards", [None, 1, 3, 11])
def test_nearest_agrees_with_reference(shards, classes, k, counted, use_resource):
    embeds, table = make_rows(k, classes)
    seen = np.random.RandomState(k).randint(0, 3, classes)
    if counted:
        how = {"shards": shards, "initializer": table, "initial_counts": seen}
        centers = make_centers(tf_centers, use_resource, classes, D, **how)
    else:
        centers = make_shards(table, shards, use_resource)
    found = tf_centers.nearest_centers(tf.placeholder_with_default(embeds, None), centers, k)
    assert found.labels.shape.as_list() == found.distances.shape.as_list() == [None, k]
    assert found.labels.dtype == tf.int64
    labels, distances = reference.nearest(embeds, table, seen if counted else None, k)
    with initialized_session() as session:
        result = session.run(found)
    np.testing.assert_array_equal(result.labels, labels)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-5)


@pytest.mark.parametrize("classes, shards", [(C, None), (9000, None), (C, 3), (C, C)])
def test_equal_distances_rank_by_class(classes, shards, use_resource):
    rng = np.random.RandomState(0)
    table, embeds = rng.randint(-1, 2, [classes, D]), rng.randint(-2, 3, [B, D]) / 2
    ctrs = make_shards(table, shards, use_resource)
    found = tf_centers.nearest_centers(tf.constant(embeds), ctrs, k=classes)
    labels, distances = reference.nearest(embeds, table, None, classes)
    with initialized_session() as session:
        result = session.run(found)
    np.testing.assert_array_equal(result.labels, labels)
    np.testing.assert_allclose(result.distances, distances, rtol=1e-6)


@pytest.mark.parametrize("classes", [13, 37])
def test_identical_centers_rank_by_class(classes, use_resource):
    rng = np.random.RandomState(classes)
    ctrs = make_ctrs(use_resource, [classes, 17], initial=np.repeat(rng.randn(1, 17), classes, 0))
    found = tf_centers.nearest_centers(rng.randn(5, 17).astype(np.float32), ctrs, k=classes)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [list(range(classes))] * 5


@pytest.mark.parametrize("shards", [None, 3])
def test_a_float64_table_keeps_its_digits(shards, use_resource):
    # In float32 the squares here have no digit left, and the first two centers are the same.
    table = np.array([[1000 + 1e-5], [1000 - 1e-5], [1001]])
    ctrs = make_shards(table, shards, use_resource, tf.float64)
    found = tf_centers.nearest_centers(tf.constant(table), ctrs)
    squares = tf_centers.center_distances(tf.constant(table), ctrs)
    with initialized_session() as session:
        assert session.run(found.labels).tolist() == [[0], [1], [2]]
        np.testing.assert_allclose(
            session.run(squares), squared_distances(table, table), atol=1e-9, rtol=0
        )


def test_a_row_that_is_not_finite_is_near_to_nothing(use_resource):
    ctrs = make_ctrs(use_resource, [2, 2], initial=[[0.0, 0.0], [3.0, 4.0]])
    rows = [[3.0, 3.0], [np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.inf]]
    found = tf_centers.nearest_centers(rows, ctrs, k=2)
    with initialized_session() as session:
        labels, distances = session.run(list(found))
    assert labels.tolist() == [[1, 0]] + [[-1, -1]] * 3
    np.testing.assert_allclose(distances, [[1.0, 18**0.5]] + [[np.inf] * 2] * 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_center_that_is_not_finite_is_an_error(bad, use_resource):
    ctrs = make_ctrs(use_resource, [3, 2], initial=[[0.0, 0.0], [bad, 1.0], [3.0, 4.0]])
    found = tf_centers.nearest_centers([[3.0, 3.0]], ctrs)
    with initialized_session() as session:
        message = "nearest_centers: expected centers whose squared norms are finite.*embed/ctrs"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            session.run(found.labels)


@SIZES
@pytest.mark.parametrize("dtype, _", DTYPES)
def test_nothing_seen_yet(dtype, _, classes, use_resource):
    centers = make_centers(tf_centers, use_resource, classes, 2, dtype=dtype)
    found = tf_centers.nearest_centers([[3.0, 3.0]], centers, k=6)
    with initialized_session() as session:
        labels, distances = session.run(list(found))
    assert labels.tolist() == [[-1] * 6]
    assert np.isposinf(distances.astype(np.float32)).all()


def test_counts_made_in_time_or_in_another_graph_are_not_warned_of(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource, 3, 2)
    tf_centers.nearest_centers([[1.0, 2.0]], centers)
    tf_centers.update_embed_centers([[1.0, 2.0]], [1], MEAN, centers)
    with tf.Graph().as_default():
        tf_centers.nearest_centers([[1.0, 2.0]], make_ctrs(use_resource, [3, 2], scope="other"))
    ctrs = make_ctrs(use_resource, [3, 2], scope="other")
    tf_centers.update_embed_centers([[1.0, 2.0]], [1], MEAN, ctrs)
    assert not [text for text in warnings if "built before" in text]


@pytest.mark.parametrize("dtype, tolerance", DTYPES)
@pytest.mark.parametrize("shards", [None, 3])
def test_center_distances(dtype, tolerance, shards, use_resource):
    embeds, table = (np.round(8 * rows) / 8 for rows in make_rows())  # exact in every dtype
    ctrs = make_shards(table, shards, use_resource, dtype)
    found = tf_centers.center_distances(tf.placeholder_with_default(embeds, None))
    empty = tf_centers.center_distances(tf.zeros([0, D]), ctrs)
    assert found.dtype == dtype and found.shape.as_list() == [None, C]
    with initialized_session() as session:
        result = session.run(found).astype(np.float64)
        assert session.run(empty).shape == (0, C)
    np.testing.assert_allclose(result, squared_distances(embeds, table), rtol=tolerance)


@pytest.mark.parametrize("shards", [None, 3])
def test_gradient_of_center_distances(shards, use_resource):
    embeds, table = make_rows()
    embeds[0] = table[2]  # where the distance is clipped, or not, by a rounding error
    ctrs = make_shards(table, shards, use_resource, tf.float64)
    held, weights = tf.constant(embeds), np.random.RandomState(2).randn(B, C)
    squares = tf_centers.center_distances(held, ctrs)
    gradient = tf.gradients(squares * weights, held)[0]
    assert tf.gradients(squares, parts(ctrs)) == [None] * len(parts(ctrs))
    with initialized_session() as session:
        found = session.run(gradient)
    by_hand = 2 * np.sum(weights[..., np.newaxis] * (embeds[:, np.newaxis] - table), axis=1)
    np.testing.assert_allclose(found, by_hand, rtol=1e-12, atol=1e-12)


def test_distances_are_clipped_and_their_gradients_are_not(use_resource):
    # In float32 about half of these squared distances come out below 0 before they are clipped.
    table = 100 + np.random.RandomState(1).randn(200, 3).astype(np.float32)
    rows = tf.constant(table + np.float32(0.01))
    squares = tf_centers.center_distances(rows, make_ctrs(use_resource, [200, 3], initial=table))
    gradient = tf.gradients(tf.diag_part(squares), rows)[0]
    with initialized_session() as session:
        found = session.run(squares)
        assert 10 < (np.diag(found) == 0).sum() < 190
        assert found.min() == 0.0 and not np.signbit(found).any()
        np.testing.assert_allclose(found, squared_distances(table + 0.01, table), atol=0.3)
        np.testing.assert_allclose(session.run(gradient), np.full([200, 3], 0.02), atol=1e-4)


def test_no_tensor_of_rows_classes_and_dims(use_resource):
    ctrs = make_ctrs(use_resource, [C, D])
    embeds = tf.ones([B, D])
    tf.gradients(tf_centers.center_distances(embeds, ctrs), embeds)
    tf_centers.nearest_centers(embeds, ctrs, k=C)
    outputs = [out for op in tf.get_default_graph().get_operations() for out in op.outputs]
    assert all((output.shape.ndims or 0) <= 2 for output in outputs)


def build_for_serving(use_resource, shape, classes):
    """A graph with both calls, its input and its named outputs."""
    embeds, table = make_rows(classes=classes)
    ctrs = make_ctrs(use_resource, table.shape, initial=table)
    counts = tf.get_variable("n", initializer=np.arange(classes) % 3, use_resource=use_resource)
    held = tf.placeholder(tf.float32, shape, name="embeds")
    found = tf_centers.nearest_centers(held, tf_centers.EmbedCenters(ctrs, counts), k=3)
    outputs = list(found) + [tf_centers.center_distances(held, ctrs)]
    outputs = [tf.identity(output, f"output_{place}") for place, output in enumerate(outputs)]
    return embeds.astype(np.float32), held, outputs


@pytest.mark.parametrize("shape", [[None, D], None], ids=str)
@SIZES
def test_a_frozen_graph(classes, shape, use_resource, control_flow):
    embeds, held, outputs = build_for_serving(use_resource, shape, classes)
    names = [output.op.name for output in outputs]
    with initialized_session() as session:
        before = session.run(outputs, {held: embeds})
        frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, names)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(frozen, name="")
        after = session.run([f"{name}:0" for name in names], {"embeds:0": embeds})
    assert not {"VariableV2", "VarHandleOp", "ReadVariableOp"} & {node.op for node in frozen.node}
    for one, other in zip(before, after):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@SIZES
def test_tflite(classes, use_resource, control_flow, monkeypatch):
    # The converter of TensorFlow 1.15 is a program beside Python, started by a shell.
    folders = [os.path.dirname(sys.executable), "/bin", os.environ.get("PATH", "")]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    embeds, held, outputs = build_for_serving(use_resource, [B, D], classes)
    with initialized_session() as session:
        before = session.run(outputs, {held: embeds})
        converter = tf.lite.TFLiteConverter.from_session(session, [held], outputs)
        operations = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        converter.target_spec.supported_ops = operations
        model = converter.convert()
    if classes == C or tf.__version__.startswith("2"):
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
@SIZES
def test_a_function_is_frozen_and_converted(classes):
    freeze = pytest.importorskip("tensorflow.python.framework.convert_to_constants")
    embeds, table = make_rows(classes=classes)
    counts = tensorflow.Variable(np.arange(classes) % 3)
    centers = tf_centers.EmbedCenters(tensorflow.Variable(table.astype(np.float32)), counts)

    @tensorflow.function
    def search(rows):
        found = tf_centers.nearest_centers(rows, centers, k=3)
        return found.labels, found.distances, tf_centers.center_distances(rows, centers)

    concrete = search.get_concrete_function(tensorflow.TensorSpec([B, D]))
    rows = tensorflow.constant(embeds, tensorflow.float32)
    before = [output.numpy() for output in concrete(rows)]
    np.testing.assert_array_equal(before[0], reference.nearest(embeds, table, counts.numpy(), 3)[0])
    np.testing.assert_allclose(before[2], squared_distances(embeds, table), rtol=1e-4)
    frozen = freeze.convert_variables_to_constants_v2(concrete)
    for one, other in zip(before, frozen(rows)):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([concrete], search)
    check_tflite(converter.convert(), rows.numpy(), before)
    tensorflow.debugging.enable_check_numerics()
    try:
        tensorflow.function(search.python_function)(rows)
        search.python_function(rows)
    finally:
        tensorflow.debugging.disable_check_numerics()


@pytest.mark.parametrize("shape", [[None, D], None], ids=str)
@SIZES
def test_no_value_on_the_way_is_infinite(classes, shape, use_resource, control_flow):
    embeds, held, outputs = build_for_serving(use_resource, shape, classes)
    checked = tf.add_check_numerics_ops()
    with initialized_session() as session:
        session.run([checked] + outputs, {held: embeds})
