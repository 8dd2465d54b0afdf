"""Two processes under `MultiWorkerMirroredStrategy`, on loopback."""

import contextlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import replica_process
import tensorflow as tf
from helpers import free_ports

import tf_centers

HERE = pathlib.Path(__file__).resolve().parent
TIMEOUT = 240  # seconds; a survivor ends within some five

pytestmark = [
    pytest.mark.slow,
    pytest.mark.eager,
    pytest.mark.skipif(
        not hasattr(tf.distribute.ReplicaContext, "all_gather"),
        reason="TensorFlow before 2.4 cannot gather within replicas",
    ),
]


@pytest.fixture
def processes(tmp_path):
    ports = [str(port) for port in free_ports(2)]
    with contextlib.ExitStack() as stack:
        started = []
        for rank in range(2):
            errors = stack.enter_context(open(tmp_path / f"errors{rank}", "w+"))
            process = subprocess.Popen(
                [sys.executable, replica_process.__file__, str(rank), *ports, str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(os.environ, PYTHONPATH=str(HERE.parents[1])),
            )
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append((process, errors))
        yield started


def _said(process, until):
    """What a process says, up to a line; all of it where it ends before."""
    lines = []
    for line in process.stdout:
        lines.append(line.split())
        if lines[-1][0] == until:
            break
    return lines


def test_two_processes_hold_the_bits_of_one_and_end_together(processes, tmp_path):
    (first, errors), (second, _) = processes
    said = [_said(process, "step") for process, _ in processes]
    errors.seek(0)
    assert said[0], errors.read()

    single = tf_centers.create_embed_centers(6, 3)
    update, digests = tf.function(tf_centers.get_embed_centers), []
    for step in range(replica_process.STEPS + 1):
        parts = [replica_process.batch(step, rank) for rank in range(2)]
        embeds, labels = (np.concatenate(column) for column in zip(*parts))
        update(embeds, labels, tf_centers.CumulativeMean(), single)
        digests.append(replica_process.digest(single))
    expected = [
        ["trained", digests[-2]],
        ["refused", "True"],
        ["refused", "True"],
        ["unchanged", digests[-2]],
        ["went_on", digests[-1]],
    ]
    checkpoint = str(tmp_path / "centers")
    assert said[0] == expected + [["saved", checkpoint], ["step"]]
    assert said[1] == expected + [["step"]]

    restored = tf_centers.create_embed_centers(6, 3)
    reader = tf.train.Checkpoint(ctrs=restored.ctrs, counts=restored.counts)
    reader.read(checkpoint).assert_consumed()
    assert replica_process.digest(restored) == digests[-1]

    second.kill()
    first.communicate(timeout=TIMEOUT)
    assert first.returncode == 1
    errors.seek(0)
    assert "Collective ops is aborted" in errors.read()
