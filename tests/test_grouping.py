"""Which rows share a class."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from tf_centers import grouping

LABELS = [
    [],
    [5],
    [3, 3, 3],
    [4, 0, 4, 2, 0, 4],
    [2**40, -1, 2**40],
    list(np.random.RandomState(0).randint(0, 9, 100)),
    list(range(20, 0, -1)),
]


@pytest.mark.parametrize("labels", LABELS, ids=len)
def test_groups(labels):
    groups = grouping.group_rows(tf.constant(labels, tf.int64))
    later = grouping.count_later_rows(groups)
    last = grouping.last_rows(groups)
    values = np.arange(2.0 * len(labels)).reshape(len(labels), 2)
    sums = tf.math.segment_sum(tf.gather(tf.constant(values), groups.order), groups.index)
    with tf.Session() as session:
        groups, later, last, sums = session.run([groups, later, last, sums])
    assert sorted(groups.labels) == sorted(set(labels))
    assert groups.sizes.tolist() == [labels.count(label) for label in groups.labels]
    assert sorted(groups.order) == list(range(len(labels)))
    assert [groups.labels[i] for i in groups.index] == [labels[i] for i in groups.order]
    assert groups.index.tolist() == sorted(groups.index)
    for place, row in enumerate(groups.order):
        assert later[place] == labels[row + 1 :].count(labels[row])
    for label, row, total in zip(groups.labels, last, sums):
        rows = [i for i, other in enumerate(labels) if other == label]
        assert row == rows[-1]
        assert [i for i in groups.order if i in rows] == rows
        assert total.tolist() == values[rows].sum(axis=0).tolist()
