"""Which rows of a batch share a class. Pure: no state, no checks."""

from typing import NamedTuple

import tensorflow.compat.v1 as tf


class Groups(NamedTuple):
    """R rows sorted by class, and within a class in the order in which they came.

    Attributes:
      labels: `[U]`, the different classes, in the dtype of the labels.
      sizes: int32 `[U]`, the rows k that each class has.
      order: int `[R]`, for each of the sorted rows, where it stood before.
      index: int32 `[R]`, for each of the sorted rows, its class as a place in `labels`; ascending.
    """

    labels: tf.Tensor
    sizes: tf.Tensor
    order: tf.Tensor
    index: tf.Tensor


def group_rows(labels: tf.Tensor) -> Groups:
    """Groups rows by their labels `[R]`, int32 or int64."""
    labels = not_folded(labels)
    # top_k sorts as argsort does, keeps the order of equals, and has the sorted labels at hand.
    grouped, order = tf.nn.top_k(labels, tf.size(labels))
    classes, index, sizes = tf.unique_with_counts(grouped)
    return Groups(classes, sizes, order, index)


def not_folded(vector: tf.Tensor) -> tf.Tensor:
    """The same vector, but no constant to TensorFlow's optimizer, whatever it is made of.

    Where it knows from constants that there are no rows, it divides by their number.
    """
    size = vector.shape.as_list()[0]
    return tf.placeholder_with_default(vector, [size or None])


def last_rows(groups: Groups) -> tf.Tensor:
    """For each class `[U]`, where among the rows before sorting its last row stood."""
    return tf.gather(groups.order, tf.cumsum(groups.sizes) - 1)


def count_later_rows(groups: Groups) -> tf.Tensor:
    """For each sorted row, the rows of its class that come after it: `k - j`, int32 `[R]`."""
    ends = tf.gather(tf.cumsum(groups.sizes), groups.index)
    return ends - tf.range(1, tf.size(groups.index) + 1)
