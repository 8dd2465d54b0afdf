"""The graph of softmax plus center loss around the network."""

import contextlib
from typing import Any, ContextManager, Dict, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf
from mnist_network import classify, embed_images
from mnist_run import Settings

import tf_centers

# Before the first moments of Adam and of batch normalisation are known, large steps do harm.
_WARM_UP_STEPS = 200.0


class Model(NamedTuple):
    """What is fed and fetched, for B rows of H x W images and D embedding dims."""

    images: tf.Tensor  # uint8 [B, H, W], fed
    labels: tf.Tensor  # int64 [B], fed
    is_training: tf.Tensor  # bool [], fed, False by default: the centers move where it is True
    step_seconds: tf.Tensor  # float64 [], fed, 0 by default: how long the step before took
    embed: tf.Tensor  # float32 [B, D]
    predictions: tf.Tensor  # int64 [B], of the softmax
    nearest: tf.Tensor  # [B], class of the nearest center
    losses: Dict[str, tf.Tensor]  # scalars
    train: tf.Tensor  # int64 [], one step of everything, and the global step after it
    global_step: tf.Variable
    train_seconds: tf.Variable  # float64 [], spent in training steps since step 0
    centers: tf_centers.EmbedCenters
    center_summary: tf.Tensor  # string [], of the centers, for TensorBoard
    forget_centers: tf.Operation
    average_centers: tf.Operation  # takes the fed rows into the plain means of their classes
    saver: tf.train.Saver


def make_updater(settings: Settings) -> Any:
    """The updater that --updater names; None for softmax alone."""
    makers = {
        "exponential": lambda: tf_centers.ExponentialWindow(settings.decay),
        "cumulative": tf_centers.CumulativeMean,
        "wen": lambda: tf_centers.WenUpdate(settings.alpha),
        "none": lambda: None,
    }
    return makers[settings.updater]()


def build_model(
    settings: Settings,
    image_shape: Tuple[int, int],
    num_classes: int,
    num_shards: Optional[int] = None,
) -> Model:
    """Adds the model for images [H, W] to the default graph; --seed fixes its initial values.

    Args:
      settings: the flags.
      image_shape: H and W.
      num_classes: C.
      num_shards: None for a process that trains alone; else the number of parameter servers, over
        which the rows of the centers are split, for several workers to update at once.
    """
    tf.set_random_seed(settings.seed)
    images = tf.placeholder(tf.uint8, [None, *image_shape], name="images")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    is_training = tf.placeholder_with_default(False, [], name="is_training")
    step_seconds = tf.placeholder_with_default(tf.zeros([], tf.float64), [], name="step_seconds")

    global_step = tf.train.get_or_create_global_step()
    embed = embed_images(settings.network, images, settings.embed_dims, is_training, global_step)
    logits = classify(embed, num_classes)
    with _sharded(num_shards):
        centers = tf_centers.create_embed_centers(num_classes, settings.embed_dims, scope="embed")
    use_locking = num_shards is not None
    updater = make_updater(settings)

    softmax_loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )
    losses = {"softmax_loss": softmax_loss, "total_loss": softmax_loss}
    if updater is not None:
        ctrs_rows = tf_centers.get_embed_centers(
            embed,
            labels,
            updater,
            centers,
            is_training=is_training,
            use_locking=use_locking,
        )
        losses["center_loss"] = tf.reduce_mean(tf_centers.center_loss(embed, ctrs_rows))
        losses["total_loss"] += settings.center_loss_weight * losses["center_loss"]

    rate = _learning_rate(settings, global_step)
    train_seconds = tf.get_variable(
        "train_seconds", [], tf.float64, tf.zeros_initializer(), trainable=False
    )
    optimizer = tf.train.AdamOptimizer(rate, use_locking=use_locking)
    applied = (
        optimizer.minimize(losses["total_loss"]),
        tf.assign_add(train_seconds, step_seconds, use_locking=use_locking),
        *tf.get_collection(tf.GraphKeys.UPDATE_OPS),
    )
    with tf.control_dependencies(applied):
        # Not by the optimizer, which adds without a lock: workers would lose each other's steps.
        train = tf.assign_add(global_step, 1, use_locking=use_locking)
    return Model(
        images=images,
        labels=labels,
        is_training=is_training,
        step_seconds=step_seconds,
        embed=embed,
        predictions=tf.argmax(logits, axis=1),
        nearest=tf_centers.nearest_centers(embed, centers, k=1).labels[:, 0],
        losses=losses,
        train=train,
        global_step=global_step,
        train_seconds=train_seconds,
        centers=centers,
        center_summary=tf_centers.summarize_centers(centers, name="centers"),
        forget_centers=tf.variables_initializer(tf.global_variables("embed/")),
        average_centers=tf_centers.update_embed_centers(
            embed, labels, tf_centers.CumulativeMean(), centers, use_locking=use_locking
        ),
        saver=tf.train.Saver(),
    )


def _learning_rate(settings: Settings, global_step: tf.Variable) -> tf.Tensor:
    """From near 0 up to --learning_rate, then to 0 along a cosine."""
    warm_up = tf.cast(global_step + 1, tf.float32) / _WARM_UP_STEPS
    rate = tf.train.cosine_decay(settings.learning_rate, global_step, settings.train_steps)
    return rate * tf.minimum(warm_up, 1.0)


def _sharded(num_shards: Optional[int]) -> ContextManager[Any]:
    if num_shards is None:
        return contextlib.nullcontext()
    # Not around the whole model: only the centers grow with the number of classes.
    return tf.variable_scope(
        tf.get_variable_scope(), partitioner=tf.fixed_size_partitioner(num_shards)
    )
