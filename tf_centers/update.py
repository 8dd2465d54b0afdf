"""The recipe: how the rows of a batch move the centers of their classes.

    old  = gather(ctrs, labels)
    ctrs = scatter_sub(ctrs, labels, w[:, None] * (old - embed))
    return gather(ctrs, labels)

Done row by row, this overshoots on repeated labels, and the last line may run before the second.
Here the rows of a class are first summed with their weights, so that each class of the batch gets
one new row:

    new = old - (sum(w) * old - sum(w * embed))
"""

from typing import Any, List, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.access import add_to_rows, read_rows, take, write_rows
from tf_centers.row_weights import Rows, Weigher
from tf_centers.tables import EmbedCenters


class ShardUpdate:
    """The update of one shard, in three steps: prepare the batch, compute the new centers, write.

    Only the second and third step need the lock of the shard.
    """

    def __init__(
        self, weigher: Weigher, dense: bool, shard: EmbedCenters, embeds: Any, labels: Any
    ) -> None:
        """Groups embeddings `[R, D]`, in the dtype of ctrs, by labels `[R]`, and weighs them."""
        self._weigher, self._shard, self._dense = weigher, shard, dense
        # Group by class: the i-th row belongs to classes[index[i]]. Sorting keeps the batch order
        # within each class, since top_k takes the first of equals first.
        self._classes, self._index, self._sizes = tf.unique_with_counts(labels)
        group, order = tf.nn.top_k(-self._index, tf.size(labels))
        self._group = -group
        # Centers of half precision would stop moving.
        self._dtype = tf.float64 if embeds.dtype == tf.float64 else tf.float32
        self._embeds = tf.cast(take(embeds, order, dense), self._dtype)
        self._sums = None if weigher.needs_counts else self._sum(self._weigh())

    def inputs(self) -> List[tf.Tensor]:
        """What has to be there before a lock is taken.

        With it has arrived whatever the row weights take from outside, which may depend on another
        update that takes the same lock.
        """
        if self._sums is not None:
            return [*self._sums, self._index, self._classes]
        early = self._weigh(read_rows(self._shard.counts, self._classes), check=False)
        return [early, self._embeds, self._index, self._classes]

    def compute(self) -> tf.Tensor:
        """Reads the shard and computes its new centers, `[U, D]`."""
        if self._sums is None:
            seen = read_rows(self._shard.counts, self._classes)
            self._sums = self._sum(self._weigh(seen))
        total, pull = self._sums
        self._old = tf.stop_gradient(read_rows(self._shard.ctrs, self._classes))
        old = tf.cast(self._old, self._dtype)
        # The terms in parentheses nearly cancel. (1 - total) * old would lose precision if the
        # weights are small, and tf.add_n adds in any order.
        self._new = tf.cast(old - (total * old - pull), self._old.dtype)
        return self._new

    def rows(self, read: str) -> tf.Tensor:
        """The center of each row, `[R, D]`, "before" or "after" the update."""
        return take(self._new if read == "after" else self._old, self._index, self._dense)

    def write(self) -> List[Any]:
        """Writes the new centers and counts the rows; returns ops for control dependencies."""
        writes = [write_rows(self._shard.ctrs, self._classes, self._new)]
        if self._shard.counts is not None:
            more = tf.cast(self._sizes, tf.int64)
            writes.append(add_to_rows(self._shard.counts, self._classes, more))
        return writes

    def _weigh(self, seen: Optional[tf.Tensor] = None, check: bool = True) -> tf.Tensor:
        rows = Rows(self._dtype, self._weigher.read_rate, self._group, self._sizes, seen)
        return tf.expand_dims(tf.stop_gradient(self._weigher.weigh(rows, check)), 1)

    def _sum(self, weights: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """What the rows of each class weigh, `[U, 1]`, and their weighted sum, `[U, D]`."""
        total = tf.segment_sum(weights, self._group)
        return total, tf.segment_sum(weights * self._embeds, self._group)
