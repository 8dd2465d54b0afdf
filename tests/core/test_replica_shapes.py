"""Two replicas that do not know the same of their batches while their graphs are built."""

import pathlib

import pytest
import tensorflow

PROGRAM = pathlib.Path(__file__).resolve().parent / "replica_shapes_program.py"
CHECKS = ["rows of embed_batch", "rows of label_batch", "rows of mask", "rows of all", "dims"]
CHECKS += ["rank of embed_batch", "rank of label_batch", "rank of mask", "rank of all"]
CHECKS += ["T", "T of labels", "dtype of label_batch", "a column of labels"]
CHECKS += ["faults", "weights", "a short copy"]


@pytest.mark.skipif(
    not hasattr(tensorflow.distribute.ReplicaContext, "all_gather"),
    reason="TensorFlow before 2.4 cannot gather within replicas",
)
@pytest.mark.parametrize("check", CHECKS)
def test_on_two_replicas(check, start):
    assert "all well" in start(PROGRAM, check).end()
