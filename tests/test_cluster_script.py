"""The training script as a cluster of real processes on loopback ports."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import tensorflow.compat.v1 as tf

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_model  # noqa: E402
import train_mnist  # noqa: E402
from helpers import free_ports  # noqa: E402
from idx_files import write_folder  # noqa: E402
from mnist_cluster_flags import cluster_of  # noqa: E402
from mnist_run import InputError  # noqa: E402

BATCH_SIZE = 8
# Far beyond what any machine needs: a bound, no measure.
DEADLINE_SECS = 120


class Processes:
    """Parameter servers and two workers, of which a test starts those it wants."""

    def __init__(self, folder, num_servers):
        self.folder, self.running = folder, []
        self.data_dir, self.model_dir = os.path.join(folder, "data"), os.path.join(folder, "model")
        os.mkdir(self.data_dir)
        write_folder(self.data_dir)
        hosts = [f"127.0.0.1:{port}" for port in free_ports(num_servers + 2)]
        self.hosts = [
            f"--ps_hosts={','.join(hosts[:num_servers])}",
            f"--worker_hosts={','.join(hosts[num_servers:])}",
        ]

    def start(self, job, task, *flags):
        """Starts one process of the cluster, and returns it."""
        return self.start_script(
            *self.hosts, f"--job_name={job}", f"--task_index={task}", *flags,
            # Only the chief may write to its folder; the others would be seen to.
            model_dir=self.model_dir if (job, task) == ("worker", 0) else self.model_dir + "-other",
        )  # fmt: skip

    def start_script(self, *flags, model_dir=None):
        log = os.path.join(self.folder, f"{len(self.running)}.log")
        environment = dict(os.environ, PYTHONPATH=os.path.dirname(SCRIPTS))
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, os.path.join(SCRIPTS, "train_mnist.py")]
                + [f"--batch_size={BATCH_SIZE}", "--embed_dims=3", f"--data_dir={self.data_dir}"]
                + [f"--model_dir={model_dir or self.model_dir}"]
                + list(flags),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        process.log = log
        self.running.append(process)
        return process

    def output(self, process):
        with open(process.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_for(self, process, pattern):
        """The first match of a pattern in the output of a process, which has to come."""
        deadline = time.monotonic() + DEADLINE_SECS
        while True:
            ended = process.poll() is not None
            found = re.search(pattern, self.output(process))
            if found:
                return found
            assert not ended and time.monotonic() < deadline, self.everything()
            time.sleep(0.05)

    def end(self, process, code=0):
        """Waits for the end of a process, and returns its output."""
        try:
            found = process.wait(DEADLINE_SECS)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.everything()) from None
        assert found == code, self.everything()
        output = self.output(process)
        assert "Traceback" not in output
        # A library may report an error, of a missing GPU for instance, but no notice.
        assert not re.search(r"^([IW]\d{4} |.*WARNING|.*deprecated)", output, re.MULTILINE), output
        return output

    def everything(self):
        return "\n".join(f"{' '.join(p.args[-4:])}\n{self.output(p)}" for p in self.running)

    def close(self):
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def processes(request, tmp_path):
    """No process outlives its test."""
    started = Processes(str(tmp_path), getattr(request, "param", 2))
    yield started
    started.close()


def saved(model_dir):
    """The global step in the newest checkpoint, and the sum of its counts."""
    reader = tf.train.load_checkpoint(model_dir)
    assert reader.get_variable_to_shape_map()["embed/ctrs"] == [3, 3]
    return int(reader.get_tensor("global_step")), int(reader.get_tensor("embed/ctrs_count").sum())


def test_train_to_the_end(processes):
    flags = ("--train_steps=300", "--eval_every=100", "--updater=cumulative")
    servers = [processes.start("ps", task) for task in range(2)]
    # The chief comes last. With the usual 30 seconds between two looks at the variables, the other
    # worker would come too late for any step.
    other = processes.start("worker", 1, *flags)
    processes.wait_for(other, "worker 1: waits for the chief")
    chief = processes.start("worker", 0, *flags)

    output = processes.end(chief)
    assert "worker 0: initialised the parameter servers at step 0" in output
    made = [
        int(re.search(r"made (\d+) steps", text).group(1))
        for text in (output, processes.end(other))
    ]
    for server in servers:
        assert "training is over" in processes.end(server)

    step, rows = saved(processes.model_dir)
    assert min(made) > 0
    # The other worker may have been in a step when the last one was made.
    assert step in (300, 301) and sum(made) == step
    assert rows == BATCH_SIZE * step
    for name in ("metrics.json", "embeddings.png"):
        assert os.path.exists(os.path.join(processes.model_dir, name))
    assert not os.path.exists(processes.model_dir + "-other")


def save_unsharded(model_dir, step):
    """A checkpoint as of a process that trained alone."""
    settings = train_mnist.parse_settings(["train_mnist.py", "--embed_dims=3"])
    with tf.Graph().as_default(), tf.Session() as session:
        model = mnist_model.build_model(settings, (8, 7), 3)
        session.run(tf.global_variables_initializer())
        session.run([tf.assign(model.global_step, step)])
        session.run(tf.assign(model.centers.counts, [BATCH_SIZE * step, 0, 0]))
        model.saver.save(session, os.path.join(model_dir, "model.ckpt"), step)


@pytest.mark.parametrize("processes", [1], indirect=True, ids=["one parameter server"])
def test_kill_and_restart(processes):
    os.mkdir(processes.model_dir)
    save_unsharded(processes.model_dir, step=4)
    flags = ("--train_steps=1000000", "--eval_every=20")
    server = processes.start("ps", 0)
    chief = processes.start("worker", 0, *flags)
    other = processes.start("worker", 1, *flags)
    processes.wait_for(chief, "worker 0: initialised the parameter servers at step 4\n")
    processes.wait_for(other, "worker 1: attached")
    processes.wait_for(chief, r"(?s)(step \d+: .*){3}")
    chief.send_signal(signal.SIGKILL)
    processes.end(chief, -signal.SIGKILL)
    last = int(re.findall(r"step (\d+): ", processes.output(chief))[-1])
    assert saved(processes.model_dir)[0] < last

    # With nothing left to do, it saves what it finds, once no step is under way.
    chief = processes.start("worker", 0, "--train_steps=1")
    found = processes.wait_for(chief, r"worker 0: attached to the parameter servers at step (\d+)")
    attached = int(found.group(1))
    processes.wait_for(chief, "worker 0: waits for the last step of")
    # Nothing was rolled back, and the other worker went on all the while.
    assert attached > last + 20
    assert other.poll() is None
    other.send_signal(signal.SIGKILL)
    processes.end(other, -signal.SIGKILL)
    processes.end(chief)
    step, rows = saved(processes.model_dir)
    assert step >= attached
    # Each worker was killed with at most one step under way.
    assert BATCH_SIZE * step <= rows <= BATCH_SIZE * (step + 2)

    # The parameter server still waits for the worker that was killed.
    stranger = processes.start("worker", 1, "--seed=2", *flags)
    output = processes.end(stranger, 2)
    assert "flag --ps_hosts=" in output and "found another one" in output
    server.send_signal(signal.SIGINT)
    assert "train_mnist.py: interrupted" in processes.end(server, 130)


PS, WORKERS = "--ps_hosts=a:1,b:2", "--worker_hosts=c:3,[::1]:65535"
BAD_FLAGS = [
    ([PS, WORKERS], "--job_name=: expected ps or worker beside --ps_hosts, found nothing"),
    ([WORKERS], "--job_name=: expected ps or worker beside --worker_hosts"),
    (["--task_index=1"], "--task_index=1: expected --job_name"),
    ([PS, WORKERS, "--job_name=chief"], r"--job_name=chief: expected one of ps, worker"),
    ([PS, "--job_name=ps"], "--worker_hosts=: expected host:port"),
    ([WORKERS, "--job_name=worker"], "--ps_hosts=: expected host:port"),
    (["--job_name=worker"], "--ps_hosts=: expected host:port"),
    ([PS, WORKERS, "--job_name=ps", "--task_index=2"], r"--task_index=2: .* in \[0, 1\]"),
    ([PS, WORKERS, "--job_name=worker", "--task_index=-1"], "--task_index=-1: expected"),
    (["--ps_hosts=a:1,b", WORKERS, "--job_name=ps"], "--ps_hosts=a:1,b: .*found 'b'"),
    (["--ps_hosts=a:1,", WORKERS, "--job_name=ps"], "--ps_hosts=a:1,: .*found ''"),
    (["--ps_hosts=a:0", WORKERS, "--job_name=ps"], "--ps_hosts=a:0: expected host:port"),
    (["--ps_hosts=a:65536", WORKERS, "--job_name=ps"], "--ps_hosts=a:65536: expected host:port"),
    (["--ps_hosts=a:1, b:2", WORKERS, "--job_name=ps"], "--ps_hosts=.*found ' b:2'"),
    (["--ps_hosts=http://a:1", WORKERS, "--job_name=ps"], "--ps_hosts=http.*found 'http://a:1'"),
    (["--ps_hosts=a:1,a:1", WORKERS, "--job_name=ps"], "--ps_hosts=.*found a:1 twice"),
    ([PS, "--worker_hosts=c:3,b:2", "--job_name=ps"], "--worker_hosts=.*found b:2 in both"),
]


@pytest.mark.parametrize("bad, message", BAD_FLAGS)
def test_bad_flags(bad, message):
    with pytest.raises(InputError, match=message) as error:
        cluster_of(train_mnist.parse_settings(["train_mnist.py"] + bad))
    assert "\n" not in str(error.value)


def test_bad_flags_as_a_user_sees_them(processes):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for bad, word in (
            (["--ps_hosts=nowhere", "--worker_hosts=c:3", "--job_name=ps"], "--ps_hosts=nowhere"),
            (
                [f"--ps_hosts={address}", "--worker_hosts=c:3", "--job_name=ps"],
                "a port to listen on",
            ),
        ):
            output = processes.end(processes.start_script(*bad), 2)
            assert len(output.strip().splitlines()) == 1 and word in output
    assert not os.path.exists(processes.model_dir)


def test_who_is_who():
    cluster = cluster_of(
        train_mnist.parse_settings(
            ["train_mnist.py", PS, WORKERS, "--job_name=worker", "--task_index=1"]
        )
    )
    assert cluster.ps_hosts == ("a:1", "b:2") and cluster.worker_hosts == ("c:3", "[::1]:65535")
    assert str(cluster) == "worker 1" and not cluster.is_chief and not cluster.is_ps
    assert cluster._replace(task_index=0).is_chief
    assert not cluster._replace(task_index=0, job_name="ps").is_chief
    assert cluster_of(train_mnist.parse_settings(["train_mnist.py"])) is None
