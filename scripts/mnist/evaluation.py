"""Evaluates a model on the test digits: accuracies, and how well embeddings separate classes."""

import sys
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from mnist.config import Settings
from mnist.model import Model

BATCH = 500


class Evaluation(NamedTuple):
    """The M test embeddings with their classes, and the centers."""

    embeddings: np.ndarray  # float32 [M, D]
    predictions: np.ndarray  # int64 [M], of the softmax
    nearest: np.ndarray  # [M], class of the nearest center
    labels: np.ndarray  # int64 [M], the truth
    ctrs: Optional[np.ndarray] = None  # float32 [C, D], of a run that has ended
    counts: Optional[np.ndarray] = None  # int64 [C]

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
    means = np.stack([embeddings[labels == c].mean(axis=0, dtype=np.float64) for c in classes])
    intra = np.linalg.norm(embeddings - means[places], axis=1).mean()
    gaps = [np.linalg.norm(means[i] - means[i + 1 :], axis=1).min() for i in range(len(means) - 1)]
    return float(intra), float(min(gaps)) if gaps else None


def evaluate(session: tf.Session, model: Model) -> Evaluation:
    """Runs the test digits through the model, batch by batch; changes nothing."""
    images, labels = model.digits[3:5]
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    parts = [session.run(model.outputs, {model.images: batch}) for batch in batches]
    return Evaluation(*map(np.concatenate, zip(*parts)), labels)


def report(settings: Settings, step: int, scores: Dict[str, Any], losses: Dict[str, Any]) -> None:
    """Prints the figures of a step, and adds the scores to the curves in TensorBoard."""
    known = {name: value for name, value in scores.items() if value is not None}
    if settings.updater == "none" and losses:  # The centers are only made at the end.
        del known["nearest_center_accuracy"]
    told = [f"{name} {value:.4g}" for name, value in {**losses, **known}.items()]
    tqdm.write(f"step {step}: {', '.join(told)}", file=sys.stderr)
    value = [tf.Summary.Value(tag=f"test/{name}", simple_value=known[name]) for name in known]
    writer = tf.summary.FileWriterCache.get(settings.model_dir)
    writer.add_summary(tf.Summary(value=value), step)
    writer.flush()  # A kill would otherwise lose two minutes of the curves.
