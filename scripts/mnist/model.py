"""The network, softmax plus center loss, and one training step, as a TensorFlow graph."""

from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple

import tensorflow.compat.v1 as tf

import tf_centers
from mnist.config import Settings

# Channels of the convolutions before each 2x2 max-pooling.
_LIGHT_STAGES = ((16, 16), (32, 32), (64,))
_LENET_STAGES = ((32, 32), (64, 64), (128, 128))
# Without a hidden layer before two dims, training starts slowly.
_LIGHT_HIDDEN = 64
# Large steps do harm until the averages of Adam and batch normalization have settled.
_WARM_UP_STEPS = 200.0

Layer = Callable[[tf.Tensor], tf.Tensor]


class Model(NamedTuple):
    """What is fed and fetched, for B rows of H x W images and D embedding dims."""

    images: tf.Tensor  # uint8 [B, H, W], fed
    labels: tf.Tensor  # int64 [B], fed
    is_training: tf.Tensor  # bool [], fed, False by default; centers are updated where it is True
    step_seconds: tf.Tensor  # float64 [], fed, 0 by default: how long the previous step took
    outputs: Tuple[tf.Tensor, ...]  # embeddings [B, D], softmax class [B], nearest center [B]
    losses: Dict[str, tf.Tensor]  # scalars
    train: tf.Tensor  # int64 [], makes one step; the global step after it
    global_step: tf.Variable
    train_seconds: tf.Variable  # float64 [], spent in training steps since step 0
    centers: tf_centers.EmbedCenters
    center_summary: tf.Tensor  # string [], of the centers, for TensorBoard
    reset_centers: tf.Operation
    average_centers: tf.Operation  # adds the fed rows to the means of their classes
    saver: tf.train.Saver


def build_model(
    settings: Settings, image_shape: Tuple[int, int], num_classes: int, num_shards: int = 0
) -> Model:
    """Adds the model for images [H, W] to the default graph; --seed fixes its initial values.

    `num_shards` is the number of parameter servers that the centers are split over, 0 without a
    cluster.
    """
    tf.set_random_seed(settings.seed)
    images = tf.placeholder(tf.uint8, [None, *image_shape], name="images")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    is_training = tf.placeholder_with_default(False, [], name="is_training")
    step_seconds = tf.placeholder_with_default(tf.zeros([], tf.float64), [], name="step_seconds")
    global_step = tf.train.get_or_create_global_step()
    use_locking = num_shards > 0

    embed = embed_images(settings.network, images, settings.embed_dims, is_training, global_step)
    logits = _dense(embed, num_classes, "logits")
    # Not around the whole model: only the centers grow with the number of classes.
    partitioner = tf.fixed_size_partitioner(num_shards) if num_shards else None
    with tf.variable_scope(tf.get_variable_scope(), partitioner=partitioner):
        centers = tf_centers.create_embed_centers(num_classes, settings.embed_dims, scope="embed")

    softmax_loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )
    losses = {"softmax_loss": softmax_loss, "total_loss": softmax_loss}
    updater = {
        "exponential": tf_centers.ExponentialWindow(settings.decay),
        "cumulative": tf_centers.CumulativeMean(),
        "wen": tf_centers.WenUpdate(settings.alpha),
        "none": None,
    }[settings.updater]
    if updater is not None:
        ctrs_rows = tf_centers.get_embed_centers(
            embed, labels, updater, centers, is_training=is_training, use_locking=use_locking
        )
        losses["center_loss"] = tf.reduce_mean(tf_centers.center_loss(embed, ctrs_rows))
        losses["total_loss"] += settings.center_loss_weight * losses["center_loss"]

    zero = tf.zeros_initializer()
    train_seconds = tf.get_variable("train_seconds", [], tf.float64, zero, trainable=False)
    warm_up = tf.minimum(1.0, tf.cast(global_step + 1, tf.float32) / _WARM_UP_STEPS)
    rate = tf.train.cosine_decay(settings.learning_rate, global_step, settings.train_steps)
    optimizer = tf.train.AdamOptimizer(warm_up * rate, use_locking=use_locking)
    updates = [
        optimizer.minimize(losses["total_loss"]),
        tf.assign_add(train_seconds, step_seconds, use_locking=use_locking),
        *tf.get_collection(tf.GraphKeys.UPDATE_OPS),
    ]
    with tf.control_dependencies(updates):
        # Not by the optimizer, which does not lock, so that workers would lose steps.
        train = tf.assign_add(global_step, 1, use_locking=use_locking)
    nearest = tf_centers.nearest_centers(embed, centers, k=1)
    return Model(
        images=images,
        labels=labels,
        is_training=is_training,
        step_seconds=step_seconds,
        outputs=(embed, tf.argmax(logits, axis=1), nearest.labels[:, 0]),
        losses=losses,
        train=train,
        global_step=global_step,
        train_seconds=train_seconds,
        centers=centers,
        center_summary=tf_centers.summarize_centers(centers, name="centers"),
        reset_centers=tf.variables_initializer(tf.global_variables("embed/")),
        average_centers=tf_centers.update_embed_centers(
            embed, labels, tf_centers.CumulativeMean(), centers, use_locking=use_locking
        ),
        saver=tf.train.Saver(),
    )


def embed_images(
    network: str, images: tf.Tensor, embed_dims: int, is_training: tf.Tensor, step: tf.Tensor
) -> tf.Tensor:
    """Maps uint8 images [B, H, W] to float32 embeddings [B, embed_dims]; adds to `UPDATE_OPS`."""
    hidden = tf.cast(images, tf.float32)[..., tf.newaxis] / 255.0
    if network == "lenet_pp":
        return _dense(_lenet_pp(hidden), embed_dims, "embedding")

    def finish(raw: tf.Tensor) -> tf.Tensor:
        return tf.nn.leaky_relu(_normalize(raw, is_training, step), 0.1)

    # Pooling before normalization makes the latter a quarter of the work.
    hidden = _convolve(hidden, _LIGHT_STAGES, 3, finish, lambda raw: finish(_pool(raw)))
    with tf.variable_scope("hidden"):
        hidden = finish(tf.matmul(hidden, _kernel([int(hidden.shape[-1]), _LIGHT_HIDDEN])))
    return _dense(hidden, embed_dims, "embedding")


def _lenet_pp(hidden: tf.Tensor) -> tf.Tensor:
    """LeNets++ of Wen et al., ECCV 2016, table 1: 5x5 convolutions, PReLU, max-pooling."""

    def finish(raw: tf.Tensor) -> tf.Tensor:
        channels = int(raw.shape[-1])
        raw = tf.nn.bias_add(raw, _offset(channels))
        slope = tf.get_variable("slope", [channels], initializer=tf.constant_initializer(0.25))
        return tf.maximum(raw, 0.0) + slope * tf.minimum(raw, 0.0)

    return _convolve(hidden, _LENET_STAGES, 5, finish, lambda raw: _pool(finish(raw)))


def _convolve(
    hidden: tf.Tensor, stages: Sequence[Sequence[int]], size: int, finish: Layer, finish_last: Layer
) -> tf.Tensor:
    """Convolutions, each followed by `finish`, the last of a stage by `finish_last`; flattened."""
    for stage, widths in enumerate(stages, start=1):
        for layer, channels in enumerate(widths, start=1):
            with tf.variable_scope(f"conv{stage}_{layer}"):
                kernel = _kernel([size, size, int(hidden.shape[-1]), channels])
                hidden = tf.nn.conv2d(hidden, kernel, [1, 1, 1, 1], "SAME")
                hidden = (finish_last if layer == len(widths) else finish)(hidden)
    _, height, width, channels = hidden.shape.as_list()
    return tf.reshape(hidden, [-1, height * width * channels])


def _pool(hidden: tf.Tensor) -> tf.Tensor:
    # SAME padding pools 7x7 to 4x4, as the paper does, and leaves at least one pixel of any image.
    return tf.nn.max_pool(hidden, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")


def _normalize(hidden: tf.Tensor, is_training: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """Batch normalization of the last axis (Ioffe and Szegedy, ICML 2015, algorithms 1 and 2)."""
    zeros, ones, shape = tf.zeros_initializer(), tf.ones_initializer(), [int(hidden.shape[-1])]
    scale, offset = tf.get_variable("scale", shape, initializer=ones), _offset(shape[0])
    mean = tf.get_variable("mean", shape, initializer=zeros, trainable=False)
    variance = tf.get_variable("variance", shape, initializer=ones, trainable=False)
    maps = hidden if hidden.shape.ndims == 4 else hidden[:, tf.newaxis, tf.newaxis, :]

    def by_batch() -> Tuple[Any, Any, Any]:
        return tuple(tf.nn.fused_batch_norm(maps, scale, offset)[:3])

    def by_averages() -> Tuple[Any, Any, Any]:
        given = tf.nn.fused_batch_norm(maps, scale, offset, mean, variance, is_training=False)
        return given[0], tf.identity(mean), tf.identity(variance)

    normalized, *moments = tf.cond(is_training, by_batch, by_averages)
    # Averages over the last fifth of the steps so far, 100 at most: early weights change fast.
    rate = tf.maximum(0.01, 5.0 / (5.0 + tf.cast(step, tf.float32)))
    for average, moment in zip((mean, variance), moments):
        update = tf.assign_sub(average, rate * (average - moment))
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, update.op)
    return normalized if hidden.shape.ndims == 4 else normalized[:, 0, 0, :]


def _dense(hidden: tf.Tensor, num_outputs: int, scope: str) -> tf.Tensor:
    with tf.variable_scope(scope):
        kernel = _kernel([int(hidden.shape[-1]), num_outputs])
        return tf.matmul(hidden, kernel) + _offset(num_outputs)


def _kernel(shape: Sequence[int]) -> tf.Variable:
    return tf.get_variable("kernel", shape, initializer=tf.variance_scaling_initializer(scale=2.0))


def _offset(channels: int) -> tf.Variable:
    return tf.get_variable("offset", [channels], initializer=tf.zeros_initializer())
