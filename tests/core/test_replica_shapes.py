"""Replicas that do not know the same of their batches while their graphs are built."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from check_replicas import bits
from helpers import MEAN
from three_replicas import REPLICAS, copies, get, make, on_three_replicas, replica, run, state
from updaters import Weighted

import tf_centers

EMBEDS = [np.float32(rows) for rows in ([[1, 2], [3, 4], [5, 0], [7, 7]], [[8, 8]], [[2, 6]])]
LABELS = [np.array(labels) for labels in ([1, 3, 1, 0], [3], [3])]
MASKS = [np.array(mask) for mask in ([True, True, False, True], [True], [True])]
NAMES = ("embed_batch", "label_batch", "mask")


def knowing(**shapes):
    """Hides all but these shapes."""

    def change(*batch):
        return [
            tf.placeholder_with_default(value, shapes[name]) if name in shapes else value
            for name, value in zip(NAMES, batch)
        ]

    return change


def as_int32(embed_batch, label_batch, mask=None):
    return embed_batch, tf.cast(label_batch, tf.int32), mask


def as_column(embed_batch, label_batch, mask=None):
    return embed_batch, tf.placeholder_with_default(label_batch[:, tf.newaxis], [None, None]), mask


def check_as_in_a_single_process(changed, change, masked=False, steps=None):
    """Where one replica's batch is changed, all hold the same as a table of a single process."""
    columns = [EMBEDS, LABELS] + [MASKS] * masked
    if steps:
        columns = [[np.stack([part] * steps, 1) for part in column] for column in columns]
    axes = 2 if steps else 1
    joined = [np.concatenate(column) for column in columns]
    joined = [value.reshape([-1, *value.shape[axes:]]) for value in joined]
    centers, plain = make(), tf_centers.create_embed_centers(4, 2)
    expected = tf_centers.get_embed_centers(*joined[:2], MEAN, plain, *joined[2:])

    def call():
        batch = [tf.constant(column[replica()]) for column in columns]
        if replica() == changed:
            batch = list(change(*batch))
        return tf_centers.get_embed_centers(*batch[:2], MEAN, centers, *batch[2:3])

    found = [tf.reshape(rows, [-1, 2]) for rows in run(call)]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    for whole, parts in zip(plain, copies(centers)):
        assert [bits(part) for part in parts] == [bits(whole)] * REPLICAS


@on_three_replicas
def test_a_replica_that_knows_less_or_has_labels_of_another_kind():
    sized = knowing(embed_batch=[None, 2], label_batch=[None], mask=[None])
    check_as_in_a_single_process(0, sized, masked=True)
    check_as_in_a_single_process(1, knowing(embed_batch=None))
    check_as_in_a_single_process(0, knowing(label_batch=None))
    check_as_in_a_single_process(1, knowing(mask=None), masked=True)
    in_time = knowing(embed_batch=[None, None, 2], label_batch=None)
    check_as_in_a_single_process(1, in_time, steps=2)
    check_as_in_a_single_process(0, as_int32)
    check_as_in_a_single_process(1, as_column)


def refused(centers, call, message):
    before = state(centers)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(call)
    assert state(centers) == before


@on_three_replicas
def test_what_is_wrong_on_one_replica_is_refused_on_all():
    """Whatever either of them knows."""
    centers = make()
    run(lambda: get(centers)(EMBEDS[replica()], LABELS[replica()]))
    for wrong, hidden, change, message in (
        (0, [0], lambda labels: [4] + labels[1:], r"every label in \[0, 4\)"),
        (1, [0], lambda labels: [4] + labels[1:], r"every label in \[0, 4\)"),
        (1, [0, 1, 2], lambda labels: labels + [0], "label_batch"),
    ):

        def call(wrong=wrong, hidden=hidden, change=change):
            labels = list(LABELS[replica()])
            labels = tf.constant(change(labels) if replica() == wrong else labels)
            if replica() in hidden:
                labels = tf.placeholder_with_default(labels, [None])
            return get(centers)(EMBEDS[replica()], labels)

        refused(centers, call, message)
    for wrong, factor, locking in ((0, -1.0, True), (1, np.nan, False)):

        def weigh(n, k, later, wrong=wrong, factor=factor):
            return (factor if replica() == wrong else 1.0) / k

        updating = get(centers, Weighted(weigh), use_locking=locking)

        def call(updating=updating):
            return updating(EMBEDS[replica()], LABELS[replica()])

        refused(centers, call, "row_weights")
    for variable, wrong in ((0, 1), (1, 0)):  # A copy of fewer rows than the graph knows.
        copy = copies(centers)[variable][wrong]
        short = tf.zeros([2] + copy.shape.as_list()[1:], copy.dtype)
        tf.raw_ops.AssignVariableOp(resource=copy.handle, value=short)

        def call():
            return get(centers)(EMBEDS[replica()], LABELS[replica()])

        refused(centers, call, "get_embed_centers: expected every label")
