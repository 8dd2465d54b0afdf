"""What is wrong on one replica alone, whatever each of them knows while its graph is built."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from check_replicas import replica
from three_replicas import copies, get, make, on_three_replicas, run, state
from updaters import Weighted

import tf_centers

EMBEDS = [np.float32(rows) for rows in ([[1, 2], [3, 4], [5, 0], [7, 7]], [[8, 8]], [[2, 6]])]
LABELS = [np.array(labels) for labels in ([1, 3, 1, 0], [3], [3])]


def refused(centers, call, message):
    before = state(centers)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run(call)
    assert state(centers) == before


@on_three_replicas
def test_what_is_wrong_on_one_replica_is_refused_on_all():
    centers = make()

    def good(**how):
        return get(centers, **how)(EMBEDS[replica()], LABELS[replica()])

    run(good)
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
    for how, values in (
        (lambda decay: {"updater": tf_centers.ExponentialWindow(decay)}, [0.5, 0.5, 0.25]),
        (lambda training: {"is_training": training}, [True, False, True]),
    ):

        def call(how=how, values=values):
            return good(**how(tf.constant(values[replica()])))

        refused(centers, call, "to be the same on every replica, found")
    nan = [np.nan, 1.0, 1.0]
    message = "get_embed_centers: expected finite values"
    refused(centers, lambda: get(centers)(tf.fill([1, 2], nan[replica()]), [1]), message)
    for wrong, factor, locking in ((0, -1.0, True), (1, np.nan, False)):

        def weigh(n, k, later, wrong=wrong, factor=factor):
            return (factor if replica() == wrong else 1.0) / k

        how = dict(updater=Weighted(weigh), use_locking=locking)
        refused(centers, lambda how=how: good(**how), "row_weights")
    for variable, wrong in ((0, 1), (1, 0)):
        copy = copies(centers)[variable][wrong]
        value = tf.identity(copy)
        for rows in (2, 4):  # A copy of fewer rows than the graph knows, and the right one again.
            tf.raw_ops.AssignVariableOp(resource=copy.handle, value=value[:rows])
            if rows == 2:
                refused(centers, good, "get_embed_centers: expected every label")
    run(good)  # and training goes on
