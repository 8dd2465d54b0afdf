"""What the soak measures itself by: the rows it feeds, their means, and what counts as a fault."""

from typing import List, NamedTuple, Tuple

import numpy as np

_POOL = 2_000
# Of the distance of a center to its mean in float64, over the norm of the mean.
_MOST_ERROR = 3e-6
# The allocator and Python's own caches go on settling by a little after the first tenth.
_MOST_GROWTH_MB = 5.0


class Pool(NamedTuple):
    """Batches to draw from, and what a mean is made of: `embeds [P, B, D]`, `labels [P, B]`."""

    embeds: np.ndarray
    labels: np.ndarray

    def means(self, uses: np.ndarray, num_classes: int) -> Tuple[np.ndarray, np.ndarray]:
        """The float64 mean and the number of rows of each class, after `uses [P]` of the batches.

        Returns:
          `[C, D]`, NaN for a class that had no row, and int `[C]`.
        """
        weights = np.repeat(uses, self.labels.shape[1])
        labels, rows = self.labels.reshape(-1), self.embeds.reshape(-1, self.embeds.shape[2])
        counts = np.bincount(labels, weights, num_classes)
        sums = [np.bincount(labels, weights * column, num_classes) for column in rows.T]
        with np.errstate(invalid="ignore"):
            return np.stack(sums, axis=1) / counts[:, np.newaxis], counts.astype(np.int64)


class Reading(NamedTuple):
    """How it goes after so many updates."""

    updates: int
    ops: int
    memory_mb: float
    error: float
    miscounted: int  # classes whose count is not that of the rows that were fed


def make_pool(num_classes: int, dims: int, batch_size: int) -> Pool:
    """Rows around a point of each class, no two coordinates alike; two of a class in a batch."""
    random = np.random.RandomState(0)
    some = random.randint(0, num_classes, (_POOL, (batch_size + 1) // 2))
    labels = np.concatenate([some, some[:, ::-1]], axis=1)[:, :batch_size]
    points = 3 * random.randn(num_classes, dims) + np.linspace(-2, 5, dims)
    embeds = points[labels] + random.randn(_POOL, batch_size, dims)
    return Pool(embeds.astype(np.float32), labels)


def largest_error(ctrs: np.ndarray, means: np.ndarray) -> float:
    """The largest distance of a center to its mean, over the norm of the mean."""
    seen = ~np.isnan(means[:, 0])
    distances = np.linalg.norm(ctrs[seen] - means[seen], axis=1)
    return float(np.max(distances / np.linalg.norm(means[seen], axis=1)))


def find_faults(readings: List[Reading]) -> List[str]:
    """What went wrong, in a line each."""
    first, last = readings[0], readings[-1]
    faults = []
    if last.ops != first.ops:
        faults.append(f"expected a graph of {first.ops} ops throughout, found {last.ops}")
    growth = last.memory_mb - first.memory_mb
    if growth > _MOST_GROWTH_MB:
        faults.append(f"expected at most {_MOST_GROWTH_MB} MB of growth, found {growth:.1f}")
    worst = np.max([reading.error for reading in readings])  # a NaN too, unlike max
    if not worst <= _MOST_ERROR:
        faults.append(f"expected an error of at most {_MOST_ERROR}, found {worst:.1e}")
    if last.miscounted:
        faults.append(
            f"expected every row to be counted, found {last.miscounted} classes miscounted"
        )
    return faults
