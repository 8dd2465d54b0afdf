"""How well embeddings separate their classes, in NumPy."""

from typing import NamedTuple, Optional

import numpy as np


class Distances(NamedTuple):
    """Euclidean distances among embeddings; `inter` is None where fewer than two classes occur."""

    intra: float
    inter: Optional[float]

    @property
    def ratio(self) -> Optional[float]:
        """How many times the gap between classes is the spread within; None where there is none."""
        return self.inter / self.intra if self.inter is not None and self.intra > 0 else None


def class_means(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean [K, D] of the rows of each class that occurs, by rising label, in float64."""
    classes, places = np.unique(labels, return_inverse=True)
    sums = np.zeros([len(classes), embeddings.shape[1]])
    np.add.at(sums, places, embeddings)
    return sums / np.bincount(places)[:, None]


def class_distances(embeddings: np.ndarray, labels: np.ndarray) -> Distances:
    """Spread within the classes, and the gap between the two that are closest.

    Args:
      embeddings: float [M, D], M at least 1.
      labels: integers [M].

    Returns:
      intra: mean over all rows of the distance to the mean of their own class.
      inter: smallest distance between the means of two classes.
    """
    means = class_means(embeddings, labels)
    places = np.unique(labels, return_inverse=True)[1]
    intra = np.linalg.norm(embeddings - means[places], axis=1).mean()
    if len(means) < 2:
        return Distances(float(intra), None)
    # Row by row: all pairs at once would need [K, K, D].
    gaps = [np.linalg.norm(means[i + 1 :] - means[i], axis=1).min() for i in range(len(means) - 1)]
    return Distances(float(intra), float(min(gaps)))
