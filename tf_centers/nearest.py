"""The classes whose centers lie nearest."""

from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments, checks, variables
from tf_centers.autograph import as_written
from tf_centers.variables import CentersLike

# Rows and elements of the table that are held at a time, so that memory stays bounded.
_BLOCK_ROWS = 8192
_BLOCK_ELEMENTS = 2**22


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
    is not finite is near to nothing. Equal distances rank by class. The squared distance is
    expanded to `x.x - 2 x.c + c.c` and computed in float64, a block of classes at a time: its
    error is about 1e-15 times `x.x + c.c`.

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
        ctrs, counts = variables.find_centers(caller, centers)
        num_classes, num_dims = ctrs.shape.as_list()
        k = arguments.as_count(caller, "k", k, num_classes)
        embeds = arguments.as_floats(caller, "embed_batch", embed_batch)
        embeds = checks.matrix(caller, "embed_batch", embeds, num_dims, validate=True)
        embeds = tf.cast(embeds, tf.float64)
        labels = tf.zeros([tf.shape(embeds)[0], 0], tf.int64)
        squares = tf.zeros([tf.shape(embeds)[0], 0], tf.float64)
        size = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // num_dims))
        for start in range(0, num_classes, size):
            block = tf.range(start, min(start + size, num_classes), dtype=tf.int64)
            # One block after another: side by side they would hold the whole table.
            with tf.control_dependencies([squares]):
                found = _squared_distances(embeds, ctrs, counts, tf.identity(block))
            labels, squares = _merge(labels, squares, block, found, k)
        distances = tf.cast(tf.sqrt(squares), ctrs.dtype.base_dtype)
        labels = tf.where(tf.is_inf(squares), -tf.ones_like(labels), labels)
        return NearestCenters(tf.stop_gradient(labels), tf.stop_gradient(distances))


def _squared_distances(embeds: tf.Tensor, ctrs: Any, counts: Any, block: tf.Tensor) -> tf.Tensor:
    """Squared distances `[B, len(block)]`, infinite where a class is no candidate."""
    rows = tf.cast(variables.read_rows(ctrs, block), tf.float64)
    squares = (
        tf.reduce_sum(tf.square(embeds), axis=1, keepdims=True)
        - 2.0 * tf.matmul(embeds, rows, transpose_b=True)
        + tf.reduce_sum(tf.square(rows), axis=1)
    )
    candidate = tf.is_finite(squares)
    if counts is not None:
        candidate = tf.logical_and(candidate, variables.read_rows(counts, block) > 0)
    infinite = tf.fill(tf.shape(squares), tf.constant(float("inf"), tf.float64))
    return tf.where(candidate, tf.maximum(squares, 0.0), infinite)


def _merge(
    labels: tf.Tensor, squares: tf.Tensor, block: tf.Tensor, found: tf.Tensor, k: int
) -> Any:
    """The k best of those found so far and a further block's, the nearest first."""
    count = min(k, found.shape.as_list()[1])
    nearest, position = tf.nn.top_k(-found, count)
    squares = tf.concat([squares, -nearest], axis=1)
    labels = tf.concat([labels, tf.gather(block, position)], axis=1)
    count = min(k, squares.shape.as_list()[1])
    nearest, position = tf.nn.top_k(-squares, count)
    # The classes so far come first and top_k is stable, so equal distances rank by class.
    return tf.batch_gather(labels, position), -nearest
