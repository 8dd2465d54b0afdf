"""Evaluates a model on the test digits: accuracies, and how well embeddings separate classes."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from mnist.data import Digits
from mnist.model import Model

_BATCH = 500


class Evaluation(NamedTuple):
    """The test embeddings and their predicted classes."""

    embeddings: np.ndarray  # float32 [M, D]
    predictions: np.ndarray  # int64 [M], of the softmax
    nearest: np.ndarray  # [M], class of the nearest center
    labels: np.ndarray  # int64 [M], the truth

    def scores(self) -> Dict[str, Optional[float]]:
        """The figures of the evaluation, ready for JSON; None if one is undefined."""
        intra, inter = class_distances(self.embeddings, self.labels)
        return {
            "test_accuracy": float(np.mean(self.predictions == self.labels)),
            "nearest_center_accuracy": float(np.mean(self.nearest == self.labels)),
            "intra_class_distance": intra,
            "inter_class_distance": inter,
            "distance_ratio": inter / intra if inter is not None and intra > 0 else None,
        }


def class_distances(embeddings: np.ndarray, labels: np.ndarray) -> Tuple[float, Optional[float]]:
    """Mean distance of rows [M, D] to the mean of their class, and smallest between two means."""
    classes, places = np.unique(labels, return_inverse=True)
    means = np.zeros([len(classes), embeddings.shape[1]])
    np.add.at(means, places, embeddings)
    means /= np.bincount(places)[:, np.newaxis]
    intra = np.linalg.norm(embeddings - means[places], axis=1).mean()
    gaps = [np.linalg.norm(means[i] - means[i + 1 :], axis=1).min() for i in range(len(means) - 1)]
    return float(intra), float(min(gaps)) if gaps else None


def evaluate(run: Callable[..., Any], model: Model, digits: Digits) -> Evaluation:
    """Runs the test digits through the model, batch by batch; changes nothing."""
    parts = [
        run(model.outputs, {model.images: digits.test_images[start : start + _BATCH]})
        for start in range(0, len(digits.test_images), _BATCH)
    ]
    return Evaluation(*(np.concatenate(column) for column in zip(*parts)), digits.test_labels)


def average_train_embeddings(run: Callable[..., Any], model: Model, digits: Digits) -> None:
    """Sets the centers to the class means of the training digits, for a model that learned none."""
    run(model.reset_centers, {})
    for start in range(0, len(digits.train_images), _BATCH):
        rows = slice(start, start + _BATCH)
        feed = {model.images: digits.train_images[rows], model.labels: digits.train_labels[rows]}
        run(model.average_centers, feed)
