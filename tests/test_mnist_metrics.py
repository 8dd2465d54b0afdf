"""How well embeddings separate their classes, held against all pairs one by one."""

import itertools
import os
import sys

import numpy as np
import pytest

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_metrics  # noqa: E402


def test_distances_by_hand():
    # Means (0, 1) and (3, 5): 5 apart. Rows 1, 1 and 0 from their means.
    embeddings = np.array([[0, 0], [3, 5], [0, 2]], np.float32)
    found = mnist_metrics.class_distances(embeddings, np.array([7, 2, 7]))
    assert found.intra == pytest.approx(2 / 3) and found.inter == pytest.approx(5)
    assert mnist_metrics.class_distances(embeddings, np.array([4, 4, 4])).inter is None


@pytest.mark.parametrize("pairs", [1, 30, 10**6], ids="blocks of {} pairs".format)
@pytest.mark.parametrize("classes", [2, 3, 11, 40])
@pytest.mark.parametrize("offset", [0, 1e8], ids=["around zero", "far from zero"])
def test_smallest_gap(pairs, classes, offset, monkeypatch):
    monkeypatch.setattr(mnist_metrics, "_BLOCK_PAIRS", pairs)
    for seed in range(5):
        rng = np.random.RandomState(seed)
        embeddings = offset + rng.randn(3 * classes, 4)
        labels = rng.permutation(np.arange(3 * classes) % classes) * 7
        means = [embeddings[labels == label].mean(axis=0) for label in np.unique(labels)]
        gap = min(np.linalg.norm(a - b) for a, b in itertools.combinations(means, 2))
        found = mnist_metrics.class_distances(embeddings, labels).inter
        assert found == pytest.approx(gap, rel=1e-6)


def test_gap_far_smaller_than_the_spread():
    embeddings = np.random.RandomState(0).randn(20, 3) * 1e3
    embeddings[13] = embeddings[5] + [0, 3e-7, 4e-7]
    found = mnist_metrics.class_distances(embeddings, np.arange(20)).inter
    # The products alone would give an error of 1e-5.
    assert found == pytest.approx(np.linalg.norm(embeddings[13] - embeddings[5]), rel=1e-9)
    assert found == pytest.approx(5e-7, rel=1e-3)


def test_two_equal_means():
    embeddings = np.array([[1, 2], [5, 5], [1, 2]], np.float32)
    assert mnist_metrics.class_distances(embeddings, np.arange(3)).inter == 0
