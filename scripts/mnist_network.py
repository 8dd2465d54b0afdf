"""The networks: small grey images to embeddings, and embeddings to logits, in plain `tf.nn` ops."""

from typing import Any, Callable, Dict, Tuple

import tensorflow.compat.v1 as tf
from mnist_run import NETWORKS

# Channels of the convolutions before each 2x2 max-pooling.
_LIGHT_STAGES = ((16, 16), (32, 32), (64,))
_LENET_STAGES = ((32, 32), (64, 64), (128, 128))
# Straight from the last feature map to two dims, training is slow to find its way.
_LIGHT_HIDDEN = 64
_LEAK = 0.1
# The moments that normalise at test time are averages over about so many steps at most, and over
# the last fifth of those so far: early weights change fast, and so do what they give rise to.
_MOST_STEPS = 100.0
_SHARE_OF_STEPS = 5.0

Layer = Callable[[tf.Tensor], tf.Tensor]


def embed_images(
    network: str, images: tf.Tensor, embed_dims: int, is_training: tf.Tensor, step: tf.Tensor
) -> tf.Tensor:
    """Maps images to embeddings.

    Args:
      network: "light" or "lenet_pp".
      images: uint8 [B, H, W] with static H and W.
      embed_dims: D.
      is_training: bool []; true where batches are to be normalised by their own moments. The ops
        that follow these moments are then in `tf.GraphKeys.UPDATE_OPS`.
      step: integer [], how many steps training has made.

    Returns:
      float32 [B, D].
    """

    def normalize(raw: tf.Tensor) -> tf.Tensor:
        return _normalize(raw, is_training, step)

    networks: Dict[str, Callable[[tf.Tensor, int, Layer], tf.Tensor]]
    networks = dict(zip(NETWORKS, (_light, _lenet_pp)))
    hidden = tf.cast(images, tf.float32)[..., tf.newaxis] / 255.0
    return networks[network](hidden, embed_dims, normalize)


def classify(embed: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Maps embeddings [B, D] to logits [B, num_classes]."""
    return _dense(embed, num_classes, "logits")


def _light(hidden: tf.Tensor, embed_dims: int, normalize: Layer) -> tf.Tensor:
    """3x3 convolutions and a hidden layer, with batch normalisation; the embedding is linear."""

    def finish(raw: tf.Tensor) -> tf.Tensor:
        return tf.nn.leaky_relu(normalize(raw), _LEAK)

    # Pooled before they are normalised, which is then a quarter of the work.
    hidden = _flatten(
        _convolve_in_stages(
            hidden,
            _LIGHT_STAGES,
            3,
            finish=finish,
            finish_last=lambda raw: finish(_pool(raw)),
        )
    )
    with tf.variable_scope("hidden"):
        hidden = finish(tf.matmul(hidden, _kernel([int(hidden.shape[-1]), _LIGHT_HIDDEN])))
    return _dense(hidden, embed_dims, "embedding")


def _lenet_pp(hidden: tf.Tensor, embed_dims: int, normalize: Layer) -> tf.Tensor:
    """LeNets++ of Wen et al., ECCV 2016, table 1: 5x5 convolutions, PReLU, max-pooling.

    Its 7x7 map is pooled to 4x4, since Caffe rounds sizes up, as SAME padding does.
    """
    del normalize

    def finish(raw: tf.Tensor) -> tf.Tensor:
        return _prelu(tf.nn.bias_add(raw, _offset(int(raw.shape[-1]))))

    hidden = _convolve_in_stages(
        hidden,
        _LENET_STAGES,
        5,
        finish=finish,
        finish_last=lambda raw: _pool(finish(raw)),
    )
    return _dense(_flatten(hidden), embed_dims, "embedding")


def _convolve_in_stages(
    hidden: tf.Tensor,
    stages: Tuple[Tuple[int, ...], ...],
    size: int,
    finish: Layer,
    finish_last: Layer,
) -> tf.Tensor:
    """Convolutions of `size` x `size`, and what follows each of them, and the last of a stage."""
    for stage, widths in enumerate(stages, start=1):
        for layer, channels in enumerate(widths, start=1):
            with tf.variable_scope(f"conv{stage}_{layer}"):
                kernel = _kernel([size, size, int(hidden.shape[-1]), channels])
                hidden = tf.nn.conv2d(hidden, kernel, [1, 1, 1, 1], "SAME")
                hidden = (finish_last if layer == len(widths) else finish)(hidden)
    return hidden


def _pool(hidden: tf.Tensor) -> tf.Tensor:
    # SAME padding leaves at least one pixel of any image, however small.
    return tf.nn.max_pool(hidden, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")


def _normalize(hidden: tf.Tensor, is_training: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Batch normalisation of the last axis (Ioffe and Szegedy, ICML 2015, algorithms 1 and 2)."""
    channels = int(hidden.shape[-1])
    scale = tf.get_variable("scale", [channels], initializer=tf.ones_initializer())
    offset = _offset(channels)
    mean = tf.get_variable("mean", [channels], initializer=tf.zeros_initializer(), trainable=False)
    variance = tf.get_variable(
        "variance", [channels], initializer=tf.ones_initializer(), trainable=False
    )
    maps = hidden if hidden.shape.ndims == 4 else hidden[:, tf.newaxis, tf.newaxis, :]

    def by_batch() -> Tuple[Any, Any, Any]:
        return tuple(tf.nn.fused_batch_norm(maps, scale, offset, epsilon=1e-3)[:3])

    def by_moments() -> Tuple[Any, Any, Any]:
        normalized = tf.nn.fused_batch_norm(
            maps, scale, offset, mean, variance, epsilon=1e-3, is_training=False
        )[0]
        return normalized, tf.identity(mean), tf.identity(variance)

    normalized, batch_mean, batch_variance = tf.cond(is_training, by_batch, by_moments)
    # 1 at first, so that the initial values are forgotten.
    steps = _SHARE_OF_STEPS + tf.cast(step, tf.float32)
    rate = tf.maximum(1.0 / _MOST_STEPS, _SHARE_OF_STEPS / steps)
    for moment, found in ((mean, batch_mean), (variance, batch_variance)):
        follow = tf.assign_sub(moment, rate * (moment - found))
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, follow.op)
    return normalized if hidden.shape.ndims == 4 else normalized[:, 0, 0, :]


def _prelu(raw: tf.Tensor) -> tf.Tensor:
    slope = tf.get_variable(
        "slope", [int(raw.shape[-1])], initializer=tf.constant_initializer(0.25)
    )
    return tf.maximum(raw, 0.0) + slope * tf.minimum(raw, 0.0)


def _flatten(hidden: tf.Tensor) -> tf.Tensor:
    _, height, width, channels = hidden.shape.as_list()
    return tf.reshape(hidden, [-1, height * width * channels])


def _dense(hidden: tf.Tensor, num_outputs: int, scope: str) -> tf.Tensor:
    with tf.variable_scope(scope):
        kernel = _kernel([int(hidden.shape[-1]), num_outputs])
        return tf.matmul(hidden, kernel) + _offset(num_outputs)


def _kernel(shape: Any) -> tf.Variable:
    return tf.get_variable("kernel", shape, initializer=tf.variance_scaling_initializer(scale=2.0))


def _offset(channels: int) -> tf.Variable:
    return tf.get_variable("offset", [channels], initializer=tf.zeros_initializer())
