"""Losses on embeddings and their centers, per row."""

from typing import Any, Optional

import tensorflow.compat.v1 as tf

from tf_centers.arguments import no_autograph
from tf_centers.checks import Checks, Shaped, as_floats, check_shapes


@no_autograph
def center_loss(embed_batch: Any, embed_ctrs_batch: Any, name: Optional[str] = None) -> tf.Tensor:
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
