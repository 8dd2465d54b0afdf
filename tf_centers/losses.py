"""Losses on embeddings and their centers, per row."""

from typing import Any, Optional

import tensorflow.compat.v1 as tf

from tf_centers import arguments, checks
from tf_centers.arguments import as_written


@as_written
def center_loss(embed_batch: Any, embed_ctrs_batch: Any, name: Optional[str] = None) -> tf.Tensor:
    """Half the squared distance of each row to its center.

    `0.5 * ||x - c||^2`. Its gradient is `x - c`, and reaches only the embeddings. Reduce it over
    the batch and choose its weight yourself. It is the summand of eq. (2) of Wen et al., "A
    Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016.

    Args:
      embed_batch: floating `[B, D]`.
      embed_ctrs_batch: floating `[B, D]`, as `get_embed_centers` returns it for the batch.
      name: name of the scope of the ops.

    Returns:
      `[B]`, in the wider of the two dtypes; computed in at least float32.

    Raises:
      TypeError: an argument that is not of a floating dtype.
      ValueError: a rank other than 2, or static shapes that differ.
      tf.errors.InvalidArgumentError: at run time, for shapes that differ.

    Examples:
      >>> embeds, ctrs = tf.constant([[1.0, 2.0]]), tf.constant([[4.0, -2.0]])
      >>> tf.Session().run(center_loss(embeds, ctrs))
      array([12.5], dtype=float32)
    """
    caller = "center_loss"
    with tf.name_scope(name, caller, [embed_batch, embed_ctrs_batch]):
        embeds = arguments.as_floats(caller, "embed_batch", embed_batch)
        ctrs = arguments.as_floats(caller, "embed_ctrs_batch", embed_ctrs_batch)
        embeds, ctrs = checks.same_shape(
            checks.Checks(caller), ("embed_batch", embeds), ("embed_ctrs_batch", ctrs)
        )
        dtype = _wider(embeds.dtype, ctrs.dtype)
        # Squares of half precision overflow from 256 on.
        wide = _wider(dtype, tf.float32)
        difference = tf.cast(embeds, wide) - tf.stop_gradient(tf.cast(ctrs, wide))
        return tf.cast(0.5 * tf.reduce_sum(tf.square(difference), axis=1), dtype)


def _wider(one: tf.DType, other: tf.DType) -> tf.DType:
    if one == other:
        return one
    # float16 and bfloat16 are equally wide, and neither holds the other.
    return tf.float32 if one.size == other.size else max(one, other, key=lambda d: d.size)
