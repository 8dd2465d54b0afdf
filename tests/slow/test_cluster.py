"""Centers on two parameter servers, moved by two workers, each a process of its own."""

import json
import pathlib
import re

import numpy as np
import pytest
from cluster_program import CLASSES, DIMS, ROWS, SHARDS, STEPS, make_batch
from helpers import free_ports

PROGRAM = pathlib.Path(__file__).resolve().parent / "cluster_program.py"


@pytest.fixture
def start_task(start, use_resource):
    """Starts a process of the cluster: `start_task(job, task)`."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(5)]
    cluster, runs = {"ps": hosts[:2], "worker": hosts[2:]}, []

    def start_task(job, task, **more):
        options = dict(job=job, task=task, cluster=cluster, use_resource=use_resource, **more)
        runs.append(start(PROGRAM, json.dumps(options), apart=True, listens=True))
        return runs[-1]

    yield start_task
    for run in runs:
        run.kill()


def means_of(batches):
    """The float64 means and the numbers of the rows of every class."""
    total, counts = np.zeros([CLASSES, DIMS]), np.zeros(CLASSES, int)
    for embeds, labels in batches:
        np.add.at(total, labels, embeds.astype(np.float64))
        np.add.at(counts, labels, 1)
    return total / np.maximum(counts, 1)[:, None], counts


def test_no_row_is_lost_or_travels_twice_even_if_a_worker_is_killed(start_task, tmp_path):
    for task in range(2):
        start_task("ps", task)
    survivor, victim = workers = [start_task("worker", task) for task in range(2)]
    for worker in workers:
        worker.wait_for("ready")
    for worker in workers:
        worker.tell("go on")
    victim.wait_for(f"applied {STEPS // 2} ")
    victim.kill()
    survivor.wait_for(f"applied {STEPS - 1} ")
    for worker in workers:  # One row up and one down, and labels.
        sent = max(map(int, re.findall(r"applied \d+ (\d+)\n", worker.output)))
        assert 1 <= sent / (2 * ROWS * DIMS * 4) < 1.1
    path = str(tmp_path / "state.npz")
    start_task("worker", 2, save=path).end()
    with np.load(path) as state:
        ctrs, counts = state["ctrs"], state["counts"]
    steps = victim.output.count("applied")
    batches = [make_batch(0, step) for step in range(STEPS)]
    batches += [make_batch(1, step) for step in range(steps)]
    # The batch in flight may have reached each of the parameter servers, or not.
    candidates = [means_of(batches), means_of(batches + [make_batch(1, steps)])]
    for shard in np.array_split(np.arange(CLASSES), SHARDS):
        fitting = [means for means, n in candidates if (n[shard] == counts[shard]).all()]
        assert fitting, "a count that no batches explain"
        np.testing.assert_allclose(ctrs[shard], fitting[0][shard], rtol=2e-5, atol=2e-5)
