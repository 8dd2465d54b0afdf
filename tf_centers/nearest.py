"""The classes whose centers lie nearest."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import loop_value, on_machine_of, read_rows
from tf_centers.arguments import as_written
from tf_centers.centers import EmbedCenters
from tf_centers.checks import Checks, matrix
from tf_centers.variables import CentersLike, find_table

# How much is held at a time, so that memory stays bounded whatever B, C and k are: rows of the
# batch, rows of the table, and elements of any one tensor.
_BATCH_ROWS = 1024
_TABLE_ROWS = 8192
_ELEMENTS = 2**22
# Candidates beyond k whose distance is measured directly, for those that nearly tie.
_SPARE_CANDIDATES = 8


class NearestCenters(NamedTuple):
    """The k nearest centers of each row of a batch, nearest first.

    Attributes:
      labels: int64 `[B, k]`, the classes; -1 where no class is left.
      distances: `[B, k]`, the Euclidean distances; infinity where no class is left.
    """

    labels: tf.Tensor
    distances: tf.Tensor


@as_written
def nearest_centers(
    embed_batch: Any,
    centers: CentersLike = "embed",
    k: int = 1,
    name: Optional[str] = None,
) -> NearestCenters:
    """Finds the k classes whose centers have the smallest Euclidean distance to each row.

    Where counts exist, classes that were never seen are not candidates. A center or a row that
    is not finite is near to nothing. Equal distances rank by class. Candidates are found by the
    expanded square `x.x - 2 x.c + c.c` in float64, by a matrix product for a block of classes at a
    time; their distances are then measured directly.

    Args:
      embed_batch: floating `[B, D]`.
      centers: as in `get_embed_centers`.
      k: Python integer in [1, C].
      name: name of the scope of the ops.

    Returns:
      `NearestCenters(labels, distances)`: int64 `[B, k]` and, in the dtype of the centers,
      `[B, k]`. Where fewer than k candidates are left, the rest is label -1 at distance infinity.
      No gradient flows into them.

    Raises:
      TypeError: embeddings that are not floating.
      ValueError: k out of its range, shapes known not to fit, missing centers.
      tf.errors.InvalidArgumentError: at run time, for shapes that turn out not to fit.

    Example:
      >>> ctrs = tf.get_variable("ctrs", initializer=[[0.0, 0.0], [3.0, 4.0]])
      >>> found = nearest_centers(tf.constant([[3.0, 3.0]]), ctrs, k=2)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(found.labels)
      array([[1, 0]])
      >>> sess.run(found.distances)
      array([[1.       , 4.2426405]], dtype=float32)
    """
    caller = "nearest_centers"
    with tf.name_scope(name, caller, [embed_batch]):
        table = find_table(caller, centers)
        k = arguments.as_count(caller, "k", k, table.shape[0])
        embeds = arguments.as_floats(caller, "embed_batch", embed_batch)
        embeds = matrix(Checks(caller), "embed_batch", embeds, table.shape[1])
        labels, squares = [], []
        for shard, start in zip(table.shards, table.starts):
            with on_machine_of(shard.ctrs):
                found = search_shard(tf.identity(embeds), shard, k)
                found_labels = tf.where(found.labels < 0, found.labels, found.labels + start)
            labels.append(found_labels)
            squares.append(found.distances)
        # Shards come in the order of their classes, and top_k prefers the first of equals.
        best, position = tf.nn.top_k(-tf.concat(squares, axis=1), k)
        labels = tf.batch_gather(tf.concat(labels, axis=1), position)
        distances = tf.cast(tf.sqrt(-best), table.dtype)
        if not tf.executing_eagerly():
            labels.set_shape([embeds.shape[0], k])
            distances.set_shape([embeds.shape[0], k])
        return NearestCenters(tf.stop_gradient(labels), tf.stop_gradient(distances))


def search_shard(embeds: tf.Tensor, shard: EmbedCenters, k: int) -> NearestCenters:
    """The nearest k, or all, of the classes of a shard, and their squared distances in float64.

    The shard may also be one of tensors.
    """
    num_classes, num_dims = shard.ctrs.shape.as_list()
    k = min(k, num_classes)
    # Ref variables cannot enter every kind of loop, but their values can.
    ctrs, counts = loop_value(shard.ctrs), loop_value(shard.counts)
    count = min(k + _SPARE_CANDIDATES, num_classes)
    size = max(1, min(_BATCH_ROWS, _ELEMENTS // (count * num_dims)))

    def search(start: Any, labels: Any, squares: Any) -> Any:
        rows = tf.cast(embeds[start : start + size], tf.float64)
        found = _find_candidates(rows, ctrs, counts, count)
        found = _measure(rows, ctrs, found, k)
        return (
            start + size,
            tf.concat([labels, found.labels], axis=0),
            tf.concat([squares, found.distances], axis=0),
        )

    _, labels, squares = tf.while_loop(
        lambda start, *_: start < tf.shape(embeds)[0],
        search,
        (tf.constant(0), tf.zeros([0, k], tf.int64), tf.zeros([0, k], tf.float64)),
        shape_invariants=(
            tf.TensorShape([]),
            tf.TensorShape([None, k]),
            tf.TensorShape([None, k]),
        ),
        parallel_iterations=1,
        back_prop=False,
    )
    return NearestCenters(labels, squares)


def _find_candidates(rows: tf.Tensor, ctrs: Any, counts: Any, count: int) -> NearestCenters:
    """The `count` classes of the smallest expanded squares, in any order; infinite if none."""
    num_classes, num_dims = ctrs.shape.as_list()
    size = max(count, min(_TABLE_ROWS, _ELEMENTS // num_dims))
    labels = tf.zeros([tf.shape(rows)[0], 0], tf.int64)
    squares = tf.zeros([tf.shape(rows)[0], 0], tf.float64)
    for start in range(0, num_classes, size):
        # One block after another: side by side they would hold the whole table.
        with tf.control_dependencies([squares]):
            block = tf.range(start, min(start + size, num_classes), dtype=tf.int64)
        more, position = tf.nn.top_k(
            -_expanded_squares(rows, ctrs, counts, block), min(count, num_classes - start)
        )
        squares = tf.concat([squares, -more], axis=1)
        labels = tf.concat([labels, tf.gather(block, position)], axis=1)
        if start > 0:
            best, position = tf.nn.top_k(-squares, count)
            labels, squares = tf.batch_gather(labels, position), -best
    return NearestCenters(labels, squares)


def _expanded_squares(rows: tf.Tensor, ctrs: Any, counts: Any, block: tf.Tensor) -> tf.Tensor:
    """Squared distances of each row to a block of classes; infinite where one is no candidate."""
    table = tf.cast(read_rows(ctrs, block), tf.float64)
    squares = (
        tf.reduce_sum(tf.square(rows), axis=1, keepdims=True)
        - 2.0 * tf.matmul(rows, table, transpose_b=True)
        + tf.reduce_sum(tf.square(table), axis=1)
    )
    candidate = tf.is_finite(squares)
    if counts is not None:
        candidate = tf.logical_and(candidate, read_rows(counts, block) > 0)
    return tf.where(candidate, squares, tf.fill(tf.shape(squares), _infinity()))


def _measure(rows: tf.Tensor, ctrs: Any, found: NearestCenters, k: int) -> NearestCenters:
    """The k nearest of the candidates and their squared distances, by direct subtraction."""
    # In the order of their classes, since top_k prefers the first of equals.
    order = tf.argsort(found.labels, axis=1)
    labels = tf.batch_gather(found.labels, order)
    expanded = tf.batch_gather(found.distances, order)
    table = tf.cast(read_rows(ctrs, labels), tf.float64)
    squares = tf.reduce_sum(tf.square(tf.expand_dims(rows, 1) - table), axis=2)
    infinite = tf.fill(tf.shape(squares), _infinity())
    squares = tf.where(tf.is_inf(expanded), infinite, squares)
    nearest, position = tf.nn.top_k(-squares, k)
    labels = tf.batch_gather(labels, position)
    labels = tf.where(tf.is_inf(nearest), -tf.ones_like(labels), labels)
    return NearestCenters(labels, -nearest)


def _infinity() -> tf.Tensor:
    return tf.constant(float("inf"), tf.float64)
