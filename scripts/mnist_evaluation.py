"""Measures a model on the test digits."""

from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf
from mnist_data import Digits
from mnist_metrics import class_distances
from mnist_model import Model

_BATCH = 500

# Like Session.run with fetches and feeds.
Run = Callable[[Any, Dict[tf.Tensor, Any]], Any]


class Evaluation(NamedTuple):
    """The test embeddings and what they were taken for."""

    embeddings: np.ndarray  # float32 [M, D]
    predictions: np.ndarray  # int64 [M], of the softmax
    nearest: np.ndarray  # [M], class of the nearest center
    labels: np.ndarray  # int64 [M], the truth


def evaluate(run: Run, model: Model, digits: Digits) -> Evaluation:
    """Runs the test digits through the model, batch by batch; changes nothing."""
    fetches = (model.embed, model.predictions, model.nearest)
    parts = [
        run(fetches, {model.images: digits.test_images[start : start + _BATCH]})
        for start in range(0, len(digits.test_images), _BATCH)
    ]
    return Evaluation(*(np.concatenate(column) for column in zip(*parts)), digits.test_labels)


def scores(evaluation: Evaluation) -> Dict[str, Optional[float]]:
    """The figures of an evaluation, ready for JSON.

    Returns:
      test_accuracy: share of the softmax predictions that are right.
      nearest_center_accuracy: share of the images whose nearest center is that of their class.
      intra_class_distance: mean distance of an embedding to the mean of its class.
      inter_class_distance: smallest distance between the means of two classes; None where the test
        digits are all of one class.
      distance_ratio: the last over the one before; None where that is not finite.
    """
    distances = class_distances(evaluation.embeddings, evaluation.labels)
    return {
        "test_accuracy": float(np.mean(evaluation.predictions == evaluation.labels)),
        "nearest_center_accuracy": float(np.mean(evaluation.nearest == evaluation.labels)),
        "intra_class_distance": distances.intra,
        "inter_class_distance": distances.inter,
        "distance_ratio": distances.ratio,
    }


def average_train_embeddings(run: Run, model: Model, digits: Digits) -> None:
    """Sets the centers to the class means of the training digits, for a model that learned none."""
    run(model.forget_centers, {})
    for start in range(0, len(digits.train_images), _BATCH):
        rows = slice(start, start + _BATCH)
        feed = {model.images: digits.train_images[rows], model.labels: digits.train_labels[rows]}
        run(model.average_centers, feed)
