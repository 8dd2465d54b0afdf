"""A light convolutional network for small grey images, in plain `tf.nn` ops."""

import tensorflow.compat.v1 as tf

# Channels of the 3x3 convolutions before each 2x2 max-pooling.
_STAGES = ((16, 16), (32, 32), (64,))


def embed_images(images: tf.Tensor, embed_dims: int) -> tf.Tensor:
    """Maps uint8 images [B, H, W] with static H and W to float32 embeddings [B, embed_dims]."""
    hidden = tf.cast(images, tf.float32)[..., tf.newaxis] / 255.0
    for stage, widths in enumerate(_STAGES, start=1):
        for layer, channels in enumerate(widths, start=1):
            pooled = layer == len(widths)
            hidden = _convolve(hidden, channels, pooled, f"conv{stage}_{layer}")
    _, height, width, channels = hidden.shape.as_list()
    return _dense(tf.reshape(hidden, [-1, height * width * channels]), embed_dims, "embedding")


def classify(embed: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Maps embeddings [B, D] to logits [B, num_classes]."""
    return _dense(embed, num_classes, "logits")


def _convolve(hidden: tf.Tensor, channels: int, pooled: bool, scope: str) -> tf.Tensor:
    with tf.variable_scope(scope):
        shape = [3, 3, int(hidden.shape[-1]), channels]
        kernel = tf.get_variable("kernel", shape, initializer=_he_normal())
        bias = tf.get_variable("bias", [channels], initializer=tf.zeros_initializer())
        hidden = tf.nn.bias_add(tf.nn.conv2d(hidden, kernel, [1, 1, 1, 1], "SAME"), bias)
        if pooled:
            # Before the activation, which is then a quarter of the work and gives the same. SAME
            # padding leaves at least one pixel of any image, however small.
            hidden = tf.nn.max_pool(hidden, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
        return tf.nn.relu(hidden)


def _dense(hidden: tf.Tensor, num_outputs: int, scope: str) -> tf.Tensor:
    with tf.variable_scope(scope):
        shape = [int(hidden.shape[-1]), num_outputs]
        kernel = tf.get_variable("kernel", shape, initializer=_he_normal())
        bias = tf.get_variable("bias", [num_outputs], initializer=tf.zeros_initializer())
        return tf.matmul(hidden, kernel) + bias


def _he_normal() -> tf.Tensor:
    return tf.variance_scaling_initializer(scale=2.0)
