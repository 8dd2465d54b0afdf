"""What `benchmark.py` times: this package, and the formulations found elsewhere.

Each builder takes `ctrs [C, D]`, `embeds [B, D]` and `labels [B]`, and returns the rows after the
update `[B, D]`.
"""

from typing import Any, Callable, Dict

import tensorflow.compat.v1 as tf

import tf_centers

_DECAY = 0.95
_ALPHA = 0.5
# One-hot matrices of more elements than this are not worth waiting for.
_MOST_ONE_HOT = 2 * 10**7

Builder = Callable[[Any, tf.Tensor, tf.Tensor], tf.Tensor]

BASELINE = "recipe"


def builders(num_classes: int, batch_size: int) -> Dict[str, Builder]:
    """The contenders that make sense at this size, by name; the baseline is the first."""
    found = {
        BASELINE: _recipe,
        "ExponentialWindow": _ours(tf_centers.ExponentialWindow(_DECAY)),
        "CumulativeMean": _ours(tf_centers.CumulativeMean()),
        "WenUpdate": _ours(tf_centers.WenUpdate(_ALPHA)),
        "eq. (4) by scatter_sub": _equation_4,
    }
    if num_classes * batch_size <= _MOST_ONE_HOT:
        found["dense one-hot"] = _dense
    return found


def torch_step(num_classes: int, embeds: Any, labels: Any, threads: int) -> Any:
    """The recipe with PyTorch's `index_add_`, as a function to call; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(threads)
    ctrs = torch.zeros([num_classes, embeds.shape[1]])
    rows, index = torch.from_numpy(embeds), torch.from_numpy(labels)

    def step() -> Any:
        ctrs.index_add_(0, index, (rows - ctrs[index]) * (1 - _DECAY))
        return ctrs[index]

    return step


def _ours(updater: Any) -> Builder:
    def build(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        return tf_centers.get_embed_centers(embeds, labels, updater, ctrs)

    return build


def _recipe(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    # As it circulates, but ordered by hand, without which it never moves.
    old = tf.gather(ctrs, labels)
    update = tf.scatter_sub(ctrs, labels, (1 - _DECAY) * (old - embeds))
    with tf.control_dependencies([update.op]):
        return tf.gather(ctrs, labels)


def _equation_4(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    old = tf.gather(ctrs, labels)
    _, index, sizes = tf.unique_with_counts(labels)
    weights = _ALPHA / (1.0 + tf.cast(tf.gather(sizes, index), tf.float32))
    update = tf.scatter_sub(ctrs, labels, tf.expand_dims(weights, 1) * (old - embeds))
    with tf.control_dependencies([update.op]):
        return tf.gather(ctrs, labels)


def _dense(ctrs: Any, embeds: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    # What codebooks with moving averages do: sums and sizes of every class, present or not.
    one_hot = tf.one_hot(labels, ctrs.shape.as_list()[0])
    sizes = tf.expand_dims(tf.reduce_sum(one_hot, axis=0), 1)
    means = tf.math.divide_no_nan(tf.matmul(one_hot, embeds, transpose_a=True), sizes)
    step = (1 - _DECAY) * tf.cast(sizes > 0, tf.float32) * (ctrs - means)
    update = tf.assign_sub(ctrs, step)
    with tf.control_dependencies([update.op]):
        return tf.gather(ctrs, labels)
