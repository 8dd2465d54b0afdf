"""Tables on the parameter servers of TensorFlow 2: two of them and three workers, all processes."""

import json
import os
import subprocess
import sys

import coordinator_program
import pytest
import servers
import tensorflow as tf
from helpers import free_ports
from programs import DEADLINE_SECS, SCRIPTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.eager,
    pytest.mark.skipif(
        not hasattr(tf.distribute, "ParameterServerStrategy"),
        reason="TensorFlow before 2.8 has no such strategy, or an experimental one",
    ),
]


@pytest.fixture
def coordinate(start, tmp_path):
    """Starts new servers and a check of the coordinator's; returns it and the first server."""
    runs = []

    def start_checks(shards, *checks):
        cluster = servers.make_cluster(free_ports(len(servers.TASKS)))
        tasks = [json.dumps([cluster, *task]) for task in servers.TASKS]
        runs.extend(start(servers.__file__, task, apart=True) for task in tasks)
        own = [",".join(check.__name__ for check in checks), str(shards), json.dumps(cluster)]
        run = start(coordinator_program.__file__, *own, str(tmp_path), apart=True, listens=True)
        return run, runs[-len(tasks)]

    yield start_checks
    for run in runs:
        run.kill()


def passes(coordinated, *checks):
    run, _ = coordinated
    for check in checks:
        run.wait_for(f"{check.__name__}: done")  # before the exit, which may wait for the servers
    run.kill()


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_updates_reads_and_errors(coordinate, shards):
    """Exact under the lock; without it rows are lost, which a warning has said."""
    program = coordinator_program
    checks = program.locked, program.unlocked, program.updaters, program.errors, program.reads
    passes(coordinate(shards, *checks), *checks)


def test_checkpoints_move_and_bring_a_run_back_whose_server_was_lost(coordinate):
    checkpoints = coordinator_program.checkpoints
    for shards in (1, 2, 3):
        passes(coordinate(shards, checkpoints), checkpoints)
    run, server = coordinate(2, coordinator_program.lost_server)
    run.wait_for("ready")
    server.kill()
    run.tell("go on")
    run.wait_for("lost")
    passes(coordinate(2, checkpoints), checkpoints)


def test_no_row_is_lost_with_a_killed_worker():
    script = os.path.join(SCRIPTS, "maintenance", "kill_workers.py")
    subprocess.run([sys.executable, script, "--kills=4"], check=True, timeout=DEADLINE_SECS)
