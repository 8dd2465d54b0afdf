"""What a call costs does not grow with the table."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import CALLS, MEAN, D, make_centers, placeholders

import tf_centers


@pytest.mark.parametrize("call", ["get", "update", "lookup"])
def test_the_graph_is_the_same_for_every_number_of_classes(call, use_resource):
    sizes = []
    for classes in (2, 100, 10**6):
        with tf.Graph().as_default() as graph:
            CALLS[call](*placeholders(), make_centers(tf_centers, use_resource, classes, D))
            sizes.append(graph.as_graph_def().ByteSize())
    assert max(sizes) - min(sizes) < 200  # the digits of C; a table of 100 classes has 2,000 bytes


def largest_tensors(fetch, num_classes):
    """The types of ops on the way to a fetch that make something with a row per class."""
    found, todo = set(), [fetch.op if isinstance(fetch, tf.Tensor) else fetch]
    while todo:
        op = todo.pop()
        if op not in found:
            found.add(op)
            todo += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return {
        op.type
        for op in found
        for tensor in op.outputs
        if tensor.shape.ndims == 2 and tensor.shape.as_list()[0] == num_classes
    } - {"VariableV2", "Identity", "ScatterUpdate"}  # a ref variable itself, which is no copy


def test_no_pass_over_the_whole_table(use_resource):
    centers = make_centers(tf_centers, use_resource, 99, D)
    for call in ("get", "update", "lookup"):
        assert not largest_tensors(CALLS[call](*placeholders(), centers), 99)
    # Such a pass would be seen.
    assert "Mul" in largest_tensors(tf.gather(centers.ctrs * 0.95, [1, 2]), 99)


def test_zeros_of_a_new_table_are_no_constant(use_resource, session):
    # Folded to a constant, which the graph keeps and a variable shares until its first update, they
    # would take the memory of a second table.
    centers = make_centers(tf_centers, use_resource, 99, D)
    assert not largest_tensors(centers.ctrs.initializer, 99) & {"Fill", "ZerosLike", "Const"}
    for value in session.run(list(centers)):
        np.testing.assert_array_equal(value, 0)


def test_no_table_crosses_to_the_device_of_the_batch(use_resource):
    classes, found = 97, set()
    with tf.device("/device:CPU:1"):
        centers = make_centers(tf_centers, use_resource, classes, 3)
    with tf.device("/device:CPU:0"):
        rows = tf_centers.get_embed_centers(np.ones([2, 3]), [1, 96], MEAN, centers)
        lookup = tf_centers.lookup_embed_centers([1, 2], centers)
    trace, stats = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), tf.RunMetadata()
    with tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
        session.run(tf.global_variables_initializer())
        session.run([rows, lookup], options=trace, run_metadata=stats)
    for device in stats.step_stats.dev_stats:
        for node in device.node_stats:
            for output in node.output:
                sizes = [axis.size for axis in output.tensor_description.shape.dim]
                found.add((device.device[-1], classes in sizes))
    assert {("0", False), ("1", False)} <= found and ("0", True) not in found
