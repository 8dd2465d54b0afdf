"""What a call costs does not grow with the table."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, D, make_centers, make_ctrs, placeholders
from updaters import UPDATERS

import tf_centers


def graph_bytes(entry, num_classes, use_resource):
    """The size of the graph of an update, without the names and sizes of the classes."""
    with tf.Graph().as_default() as graph:
        centers = make_centers(tf_centers, use_resource, num_classes, D)
        tf_centers.get_embed_centers(*placeholders(), entry.updater, centers)
        return graph.as_graph_def().ByteSize()


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_the_graph_is_the_same_for_every_number_of_classes(name, use_resource):
    sizes = [graph_bytes(UPDATERS[name], classes, use_resource) for classes in (2, 100, 10**6)]
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


CALLS = {
    "get": lambda embeds, labels, ctrs: tf_centers.get_embed_centers(embeds, labels, MEAN, ctrs),
    "update": lambda *batch: tf_centers.update_embed_centers(*batch[:2], MEAN, batch[2]),
    "lookup": lambda embeds, labels, ctrs: tf_centers.lookup_embed_centers(labels, ctrs),
}


@pytest.mark.parametrize("call", sorted(CALLS))
@pytest.mark.parametrize("num_classes", [99, 10007])
def test_no_pass_over_the_whole_table(call, num_classes, use_resource):
    ctrs = make_ctrs(use_resource, [num_classes, D])
    assert not largest_tensors(CALLS[call](*placeholders(), ctrs), num_classes)


def test_a_pass_over_the_whole_table_is_seen(use_resource):
    ctrs = make_ctrs(use_resource, [99, D])
    assert "Mul" in largest_tensors(tf.gather(ctrs * 0.95, [1, 2]), 99)


def test_zeros_of_a_new_table_are_no_constant(use_resource):
    # Folded to a constant, which the graph keeps and a variable shares until its first update, they
    # would take the memory of a second table.
    centers = make_centers(tf_centers, use_resource, 99, D)
    assert not largest_tensors(centers.ctrs.initializer, 99) & {"Fill", "ZerosLike", "Const"}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for value in session.run(list(centers)):
            np.testing.assert_array_equal(value, 0)
