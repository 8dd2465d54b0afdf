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
    values = np.arange(2.0 * len(labels)).reshape(len(labels), 2)
    sums = grouping.sum_by_group(tf.constant(values), groups)
    with tf.Session() as session:
        groups, later, sums = session.run([groups, later, sums])
    assert groups.labels.tolist() == list(dict.fromkeys(labels))
    assert groups.sizes.tolist() == [labels.count(label) for label in groups.labels]
    assert [groups.labels[i] for i in groups.index] == labels
    assert later.tolist() == [labels[i + 1 :].count(label) for i, label in enumerate(labels)]
    for label, total in zip(groups.labels, sums):
        rows = [value for value, other in zip(values, labels) if other == label]
        assert total.tolist() == np.sum(rows, axis=0).tolist()
