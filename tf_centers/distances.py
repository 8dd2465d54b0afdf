"""Distances to the centers, and the classes with the nearest centers.

Both calls expand the square, `||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2)`, so that the work is
one matrix product. The term in parentheses ranks the classes as the distance does.
"""

from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import on_machine_of, read_range
from tf_centers.arguments import as_written
from tf_centers.centers import EmbedCenters, Table
from tf_centers.checks import Checks, matrix
from tf_centers.variables import CentersLike, find_table, note_counts

# Classes searched at a time: a table of 2,000,000 x 256 is never copied as a whole, and a row of
# the batch takes 32 kB. No loop, which some freezers and tf.add_check_numerics_ops refuse.
_BLOCK = 8192


class NearestCenters(NamedTuple):
    """The k nearest centers of each row of a batch, nearest first.

    Attributes:
      labels: int64 `[B, k]`, the classes; -1 where no class is left.
      distances: `[B, k]`, the Euclidean distances; infinity where no class is left.
    """

    labels: tf.Tensor
    distances: tf.Tensor


@as_written
def center_distances(
    embed_batch: Any, centers: CentersLike = "embed", name: Optional[str] = None
) -> tf.Tensor:
    """Squared Euclidean distance of each row to each center, by a matrix product.

    The gradient is `2 (x - c)`, and reaches only the embeddings. A squared distance has the
    rounding error of `||x||^2 + ||c||^2`, about 1e-6 of that in float32, so a row on its center may
    get `1e-6 ||x||^2` instead of 0, but never less than 0. In half precision, distances are
    computed in float32.

    Args:
      embed_batch: floating `[B, D]`, cast to the dtype of the centers.
      centers: as in `get_embed_centers`.
      name: name of the scope of the ops.

    Returns:
      `[B, C]` in the dtype of the centers, including classes never seen.

    Raises:
      TypeError: embeddings that are not floating.
      ValueError: static shapes that do not fit, missing centers.
      tf.errors.InvalidArgumentError: at run time, for shapes that do not fit.

    Examples:
      >>> ctrs = tf.get_variable("ctrs", initializer=[[0.0, 0.0], [3.0, 4.0]])
      >>> squares = center_distances(tf.constant([[3.0, 3.0]]), ctrs)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(squares)
      array([[18.,  1.]], dtype=float32)
    """
    caller = "center_distances"
    with tf.name_scope(name, caller, [embed_batch]):
        table = find_table(caller, centers)
        embeds = _as_rows(caller, embed_batch, table)
        squares = []
        for shard in table.shards:
            with on_machine_of(shard.ctrs):
                ctrs = tf.stop_gradient(read_range(shard.ctrs, 0, shard.ctrs.shape.as_list()[0]))
                squares.append(squared_distances(tf.identity(embeds), tf.cast(ctrs, embeds.dtype)))
        return tf.cast(tf.concat(squares, axis=1), table.dtype)


@as_written
def nearest_centers(
    embed_batch: Any,
    centers: CentersLike = "embed",
    k: int = 1,
    name: Optional[str] = None,
) -> NearestCenters:
    """Finds the k classes whose centers have the smallest Euclidean distance to each row.

    If counts exist when this is built, classes never seen are left out. Equal distances are ordered
    by class. A row that is not finite has no nearest classes. Distances have the rounding error of
    `center_distances`, which decides between classes that nearly tie, and at times between centers
    with the same values. If embeddings are much farther from the origin than from each other, use
    a float64 table.

    Args:
      embed_batch: floating `[B, D]`, cast to the dtype of the centers.
      centers: as in `get_embed_centers`.
      k: Python integer in [1, C].
      name: name of the scope of the ops.

    Returns:
      `NearestCenters(labels, distances)`: int64 `[B, k]` and, in the dtype of the centers,
      `[B, k]`. If there are fewer than k candidates, the rest is label -1 at distance infinity. No
      gradient flows into either.

    Raises:
      TypeError: embeddings that are not floating.
      ValueError: k out of range, static shapes that do not fit, missing centers.
      tf.errors.InvalidArgumentError: at run time, for shapes that do not fit, or a center that is
        not finite.

    Examples:
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
        note_counts(caller, table)
        k = arguments.as_count(caller, "k", k, table.shape[0])
        embeds = _as_rows(caller, embed_batch, table)
        parts: List[NearestCenters] = []
        for shard, start in zip(table.shards, table.starts):
            with on_machine_of(shard.ctrs):
                parts += _search(caller, tf.identity(embeds), shard, k, start)
        labels, scores = parts[0]
        if len(parts) > 1:
            # Parts come in the order of their classes, and top_k takes the first of equals first.
            scores, place = tf.nn.top_k(tf.concat([part.distances for part in parts], axis=1), k)
            labels = tf.batch_gather(tf.concat([part.labels for part in parts], axis=1), place)
        squares = _squared_norms(embeds) - 2.0 * scores
        far = tf.fill(tf.shape(squares), _far(squares.dtype))
        found = squares < far
        labels = tf.where(found, labels, -tf.ones_like(labels))
        distances = tf.sqrt(tf.maximum(tf.where(found, squares, far), 0.0))
        # An infinity by division: a constant would stop tf.debugging.enable_check_numerics.
        distances = tf.cast(distances / tf.cast(found, distances.dtype), table.dtype)
        return NearestCenters(tf.stop_gradient(labels), tf.stop_gradient(distances))


def squared_distances(embeds: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Squared distances `[B, n]` of `embeds [B, D]` to `rows [n, D]`, of one dtype."""
    squares = _squared_norms(embeds) - 2.0 * _scores(embeds, rows, _half_norms(rows))
    # Clipped at 0, with the gradient of what is not clipped.
    return squares + tf.stop_gradient(tf.nn.relu(-squares))


def _search(
    caller: str, embeds: tf.Tensor, shard: EmbedCenters, k: int, first: int
) -> List[NearestCenters]:
    """The best k classes, or all, of each block of a shard, with scores in place of distances."""
    parts: List[NearestCenters] = []
    num_classes = shard.ctrs.shape.as_list()[0]
    message = f"{caller}: expected finite centers, found one that is not in {shard.ctrs.name}"
    for start in range(0, num_classes, _BLOCK):
        stop = min(start + _BLOCK, num_classes)
        # One block after another: side by side they would hold the whole table.
        with tf.control_dependencies([part.distances for part in parts[-1:]]):
            rows = tf.cast(read_range(shard.ctrs, start, stop), embeds.dtype)
            # A center that is not finite would spoil the ranks of the others.
            half_norms = tf.debugging.check_numerics(_half_norms(rows), message)
            if shard.counts is not None:
                seen = read_range(shard.counts, start, stop) > 0
                far = tf.fill(tf.shape(half_norms), _far(embeds.dtype))
                half_norms = tf.where(seen, half_norms, far)
        scores, labels = tf.nn.top_k(_scores(embeds, rows, half_norms), min(k, stop - start))
        parts.append(NearestCenters(tf.cast(labels + (first + start), tf.int64), scores))
    return parts


def _as_rows(caller: str, embed_batch: Any, table: Table) -> tf.Tensor:
    """Checks embeddings `[B, D]`; in the dtype of the table, or float32 where that is narrower."""
    embeds = arguments.as_floats(caller, "embed_batch", embed_batch)
    embeds = matrix(Checks(caller), "embed_batch", embeds, table.shape[1])
    embeds = tf.cast(embeds, table.dtype)
    return embeds if table.dtype == tf.float64 else tf.cast(embeds, tf.float32)


def _scores(embeds: tf.Tensor, rows: tf.Tensor, half_norms: tf.Tensor) -> tf.Tensor:
    """`x.c - ||c||^2 / 2`, greatest for the nearest."""
    # TensorFlow fuses an addition of this kind with the product.
    return tf.nn.bias_add(tf.matmul(embeds, rows, transpose_b=True), -half_norms)


def _half_norms(rows: tf.Tensor) -> tf.Tensor:
    # On short rows, a product takes down to a third of the time of a sum.
    halves = tf.fill([rows.shape.as_list()[1], 1], tf.constant(0.5, rows.dtype))
    return tf.reshape(tf.matmul(tf.square(rows), halves), [-1])


def _squared_norms(embeds: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(embeds), axis=1, keepdims=True)


def _far(dtype: tf.DType) -> tf.Tensor:
    """A huge but finite half norm or squared distance, for what is not a candidate."""
    return tf.constant(dtype.max / 4, dtype)
