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

from tf_centers.access import (
    add_to_rows,
    read_rows,
    take,
    write_first_rows,
    write_rows,
)
from tf_centers.row_weights import Rows, Weigher
from tf_centers.tables import EmbedCenters, Table


class ShardUpdate:
    """The update of one shard, in three steps: prepare the batch, compute the new centers, write.

    Only the second and third step need the lock of the shard.
    """

    def __init__(
        self,
        weigher: Weigher,
        table: Table,
        dense: bool,
        shard: EmbedCenters,
        embeds: Any,
        labels: Any,
    ) -> None:
        """Groups embeddings `[R, D]`, in the dtype of ctrs, by labels `[R]`, and weighs them."""
        self._weigher, self._table, self._dense, self._shard = weigher, table, dense, shard
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

        With it has arrived whatever the row weights and the constraint take from outside, which may
        depend on another update that takes the same lock.
        """
        needed = [self._index, self._classes]
        if self._table.constraint is not None:
            none = tf.zeros([0, self._table.shape[1]], self._dtype)
            needed.append(self._kept(none))
        if self._weigher.count_decay is not None:
            needed.append(self._weigher.count_decay)
        if self._sums is not None:
            return [*self._sums, *needed]
        early = self._weigh(read_rows(self._shard.counts, self._classes), check=False)
        return [early, self._embeds, *needed]

    def compute(self) -> List[tf.Tensor]:
        """Reads the shard; returns its new centers, `[U, D]`, and all its counts if they fade."""
        if self._sums is None:
            seen = read_rows(self._shard.counts, self._classes)
            self._sums = self._sum(self._weigh(seen))
        total, pull = self._sums
        self._old = tf.stop_gradient(read_rows(self._shard.ctrs, self._classes))
        old = tf.cast(self._old, self._dtype)
        # The terms in parentheses nearly cancel. (1 - total) * old would lose precision if the
        # weights are small, and tf.add_n adds in any order.
        new = old - (total * old - pull)
        if self._table.constraint is not None:
            new = self._constrain(new)
        self._new = tf.cast(new, self._old.dtype)
        decay, counts = self._weigher.count_decay, self._shard.counts
        if decay is None:
            return [self._new]
        # Without a row in any shard, nothing is updated: no count fades, and none is written.
        size = tf.where(self._weigher.batch_size > 0, counts.shape.as_list()[0], 0)
        faded = decay * read_rows(counts, tf.range(size))
        more = tf.cast(self._sizes, faded.dtype)
        self._counts = tf.tensor_scatter_add(faded, tf.expand_dims(self._classes, 1), more)
        return [self._new, self._counts]

    def rows(self, read: str) -> tf.Tensor:
        """The center of each row, `[R, D]`, "before" or "after" the update."""
        return take(self._new if read == "after" else self._old, self._index, self._dense)

    def write(self) -> List[Any]:
        """Writes the new centers and counts the rows; returns ops for control dependencies."""
        writes = [write_rows(self._shard.ctrs, self._classes, self._new)]
        counts = self._shard.counts
        if self._weigher.count_decay is not None:
            writes.append(write_first_rows(counts, self._counts))
        elif counts is not None:
            more = tf.cast(self._sizes, counts.dtype.base_dtype)
            writes.append(add_to_rows(counts, self._classes, more))
        return writes

    def _weigh(self, seen: Optional[tf.Tensor] = None, check: bool = True) -> tf.Tensor:
        rows = Rows(self._dtype, self._weigher.read_rate, self._group, self._sizes, seen)
        return tf.expand_dims(tf.stop_gradient(self._weigher.weigh(rows, check)), 1)

    def _kept(self, new: tf.Tensor) -> tf.Tensor:
        """What the constraint of the table makes of new centers `[U, D]`."""
        expected = (
            f"{self._weigher.checks.caller}: the constraint of {self._table.name} must return "
            f"{new.dtype.name} centers [U, {new.shape[1]}]"
        )
        given = self._table.constraint(new)  # type: ignore[misc]
        try:
            kept = tf.convert_to_tensor(given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}, got {given!r}") from error
        if kept.dtype != new.dtype or not kept.shape.is_compatible_with(new.shape):
            raise ValueError(f"{expected}, got {kept.dtype.name} of shape {kept.shape}")
        return kept

    def _constrain(self, new: tf.Tensor) -> tf.Tensor:
        """As `_kept`, with a check of the values."""
        kept, dtype = self._kept(new), self._old.dtype  # may overflow in half precision
        # Counted here, since what a check shows goes to the host.
        infinite = ~tf.is_finite(tf.cast(tf.cast(kept, dtype), kept.dtype))
        number = tf.reduce_sum(tf.cast(infinite, tf.int32))
        shapes = tf.equal(tf.shape(kept), tf.shape(new))
        self._weigher.checks.require(
            lambda: tf.reduce_all(shapes) & tf.equal(number, 0),
            f"the constraint of {self._table.name} to return finite centers of the shape that it "
            "gets, found shape",
            tf.shape(kept),
            "and values that are not finite:",
            number,
        )
        return kept

    def _sum(self, weights: tf.Tensor) -> Tuple[tf.Tensor, tf.Tensor]:
        """What the rows of each class weigh, `[U, 1]`, and their weighted sum, `[U, D]`."""
        total = tf.segment_sum(weights, self._group)
        return total, tf.segment_sum(weights * self._embeds, self._group)
