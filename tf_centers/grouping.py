"""Which rows of a batch share a class. Pure: no state, no checks."""

from typing import NamedTuple

import tensorflow.compat.v1 as tf


class Groups(NamedTuple):
    """The rows of a batch by class; U is the number of different classes in the batch.

    Attributes:
      labels: `[U]`, the classes in the order of their first rows, in the dtype of the batch's
        labels.
      sizes: int32 `[U]`, the rows k that each class has.
      index: int32 `[B]`, where in `labels` the class of each row stands.
    """

    labels: tf.Tensor
    sizes: tf.Tensor
    index: tf.Tensor


def group_rows(labels: tf.Tensor) -> Groups:
    """Groups the rows of a batch by their labels `[B]`, int32 or int64."""
    classes, index, sizes = tf.unique_with_counts(labels)
    return Groups(classes, sizes, index)


def count_later_rows(groups: Groups) -> tf.Tensor:
    """For each row of the batch, the number of rows of its class that come after it: `k - j`.

    Returns:
      int32 `[B]`.
    """
    # Sorted by class and, within a class, by position, the rows of a class stand together and
    # its last row stands just before the end of its run.
    order = tf.argsort(groups.index, stable=True)
    ends = tf.cumsum(groups.sizes)
    sorted_ends = tf.gather(ends, tf.gather(groups.index, order))
    later = sorted_ends - 1 - tf.range(tf.size(order))
    return tf.gather(later, tf.math.invert_permutation(order))


def sum_by_group(values: tf.Tensor, groups: Groups) -> tf.Tensor:
    """Sums `values` `[B, ...]` over the rows of each class, to `[U, ...]`."""
    return tf.math.unsorted_segment_sum(values, groups.index, tf.size(groups.sizes))
