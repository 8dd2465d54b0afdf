"""The network, softmax plus center loss, and one training step, as a TensorFlow graph."""

from typing import Optional, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

import tf_centers
from mnist.config import Settings
from mnist.data import Batches, Digits

# Channels of the convolutions before each 2x2 max-pooling.
_LIGHT_STAGES = ((16, 16), (32, 32), (64,))
_LENET_STAGES = ((32, 32), (64, 64), (128, 128))
# Without a hidden layer before two dims, training starts slowly.
_LIGHT_HIDDEN = 64
# Large steps do harm until the averages of Adam and batch normalization have settled.
_WARM_UP_STEPS = 200.0


class Model:
    """The model in the default graph, with D embedding dims; --seed fixes its initial values.

    The graph itself chooses the batch of a step, by the global step that it reads. So nothing is
    fed to a step, and one that is repeated after its variables have been restored is that of the
    restored step. With parameter servers, the centers are split over them, and updates lock.

    `train` makes one step, and is the global step after it; `losses` are those of its batch. Of
    `images` that are fed, uint8 [M, H, W], `outputs` are the embeddings [M, D], softmax classes [M]
    and nearest centers [M].
    """

    def __init__(self, settings: Settings, digits: Digits, worker: int = 0, servers: int = 0):
        tf.set_random_seed(settings.seed)
        self.digits, self.is_chief = digits, worker == 0
        lock, shape = dict(use_locking=servers > 0), digits.train_images.shape[1:]
        # Not around the whole model: only the centers grow with the number of classes.
        partitioner = tf.fixed_size_partitioner(servers) if servers else None
        with tf.variable_scope(tf.get_variable_scope(), partitioner=partitioner):
            self.centers = tf_centers.create_embed_centers(digits.num_classes, settings.embed_dims)

        self.global_step, began = tf.train.get_or_create_global_step(), tf.timestamp()
        step = tf.identity(self.global_step)
        with tf.control_dependencies([began]):
            batches = Batches(digits, settings.batch_size, settings.seed, worker)
            batch, labels = tf.numpy_function(batches.at, [step], [tf.uint8, tf.int64])
        batch.set_shape([settings.batch_size, *shape])
        labels.set_shape([settings.batch_size])
        self.images = tf.placeholder(tf.uint8, [None, *shape], name="images")
        with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
            embed = embed_images(settings.network, batch, settings.embed_dims, step)
            logits = _dense(embed, digits.num_classes, "logits")
            output = embed_images(settings.network, self.images, settings.embed_dims)
            softmax_class = tf.argmax(_dense(output, digits.num_classes, "logits"), axis=1)
        loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
        self.losses = {"softmax_loss": loss}
        if settings.updater != "none":
            updater = {
                "exponential": tf_centers.ExponentialWindow(settings.decay),
                "cumulative": tf_centers.CumulativeMean(),
                "wen": tf_centers.WenUpdate(settings.alpha),
            }[settings.updater]
            rows = tf_centers.get_embed_centers(embed, labels, updater, self.centers, **lock)
            self.losses["center_loss"] = tf.reduce_mean(tf_centers.center_loss(embed, rows))
            loss += settings.center_loss_weight * self.losses["center_loss"]
        self.losses["total_loss"] = loss
        nearest = tf_centers.nearest_centers(output, self.centers, k=1).labels[:, 0]
        self.outputs = output, softmax_class, nearest
        self.center_summary = tf_centers.summarize_centers(self.centers, name="centers")
        summaries = [tf.summary.scalar(f"train/{name}", self.losses[name]) for name in self.losses]
        summaries += [self.center_summary] if settings.updater != "none" else []
        self.summary = tf.summary.merge(summaries)

        warm_up = tf.minimum(1.0, tf.cast(step + 1, tf.float32) / _WARM_UP_STEPS)
        rate = tf.train.cosine_decay(settings.learning_rate, step, settings.train_steps)
        updates = [tf.train.AdamOptimizer(warm_up * rate, **lock).minimize(loss)]
        updates += tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        self.train_seconds = tf.Variable(np.float64(0), trainable=False, name="train_seconds")
        if self.is_chief:  # One clock is enough.
            with tf.control_dependencies(updates):
                seconds = tf.timestamp() - began
            updates.append(tf.assign_add(self.train_seconds, seconds, **lock))
        with tf.control_dependencies(updates):
            # Not by the optimizer, which does not lock, so that workers would lose steps.
            self.train = tf.assign_add(self.global_step, 1, **lock)
        self.saver = tf.train.Saver()


def embed_images(
    network: str, images: tf.Tensor, embed_dims: int, step: Optional[tf.Tensor] = None
) -> tf.Tensor:
    """Maps uint8 images [B, H, W] to float32 embeddings [B, embed_dims].

    light has batch normalization and a hidden layer; lenet_pp is LeNets++ of Wen et al., ECCV 2016,
    table 1: 5x5 convolutions, PReLU, max-pooling.

    With a step, normalizes by the batch, and adds updates of the averages to `UPDATE_OPS`; without
    one, by the averages.
    """
    is_light = network == "light"
    stages, size = (_LIGHT_STAGES, 3) if is_light else (_LENET_STAGES, 5)
    hidden = tf.cast(images, tf.float32)[..., tf.newaxis] / 255.0
    for stage, widths in enumerate(stages, start=1):
        for layer, channels in enumerate(widths, start=1):
            with tf.variable_scope(f"conv{stage}_{layer}"):
                kernel = _kernel([size, size, int(hidden.shape[-1]), channels])
                hidden = tf.nn.conv2d(hidden, kernel, [1, 1, 1, 1], "SAME")
                if not is_light:
                    raw = tf.nn.bias_add(hidden, _variable("offset", [channels], 0.0))
                    slope = _variable("slope", [channels], 0.25)
                    hidden = tf.maximum(raw, 0.0) + slope * tf.minimum(raw, 0.0)
                if layer == len(widths):
                    # SAME pools 7x7 to 4x4, as the paper does, and leaves a pixel of any image.
                    hidden = tf.nn.max_pool(hidden, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
                if is_light:  # After pooling it is a quarter of the work.
                    hidden = tf.nn.leaky_relu(_normalize(hidden, step), 0.1)
    hidden = tf.reshape(hidden, [-1, int(np.prod(hidden.shape.as_list()[1:]))])
    if is_light:
        with tf.variable_scope("hidden"):
            hidden = tf.matmul(hidden, _kernel([int(hidden.shape[-1]), _LIGHT_HIDDEN]))
            hidden = tf.nn.leaky_relu(_normalize(hidden, step), 0.1)
    return _dense(hidden, embed_dims, "embedding")


def _normalize(hidden: tf.Tensor, step: Optional[tf.Tensor]) -> tf.Tensor:
    """Batch normalization of the last axis (Ioffe and Szegedy, ICML 2015, algorithms 1 and 2)."""
    shape = [int(hidden.shape[-1])]
    scale, offset = _variable("scale", shape, 1.0), _variable("offset", shape, 0.0)
    mean = _variable("mean", shape, 0.0, trainable=False)
    variance = _variable("variance", shape, 1.0, trainable=False)
    maps = hidden if hidden.shape.ndims == 4 else hidden[:, tf.newaxis, tf.newaxis, :]
    averages = dict(mean=mean, variance=variance, is_training=False) if step is None else {}
    normalized, *moments = tf.nn.fused_batch_norm(maps, scale, offset, **averages)[:3]
    if step is not None:
        # Averages over the last fifth of the steps so far, 100 at most: early weights change fast.
        rate = tf.maximum(0.01, 5.0 / (5.0 + tf.cast(step, tf.float32)))
        for average, moment in zip((mean, variance), moments):
            update = tf.assign_sub(average, rate * (average - moment))
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update.op)
    return normalized if hidden.shape.ndims == 4 else normalized[:, 0, 0, :]


def _dense(hidden: tf.Tensor, num_outputs: int, scope: str) -> tf.Tensor:
    with tf.variable_scope(scope):
        kernel = _kernel([int(hidden.shape[-1]), num_outputs])
        return tf.matmul(hidden, kernel) + _variable("offset", [num_outputs], 0.0)


def _kernel(shape: Sequence[int]) -> tf.Variable:
    return tf.get_variable("kernel", shape, initializer=tf.variance_scaling_initializer(scale=2.0))


def _variable(name: str, shape: Sequence[int], value: float, trainable: bool = True) -> tf.Variable:
    initializer = tf.constant_initializer(value)
    return tf.get_variable(name, shape, initializer=initializer, trainable=trainable)
