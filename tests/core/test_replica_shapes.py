"""What is wrong on one replica alone, whatever each of them knows while its graph is built."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from check_replicas import replica
from three_replicas import copies, get, make, on_three_replicas, run, state
from updaters import Weighted

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
