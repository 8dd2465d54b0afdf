"""The soak runs, measures what it says, and finds fault where there is one."""

import os
import sys

import numpy as np
import pytest
from test_benchmark import ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "scripts"))

from soak_measures import Pool, Reading, find_faults, largest_error, make_pool  # noqa: E402

READINGS = [Reading(10, 88, 300.0, 1e-7, 0), Reading(20, 88, 301.0, 2e-6, 0)]


@pytest.mark.parametrize("flags", [[], ["--nouse_resource", "--use_locking"]])
def test_soak(flags):
    sizes = ["--updates=50", "--classes=40", "--dims=3", "--batch_size=6"]
    code, output, errors = run_script(*sizes, *flags, script="soak.py")
    assert code == 0, errors
    assert [line.split()[0] for line in output.splitlines()[2:]] == [
        str(updates) for updates in range(5, 51, 5)
    ]


def test_argument_that_is_no_flag():
    code, output, errors = run_script("50", script="soak.py")
    assert code == 2 and not output
    assert errors.strip().splitlines()[-1] == "soak.py: expected flags only, found '50'"


@pytest.mark.parametrize(
    "change, told",
    [
        ({"ops": 89}, "88 ops throughout, found 89"),
        ({"memory_mb": 305.1}, "found 5.1"),
        ({"error": 3.1e-6}, "found 3.1e-06"),
        ({"error": float("nan")}, "found nan"),
        ({"miscounted": 1}, "found 1 classes"),
    ],
)
def test_faults(change, told):
    assert find_faults(READINGS) == []
    (fault,) = find_faults([READINGS[0], READINGS[1]._replace(**change)])
    assert told in fault


def test_means_are_those_of_all_rows():
    embeds = np.array([[[1, 10], [2, 20]], [[4, 40], [8, 80]], [[99, 99], [99, 99]]], np.float32)
    pool = Pool(embeds, np.array([[3, 1], [3, 3], [0, 0]]))
    means, counts = pool.means(np.array([2, 1, 0]), 4)
    np.testing.assert_array_equal(counts, [0, 2, 0, 4])
    np.testing.assert_array_equal(means[[1, 3]], [[2, 20], [14 / 4, 140 / 4]])
    assert np.isnan(means[[0, 2]]).all()


def test_error_is_that_of_the_worst_class_seen():
    means = np.array([[3.0, 4.0], [np.nan, np.nan], [0.3, 0.4]])
    ctrs = np.array([[3.0, 4.1], [7.0, 7.0], [0.3, 0.45]])
    np.testing.assert_allclose(largest_error(ctrs, means), 0.05 / 0.5)


def test_pool_repeats_labels_and_every_column_differs():
    pool = make_pool(num_classes=5, dims=3, batch_size=4)
    assert pool.embeds.dtype == np.float32 and pool.labels.max() == 4
    assert any(len(set(labels)) < 4 for labels in pool.labels.tolist())
    assert len(set(pool.embeds.mean(axis=(0, 1)).round(1))) == 3
