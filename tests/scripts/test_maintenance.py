"""What maintainers run by hand: the soak and the large table."""

import pathlib

import numpy as np
import pytest
from programs import SCRIPTS
from soak import Reading, find_faults, largest_error

MAINTENANCE = pathlib.Path(SCRIPTS) / "maintenance"


def test_scale(start):
    flags = ["--classes=5000", "--dims=8", "--updates=3"]
    output = start(MAINTENANCE / "scale.py", *flags).end()
    assert "updated 3 times" in output and "100% of the searched centers" in output


@pytest.mark.parametrize("flags", [[], ["--nouse_resource", "--use_locking"]])
def test_soak(flags, start):
    sizes = ["--updates=50", "--classes=40", "--dims=3", "--batch_size=6"]
    output = start(MAINTENANCE / "soak.py", *sizes, *flags, apart=True).end()
    assert [int(line.split()[0]) for line in output.splitlines()[2:]] == list(range(5, 51, 5))


@pytest.mark.parametrize("name", ["scale.py", "soak.py"])
def test_argument_that_is_no_flag(name, start):
    run = start(MAINTENANCE / name, "50", apart=True)
    assert run.end(2) == ""
    assert run.errors.strip().splitlines()[-1] == f"{name}: expected flags only, found '50'"


def test_the_error_of_the_worst_class():
    means = np.array([[2.0, 20.0], [3.5, 35.0]])
    assert largest_error(means, means) == 0
    found = largest_error(means + [[0, 1.9], [0, 2]], means)
    np.testing.assert_allclose(found, 1.9 / np.hypot(2, 20))


READINGS = [Reading(10, 88, 300.0, 1e-7, 0), Reading(20, 88, 301.0, 2e-6, 0)]


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
def test_faults_of_a_soak(change, told):
    assert find_faults(READINGS) == []
    (fault,) = find_faults([READINGS[0], READINGS[1]._replace(**change)])
    assert told in fault
