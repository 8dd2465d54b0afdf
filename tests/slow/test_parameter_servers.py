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
whole_and_split = pytest.mark.parametrize("shards", [1, 2, 3])


@pytest.fixture
def coordinate(start, tmp_path):
    """Starts new servers and a check of the coordinator's; returns it and the first server."""
    runs = []

    def start_check(check, shards):
        cluster = servers.make_cluster(free_ports(len(servers.TASKS)))
        tasks = [json.dumps([cluster, *task]) for task in servers.TASKS]
        runs.extend(start(servers.__file__, task, apart=True) for task in tasks)
        own = [check.__name__, str(shards), json.dumps(cluster), str(tmp_path)]
        run = start(coordinator_program.__file__, *own, apart=True, listens=True)
        return run, runs[-len(tasks)]

    yield start_check
    for run in runs:
        run.kill()


def passes(run):
    run.wait_for("done")  # before the exit, which may wait for the servers
    run.kill()


@whole_and_split
def test_the_mean_is_exact_under_the_lock(coordinate, shards):
    passes(coordinate(coordinator_program.locked, shards)[0])


@whole_and_split
def test_rows_are_lost_without_it_and_a_warning_says_so(coordinate, shards):
    passes(coordinate(coordinator_program.unlocked, shards)[0])


@whole_and_split
def test_every_updater(coordinate, shards):
    passes(coordinate(coordinator_program.updaters, shards)[0])


@whole_and_split
def test_a_bad_batch_raises_and_changes_nothing(coordinate, shards):
    passes(coordinate(coordinator_program.errors, shards)[0])


@whole_and_split
def test_reads(coordinate, shards):
    passes(coordinate(coordinator_program.reads, shards)[0])


def test_checkpoints_move_and_bring_a_run_back_whose_server_was_lost(coordinate):
    for shards in (1, 2, 3):
        passes(coordinate(coordinator_program.checkpoints, shards)[0])
    run, server = coordinate(coordinator_program.lost_server, 2)
    run.wait_for("ready")
    server.kill()
    run.tell("go on")
    run.wait_for("lost")
    passes(coordinate(coordinator_program.checkpoints, 2)[0])


def test_no_row_is_lost_with_a_killed_worker():
    script = os.path.join(SCRIPTS, "maintenance", "kill_workers.py")
    subprocess.run([sys.executable, script, "--kills=4"], check=True, timeout=DEADLINE_SECS)
