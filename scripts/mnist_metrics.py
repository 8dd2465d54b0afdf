"""How well embeddings separate their classes, in NumPy."""

from typing import NamedTuple, Optional

import numpy as np

_BLOCK_PAIRS = 1 << 21


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
    return Distances(float(intra), _smallest_gap(means))


def _smallest_gap(means: np.ndarray) -> float:
    # Distances by matrix products lose digits where two means are close together or far from zero:
    # they only pick a nearest other mean for each, and the distance to that one is measured.
    centered = means - means.mean(axis=0)
    squares = np.square(centered).sum(axis=1)
    # Never all pairs at once: they take [K, K].
    block = max(1, _BLOCK_PAIRS // len(means))
    gaps = []
    for start in range(0, len(means) - 1, block):
        rows = np.arange(start, min(start + block, len(means) - 1))
        gap_squares = squares[start:] - 2 * centered[rows].dot(centered[start:].T)
        # Each pair once: a mean against those after it.
        gap_squares[np.arange(len(means) - start) <= rows[:, None] - start] = np.inf
        nearest = start + gap_squares.argmin(axis=1)
        gaps.append(np.linalg.norm(means[rows] - means[nearest], axis=1).min())
    return float(min(gaps))
