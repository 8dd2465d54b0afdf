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
    """Starts new servers and checks of a coordinator; returns that and the first server."""
    runs = []

    def start_checks(checks):
        cluster = servers.make_cluster(free_ports(len(servers.TASKS)))
        tasks = [json.dumps([cluster, *task]) for task in servers.TASKS]
        started = [start(servers.__file__, task, apart=True) for task in tasks]
        arguments = [checks, json.dumps(cluster), str(tmp_path)]
        run = start(coordinator_program.__file__, *arguments, apart=True, listens=True)
        runs.extend([*started, run])
        return run, started[0]

    yield start_checks
    for run in runs:
        run.kill()


def test_tables_in_shards_and_a_lost_server(coordinate):
    """Exact under the lock; without it rows are lost, which a warning has said."""
    checks = "locked,unlocked,updaters,errors,reads,checkpoints,traffic,late_batch,keras_fit"
    run, server = coordinate(f"{checks},lost_server")
    run.wait_for("ready")
    server.kill()
    run.tell("go on")
    run.wait_for("lost")
    run, _ = coordinate("checkpoints")  # brings the tables back
    run.wait_for("checkpoints: done")  # before the exit, which may wait for the servers


def test_no_row_is_lost_with_a_killed_worker():
    script = os.path.join(SCRIPTS, "maintenance", "kill_workers.py")
    subprocess.run([sys.executable, script, "--kills=2"], check=True, timeout=DEADLINE_SECS)
