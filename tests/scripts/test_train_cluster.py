"""The training script as a cluster of real processes on loopback ports."""

import os
import re
import signal
import socketserver
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import free_ports
from script_output import told

pytestmark = pytest.mark.slow

BATCH_SIZE = 8
FOR_EVER = ["--train_steps=1000000", "--eval_every=20"]


class Cluster:
    """Two parameter servers and up to two workers, of which a test starts those it wants."""

    def __init__(self, train, folder, data_dir, workers=2):
        self.train, self.runs, self.model_dir = train, {}, str(folder / "model")
        hosts = [f"127.0.0.1:{port}" for port in free_ports(2 + workers)]
        self.addresses = {"ps": hosts[:2], "worker": hosts[2:]}
        self.flags = [f"--{job}_hosts={','.join(found)}" for job, found in self.addresses.items()]
        self.flags += [f"--data_dir={data_dir}", f"--batch_size={BATCH_SIZE}", "--embed_dims=3"]

    def start(self, job, task, *flags, pause_at=None):
        # Only the chief may write to its folder; the others would be seen to.
        folder = self.model_dir if (job, task) == ("worker", 0) else f"{self.model_dir}-other"
        place = [f"--job_name={job}", f"--task_index={task}", f"--model_dir={folder}"]
        self.runs[job, task] = self.train(*self.flags, *place, *flags, pause_at=pause_at)
        return self.runs[job, task]

    def start_all(self, *flags):
        """The two servers, the chief and the other worker, once both workers train."""
        servers = [self.start("ps", task) for task in range(2)]
        chief, other = (self.start("worker", task, *flags) for task in range(2))
        chief.wait_for("worker 0: initialized the parameter servers")
        other.wait_for("worker 1: attached to the parameter servers")
        return servers, chief, other

    def saved(self):
        """The variables in the newest checkpoint, and their step and rows."""
        reader = tf.train.load_checkpoint(self.model_dir)
        shapes = reader.get_variable_to_shape_map()
        found = {name: reader.get_tensor(name) for name in shapes if name != "train_seconds"}
        return found, int(found["global_step"]), int(found["embed/ctrs_count"].sum())


@pytest.fixture
def cluster(train, data_dir, tmp_path):
    cluster = Cluster(train, tmp_path, data_dir)
    yield cluster
    for run in cluster.runs.values():
        run.kill()


def test_train_to_the_end(cluster):
    flags = ("--train_steps=60", "--eval_every=20", "--updater=cumulative")
    servers = [cluster.start("ps", task) for task in range(2)]
    # The chief comes last, and neither goes on before the other is at its first step.
    other = cluster.start("worker", 1, *flags, pause_at=0)
    other.wait_for("worker 1: waits for the chief")
    chief = cluster.start("worker", 0, *flags, pause_at=0)
    for run in (chief, other):
        run.wait_for("paused")
    for run in (chief, other):
        run.tell("go on")
    outputs = [run.end() for run in (chief, other)]
    assert "worker 0: initialized the parameter servers at step 0" in outputs[0]
    made = [int(re.search(r"made (\d+) steps", output).group(1)) for output in outputs]
    for server in servers:
        assert "training is over" in server.end()

    found, step, rows = cluster.saved()
    # The other worker may have been in a step when the last one was made.
    assert step in (60, 61) and sum(made) == step and min(made) > 0
    assert found["embed/ctrs"].shape == (3, 3) and rows == BATCH_SIZE * step
    for name in ("metrics.json", "embeddings.png"):
        assert os.path.exists(os.path.join(cluster.model_dir, name))
    assert not os.path.exists(cluster.model_dir + "-other")


def test_no_batch_is_lost_with_a_server(train, data_dir, tmp_path):
    """Checkpoints are at steps 0, 20, 40 and 50; the step under way when it is killed fails."""

    def start(name, pause_at):
        (tmp_path / name).mkdir()
        cluster = Cluster(train, tmp_path / name, data_dir, workers=1)
        for task in range(2):
            cluster.start("ps", task)
        flags = ("--train_steps=50", "--eval_every=0")
        return cluster, cluster.start("worker", 0, *flags, pause_at=pause_at)

    unbroken, chief = start("unbroken", None)
    chief.end()
    cluster, chief = start("broken", "0,40,49")
    said = "(?s)"
    # It pauses again, since the batch of this step is trained once more.
    for at, lost, pauses in ((0, 1, [0]), (40, 1, [40]), (49, 0, [40, 49])):
        said += f".*paused at {at}\n"
        chief.wait_for(said)
        cluster.runs["ps", lost].kill()
        cluster.start("ps", lost).wait_for("serves on")
        chief.tell("go on")
        said += f".*initialized the parameter servers at step {at // 20 * 20}\n"
        for pause in pauses:
            said += f".*paused at {pause}\n"
            chief.wait_for(said)
            chief.tell("go on")
    chief.end()
    found, step, rows = cluster.saved()
    assert step == 50 and rows == 50 * BATCH_SIZE and set(found) == set(unbroken.saved()[0])
    for name, value in unbroken.saved()[0].items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_lost_server(cluster):
    servers, chief, other = cluster.start_all(*FOR_EVER)
    chief.wait_for(r"(?s)(\nstep \d+: .*){2}")
    servers[1].kill()
    lost = f"the parameter server at {cluster.addresses['ps'][1]} does not answer; start it"
    for run in (chief, other):
        run.wait_for(re.escape(lost))
    servers[1] = cluster.start("ps", 1)
    again = r"(?s)does not answer.*initialized the parameter servers at step (\d+)\n.*step \d+: "
    assert int(chief.wait_for(again).group(1)) >= 20
    other.wait_for(r"(?s)does not answer.*attached to the parameter servers at step")

    # While another one is lost, a signal ends each of them at once.
    servers[0].kill()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGTERM)
    for run, signum in zip((chief, other, servers[1]), signals):
        run.wait_for("does not answer" if run is not servers[1] else "serves on")
        run.send(signum)
        (line,) = told(run.end(128 + signum))
        assert line == "train_mnist.py: interrupted; the same command resumes"


def test_signals_before_there_is_a_cluster(cluster):
    workers = [cluster.start("worker", task) for task in range(2)]
    server = cluster.start("ps", 0)
    for run in (*workers, server):
        run.wait_for("serves on" if run is server else "does not answer; start it")
        run.send(signal.SIGTERM)
        run.end(143)


def test_a_second_signal(cluster):
    """The chief waits for a worker that does not stop; a second signal ends it all the same."""
    _, chief, other = cluster.start_all(*FOR_EVER)
    other.send(signal.SIGSTOP)
    chief.send(signal.SIGINT)
    chief.send(signal.SIGTERM)
    chief.end(130, 143)


def test_workers_that_are_killed(cluster):
    servers, chief, other = cluster.start_all(*FOR_EVER)
    chief.wait_for(r"(?s)(\nstep \d+: .*){3}")
    chief.kill()
    last = int(re.findall(r"step (\d+): ", chief.output)[-1])
    # A chief that comes back goes on where the others are: nothing is rolled back.
    chief = cluster.start("worker", 0, *FOR_EVER)
    attached = chief.wait_for(r"worker 0: attached to the parameter servers at step (\d+)")
    assert int(attached.group(1)) >= last
    # A worker that is lost is not waited for, and one that was told to stop can join again.
    other.kill()
    other = cluster.start("worker", 1, *FOR_EVER)
    other.wait_for("worker 1: attached")
    other.send(signal.SIGTERM)
    (line,) = told(other.end(143))
    assert line == "train_mnist.py: worker 1: interrupted; the same command lets it join again"
    stranger = cluster.start("worker", 1, "--seed=2", *FOR_EVER)
    (line,) = told(stranger.end(2))
    assert "flag --ps_hosts=" in line and "found another" in line
    # Ctrl-C on the chief saves and ends all of them.
    chief.send(signal.SIGINT)
    (line,) = told(chief.end(130))
    for server in servers:
        server.end()
    _, step, rows = cluster.saved()
    assert f"saved {cluster.model_dir}/model.ckpt-{step} of 1000000 steps" in line
    assert step >= int(attached.group(1))
    # Each worker was killed with at most one step under way.
    assert abs(rows - BATCH_SIZE * step) <= 3 * BATCH_SIZE


class Http(socketserver.BaseRequestHandler):
    """Answers anything as a web server does."""

    def handle(self):
        self.request.recv(1)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("task", [0, 1])
def test_something_else_on_the_address_of_a_server(task, cluster):
    """A web server, and something that is silent."""
    cluster.start("ps", 0)
    host, port = cluster.addresses["ps"][1].split(":")
    with socketserver.ThreadingTCPServer((host, int(port)), Http) as stranger:
        if task == 0:
            threading.Thread(target=stranger.serve_forever, daemon=True).start()
        (line,) = told(cluster.start("worker", task).end(2))
        if task == 0:
            stranger.shutdown()
    assert "flag --ps_hosts=" in line and f"something else at {host}:{port}" in line
