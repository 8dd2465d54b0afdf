"""What a call costs does not grow with the table."""

import collections

import pytest
import tensorflow.compat.v1 as tf
from helpers import make_ctrs

import tf_centers

D = 5
WINDOW, MEAN = tf_centers.ExponentialWindow(), tf_centers.CumulativeMean()


def ops_that_run(fetch):
    """Every op that the fetch depends on, but for constants and what reads the variables whole."""
    found, open_ops = set(), [fetch.op if isinstance(fetch, tf.Tensor) else fetch]
    while open_ops:
        op = open_ops.pop()
        if op not in found:
            found.add(op)
            open_ops += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
    return [op for op in found if op.type != "Const"]


def build(call, num_classes, updater=WINDOW, use_resource=True):
    """The op or tensor of one call, on a batch of unknown size."""
    ctrs = make_ctrs(use_resource, [num_classes, D])
    embeds = tf.placeholder(tf.float32, [None, D])
    labels = tf.placeholder(tf.int64, [None])
    return call(embeds, labels, updater, ctrs)


@pytest.mark.parametrize("updater", [WINDOW, MEAN, None], ids=["window", "mean", "default"])
def test_the_graph_is_the_same_for_every_number_of_classes(updater, use_resource):
    kinds = []
    for num_classes in (2, 1000, 1000000):
        with tf.Graph().as_default():
            ops = ops_that_run(
                build(tf_centers.get_embed_centers, num_classes, updater, use_resource)
            )
            kinds.append(collections.Counter(op.type for op in ops))
    assert kinds[0] == kinds[1] == kinds[2]
    assert sum(kinds[0].values()) <= 75
    assert not {"If", "StatelessIf", "While", "StatelessWhile", "Switch", "Enter"} & set(kinds[0])


def passes_over_table(fetch, num_classes):
    """What is made with a row per class, from the variables themselves on."""
    return {
        op.type
        for op in ops_that_run(fetch)
        for tensor in op.outputs
        if tensor.shape.ndims == 2 and tensor.shape.as_list()[0] == num_classes
    } - {"VariableV2", "Identity"}  # a ref variable, and its value, which is no copy


def _lookup(embeds, labels, updater, ctrs):
    return tf_centers.lookup_embed_centers(labels, ctrs)


def _dense(embeds, labels, updater, ctrs):
    return tf.gather(ctrs * 0.95, labels)


@pytest.mark.parametrize(
    "call", [tf_centers.get_embed_centers, tf_centers.update_embed_centers, _lookup]
)
@pytest.mark.parametrize("num_classes", [99, 1009, 10007])
def test_no_pass_over_the_whole_table(call, num_classes, use_resource):
    # What a scatter returns with ref variables is the variable itself.
    found = passes_over_table(build(call, num_classes, MEAN, use_resource), num_classes)
    assert found <= {"ScatterUpdate"}


def test_a_pass_over_the_whole_table_is_seen(use_resource):
    assert "Mul" in passes_over_table(build(_dense, 99, use_resource=use_resource), 99)


def test_zeros_of_a_new_table_are_no_constant(use_resource):
    # Folded to a constant, which the graph keeps and a variable shares until its first update, they
    # would take the memory of a second table.
    with tf.variable_scope("", use_resource=use_resource):
        centers = tf_centers.create_embed_centers(99, D)
    makers = {op.type for op in ops_that_run(centers.ctrs.initializer)} & {"Fill", "ZerosLike"}
    assert not makers
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        assert not session.run(centers.ctrs).any() and not session.run(centers.counts).any()
