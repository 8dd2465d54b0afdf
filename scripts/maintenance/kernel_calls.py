"""The graphs of every call on tensors: what a GPU would be asked to run."""

import functools
import itertools
from typing import Iterator, NamedTuple

import tensorflow.compat.v1 as tf

import tf_centers

_SIZE = (13, 5)
_SHARDS = 2
_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_LABEL_DTYPES = (tf.int32, tf.int64)
_OTHER_LABEL_DTYPES = (tf.int8, tf.int16, tf.uint8, tf.uint16, tf.uint32, tf.uint64)


class Setting(NamedTuple):
    """What the calls of one graph have in common."""

    num_classes: int
    num_dims: int
    dtype: tf.DType
    label_dtype: tf.DType
    use_resource: bool
    shards: int = 1
    use_locking: bool = False


def settings() -> Iterator[Setting]:
    """Whole tables, and tables in shards with and without locks."""
    dtypes = itertools.product(_DTYPES, _LABEL_DTYPES, (False, True))
    for dtype, label_dtype, use_resource in dtypes:
        yield Setting(*_SIZE, dtype, label_dtype, use_resource)
        for use_locking in (False, True):
            yield Setting(*_SIZE, dtype, label_dtype, use_resource, _SHARDS, use_locking)
    for label_dtype in _OTHER_LABEL_DTYPES:  # cast to int64 before anything else
        yield Setting(*_SIZE, tf.float32, label_dtype, use_resource=True)


def build_calls(setting: Setting) -> None:
    """Builds every call in the default graph, on batches of unknown size."""
    embeds = tf.placeholder(setting.dtype, [None, setting.num_dims], name="embeds")
    labels = tf.placeholder(setting.label_dtype, [None], name="labels")
    mask = tf.placeholder(tf.bool, [None], name="mask")
    training = tf.placeholder(tf.bool, [], name="training")
    rate = tf.placeholder(tf.float32, [], name="rate")
    partitioner = None if setting.shards == 1 else tf.fixed_size_partitioner(setting.shards)
    with tf.variable_scope("", use_resource=setting.use_resource, partitioner=partitioner):
        centers = tf_centers.create_embed_centers(
            setting.num_classes, setting.num_dims, dtype=setting.dtype
        )
    mean, window = tf_centers.CumulativeMean(), tf_centers.ExponentialWindow(rate)

    get = functools.partial(
        tf_centers.get_embed_centers,
        embeds,
        labels,
        centers=centers,
        use_locking=setting.use_locking,
    )
    get(mean, mask=mask, is_training=training)
    get(window, mask=mask, is_training=training, read="before")
    get(is_training=False, mask=mask)
    if setting.shards == 1:
        # What an updater is does not depend on where the rows go, nor on whether it reads before.
        get(mean)
        get(window, read="before")
        get(tf_centers.ExponentialWindow(0.9, debias=True))
        get(tf_centers.ExponentialWindow(0.9, duplicates="mean"))
        get(tf_centers.ExponentialWindow(0.9, duplicates="sum"))
        get(tf_centers.WenUpdate(rate))
        tf.gradients(get(window, mask=mask, stop_gradient=False), embeds)
        steps = tf.placeholder(setting.dtype, [None, None, setting.num_dims], name="steps")
        step_labels = tf.placeholder(setting.label_dtype, [None, None], name="step_labels")
        step_mask = tf.placeholder(tf.bool, [None, None], name="step_mask")
        tf_centers.get_embed_centers(steps, step_labels, mean, centers, step_mask)
    tf_centers.update_embed_centers(
        embeds, labels, mean, centers, use_locking=setting.use_locking, name="update"
    )
    rows = tf_centers.lookup_embed_centers(labels, centers)
    tf.gradients(tf_centers.center_loss(embeds, rows), embeds)
    tf_centers.nearest_centers(embeds, centers, k=2)
    tf.gradients(tf_centers.center_distances(embeds, centers), embeds)


def holds_rows(tensor: tf.Tensor) -> bool:
    """Whether a tensor is a table, a handle of one, or as large as a batch `[B, D]`.

    What has a row per row of the batch and more than one column, or a shape that is not known.
    """
    if tensor.dtype.base_dtype == tf.resource or tensor.dtype != tensor.dtype.base_dtype:
        return True
    if tensor.shape.ndims is None:
        return True
    return tensor.shape.ndims >= 2
