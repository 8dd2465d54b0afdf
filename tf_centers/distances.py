"""Distances of embeddings to centers: the loss, and the classes with the nearest centers.

The last two expand the square, `||x - c||^2 = ||x||^2 - 2 (x.c - ||c||^2 / 2)`, so that the work is
one matrix product. The term in parentheses, the score, ranks the classes as the distance does.
"""

from typing import Any, List, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import notes, on_machine_of, read_range
from tf_centers.checks import Checks, Shaped, as_floats, check_shapes
from tf_centers.tables import EmbedCenters, Table
from tf_centers.typing import CentersLike, TensorLike
from tf_centers.variables import find_table

# Classes searched at a time: no table is copied as a whole, and a row of the batch takes 32 kB.
# No loop, which some freezers and tf.add_check_numerics_ops refuse.
_BLOCK = 8192


class NearestCenters(NamedTuple):
    """The k nearest centers of each row, nearest first, by Euclidean distance.

    Attributes:
      labels: int64 `[B, k]`, the classes; -1 where no class is left.
      distances: `[B, k]`, in the dtype of the centers; infinity where no class is left.
    """

    labels: tf.Tensor
    distances: tf.Tensor


@arguments.no_autograph
def center_loss(
    embed_batch: TensorLike, embed_ctrs_batch: TensorLike, name: Optional[str] = None
) -> tf.Tensor:
    """Half the squared distance of each row to its center.

    `0.5 * ||x - c||^2`, the summand of eq. (2) of Wen et al., "A Discriminative Feature Learning
    Approach for Deep Face Recognition", ECCV 2016. The gradient, `x - c`, reaches only the
    embeddings. Reduce the loss over the batch and choose its weight yourself.

    Args:
      embed_batch: floating `[B, D]`, or `[B, T, D]` where the static shape has three axes.
      embed_ctrs_batch: floating, of the same shape, as `get_embed_centers` returns it.
      name: name of the scope of the ops.

    Returns:
      `[B]`, or `[B, T]`, in the wider of the two dtypes; computed in at least float32. A difference
      that rounds to 0 in the dtype of the centers counts as 0.

    Raises:
      TypeError: an argument that is not of a floating dtype.
      ValueError: static shapes that differ, or of a rank other than 2 or 3.
      tf.errors.InvalidArgumentError: at run time, for shapes that differ.

    Examples:
      >>> tf.Session().run(center_loss([[1.0, 2.0]], [[4.0, -2.0]]))
      array([12.5], dtype=float32)
    """
    caller = "center_loss"
    with tf.name_scope(name, caller, [embed_batch, embed_ctrs_batch]):
        embeds = as_floats(caller, "embed_batch", embed_batch)
        ctrs = as_floats(caller, "embed_ctrs_batch", embed_ctrs_batch)
        axes = "BTD" if 3 in (embeds.shape.ndims, ctrs.shape.ndims) else "BD"
        pair = [Shaped("embed_batch", embeds, axes), Shaped("embed_ctrs_batch", ctrs, axes)]
        embeds, ctrs = check_shapes(Checks(caller), pair)
        # Squares of half precision overflow from 256 on.
        wide = tf.float64 if tf.float64 in (embeds.dtype, ctrs.dtype) else tf.float32
        dtype = embeds.dtype if embeds.dtype == ctrs.dtype else wide
        difference = tf.cast(embeds, wide) - tf.stop_gradient(tf.cast(ctrs, wide))
        if ctrs.dtype != dtype:
            # A masked row has its own embedding as its center, rounded to the dtype of the centers.
            rounded = tf.equal(tf.cast(embeds, ctrs.dtype), ctrs)
            difference = tf.where(rounded, tf.zeros_like(difference), difference)
        return tf.cast(0.5 * tf.reduce_sum(tf.square(difference), axis=-1), dtype)


@arguments.no_autograph
def center_distances(
    embed_batch: TensorLike, centers: CentersLike = "embed", name: Optional[str] = None
) -> tf.Tensor:
    """Squared Euclidean distance of each row to each center, by a matrix product.

    The gradient, `2 (x - c)`, reaches only the embeddings. The rounding error is that of
    `||x||^2 + ||c||^2`, about 1e-6 of it in float32, so a row on its center may get `1e-6 ||x||^2`
    instead of 0, but never less than 0. Half precision is computed in float32.

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
      >>> squares = center_distances([[3.0, 3.0]], ctrs)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(squares)
      array([[18.,  1.]], dtype=float32)
    """
    caller = "center_distances"
    with tf.name_scope(name, caller, [embed_batch]):
        table = find_table(caller, centers, counts="ignore")
        noted = notes("trainable")
        if table.shards[0].ctrs.trainable and table.name not in noted:
            noted[table.name] = caller
            tf.logging.warning(
                f"{caller}: {table.name} is trainable, but no gradient reaches it from here; only "
                "updates of the centers move it. Create it with trainable=False"
            )
        embeds = _as_rows(caller, embed_batch, table)
        squares = []
        for shard in table.shards:
            with on_machine_of(shard.ctrs):
                rows = tf.identity(embeds)
                scores = _scores(caller, rows, shard, 0, shard.ctrs.shape.as_list()[0])
                part = tf.reduce_sum(tf.square(rows), axis=1, keepdims=True) - 2.0 * scores
                # Clipped at 0, with the gradient of what is not clipped.
                squares.append(part + tf.stop_gradient(tf.nn.relu(-part)))
        return tf.cast(tf.concat(squares, axis=1), table.dtype)


@arguments.no_autograph
def nearest_centers(
    embed_batch: TensorLike, centers: CentersLike = "embed", k: int = 1, name: Optional[str] = None
) -> NearestCenters:
    """Finds the k classes whose centers have the smallest Euclidean distance to each row.

    If counts exist when this is built, classes never seen are left out. Equal distances are ordered
    by class. A row that is not finite has no nearest classes. The rounding error of
    `center_distances` decides between classes that nearly tie; use a float64 table if embeddings
    are much farther from the origin than from each other. Building takes 10 s a million classes.

    Args:
      embed_batch: floating `[B, D]`, cast to the dtype of the centers.
      centers: as in `get_embed_centers`.
      k: Python integer in [1, C].
      name: name of the scope of the ops.

    Returns:
      `NearestCenters(labels, distances)`. No gradient flows into either.

    Raises:
      TypeError: embeddings that are not floating.
      ValueError: k out of range, static shapes that do not fit, missing centers.
      tf.errors.InvalidArgumentError: at run time, for shapes that do not fit, centers not finite.

    Examples:
      >>> ctrs = tf.get_variable("ctrs", initializer=[[0.0, 0.0], [3.0, 4.0]])
      >>> found = nearest_centers([[3.0, 0.0]], ctrs, k=2)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(found)
      NearestCenters(labels=array([[0, 1]]), distances=array([[3., 4.]], dtype=float32))
    """
    caller = "nearest_centers"
    with tf.name_scope(name, caller, [embed_batch]):
        table = find_table(caller, centers)
        k = arguments.as_count(caller, "k", k, table.shape[0])
        embeds = _as_rows(caller, embed_batch, table)
        parts: List[Tuple[tf.Tensor, tf.Tensor]] = []
        for shard, start in zip(table.shards, table.starts):
            with on_machine_of(shard.ctrs):
                parts += _search(caller, tf.identity(embeds), shard, k, start)
        labels, scores = (tf.concat(part, axis=1) for part in zip(*parts))
        if len(parts) > 1:
            # Parts come in the order of their classes, and top_k takes the first of equals first.
            scores, places = tf.nn.top_k(scores, k)
            labels = tf.gather(labels, places, batch_dims=1)
        squares = tf.reduce_sum(tf.square(embeds), axis=1, keepdims=True) - 2.0 * scores
        found = squares < squares.dtype.max / 4
        labels = tf.where(found, labels, -tf.ones_like(labels))
        distances = tf.sqrt(tf.maximum(tf.where(found, squares, tf.ones_like(squares)), 0.0))
        # An infinity by division: a constant would stop tf.debugging.enable_check_numerics.
        distances = tf.cast(distances / tf.cast(found, distances.dtype), table.dtype)
        return NearestCenters(tf.stop_gradient(labels), tf.stop_gradient(distances))


def _search(
    caller: str, embeds: tf.Tensor, shard: EmbedCenters, k: int, first: int
) -> List[Tuple[tf.Tensor, tf.Tensor]]:
    """The labels and scores of the best k classes, or of all, in each block of a shard."""
    parts: List[Tuple[tf.Tensor, tf.Tensor]] = []
    num_classes = shard.ctrs.shape.as_list()[0]
    for start in range(0, num_classes, _BLOCK):
        stop = min(start + _BLOCK, num_classes)
        # One block after another: side by side they would hold the whole table.
        with tf.control_dependencies([scores for _, scores in parts[-1:]]):
            scores = _scores(caller, embeds, shard, start, stop, finite=True)
        scores, places = tf.nn.top_k(scores, min(k, stop - start))
        parts.append((tf.cast(places + (first + start), tf.int64), scores))
    return parts


def _scores(
    caller: str, embeds: tf.Tensor, shard: EmbedCenters, start: int, stop: int, finite: bool = False
) -> tf.Tensor:
    """The scores `[B, n]` of the classes [start, stop) of a shard, lowest for those never seen."""
    ctrs = tf.stop_gradient(tf.cast(read_range(shard.ctrs, start, stop), embeds.dtype))
    # On short rows, a product takes down to a third of the time of a sum.
    halves = tf.fill([ctrs.shape.as_list()[1], 1], tf.constant(0.5, ctrs.dtype))
    half_norms = tf.reshape(tf.matmul(tf.square(ctrs), halves), [-1])
    checks, known = Checks(caller), shard.ctrs.shape.as_list()[0]
    if stop - start == known:  # Parts are gathered, and have no other rows.
        # Counted by their values: TensorFlow's optimizer takes static shapes for granted, and a
        # graph that reads the shape of a variable cannot be frozen.
        are_values = tf.logical_or(half_norms >= 0, tf.is_nan(half_norms))
        found = tf.reduce_sum(tf.cast(are_values, tf.int32))
        expected = f"a table of {known} classes, as this graph knows it, found at run time"
        checks.require(lambda: tf.equal(found, known), expected, found)
        half_norms = checks.guard(half_norms)
    if finite:
        # A center that is not finite would spoil the ranks of the others.
        expected = f"centers whose squared norms are finite in {ctrs.dtype.name}"
        message = f"{caller}: expected {expected}, found one that is not in {shard.ctrs.name}"
        half_norms = tf.debugging.check_numerics(half_norms, message)
    if shard.counts is not None:
        # Classes never seen are put out of reach, at a distance that is finite. Not by an addition,
        # on which the TFLite converter of TensorFlow 1.15 fails.
        far = tf.fill(tf.shape(half_norms), tf.constant(ctrs.dtype.max / 4, ctrs.dtype))
        half_norms = tf.where(read_range(shard.counts, start, stop) > 0, half_norms, far)
    # TensorFlow fuses an addition of this kind with the product.
    return tf.nn.bias_add(tf.matmul(embeds, ctrs, transpose_b=True), -half_norms)


def _as_rows(caller: str, embed_batch: Any, table: Table) -> tf.Tensor:
    """Checks embeddings `[B, D]`; in the dtype of the table, or float32 where that is narrower."""
    embeds = Shaped("embed_batch", as_floats(caller, "embed_batch", embed_batch), "BD")
    (embeds,) = check_shapes(Checks(caller), [embeds], {"D": table.shape[1]})
    embeds = tf.cast(embeds, table.dtype)
    return embeds if table.dtype == tf.float64 else tf.cast(embeds, tf.float32)
