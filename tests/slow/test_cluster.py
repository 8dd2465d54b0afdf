"""Centers on two parameter servers, moved by two workers, each a process of its own."""

import contextlib
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
from cluster_program import CLASSES, DIMS, ROWS, SHARDS, STEPS, make_batch
from helpers import free_ports

HERE = pathlib.Path(__file__).resolve().parent
PATH = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])
TIMEOUT = 240  # seconds for one thing to happen; nothing takes that long unless it hangs


class Proxy:
    """A port that passes everything on to another one, and counts the bytes of both directions."""

    def __init__(self, target):
        self.bytes = 0
        self._target = target
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                one = self._listener.accept()[0]
                try:
                    other = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # Not up yet: the caller tries again.
                    one.close()
                    continue
                self._sockets += [one, other]
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(1 << 18)
                if not data:
                    break
                self.bytes += len(data)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        for one in self._sockets:
            one.close()


class Process:
    """A process of the cluster, with the lines it has said."""

    def __init__(self, options):
        environment = dict(os.environ, PYTHONPATH=PATH)
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "cluster_program.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self.said = []
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line.decode().strip())
        self._lines.put(None)

    def wait_for(self, words):
        while words not in self.said:
            line = self._lines.get(timeout=TIMEOUT)
            assert line is not None, f"ended before it said {words!r}: {self._last_words()}"
            self.said.append(line)

    def _last_words(self):
        self._errors.seek(0)
        return self.said[-3:], self._process.wait(), self._errors.read().decode()[-2000:]

    def tell(self):
        self._process.stdin.write(b"go on\n")
        self._process.stdin.flush()

    def wait(self):
        assert self._process.wait(timeout=TIMEOUT) == 0

    def kill(self):
        """Ends it as a machine that fails does; what it said until then is kept."""
        self._process.kill()
        self._process.wait()
        while True:
            line = self._lines.get(timeout=TIMEOUT)
            if line is None:
                return
            self.said.append(line)

    def close(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()


class Cluster:
    """Two parameter servers, two workers and a reader, which reach each other through proxies."""

    def __init__(self, use_resource, tmp_path):
        self._path = str(tmp_path / "state.npz")
        self._use_resource = use_resource
        self._tasks = [("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1), ("worker", 2)]
        self._ports = dict(zip(self._tasks, free_ports(len(self._tasks))))
        self._proxies = {task: Proxy(port) for task, port in self._ports.items()}
        self._processes = []
        try:
            self.servers = [self._start("ps", 0), self._start("ps", 1)]
            # A proxy takes calls also while its server is not up, and hangs up on them.
            for server in self.servers:
                server.wait_for("ready")
            self.workers = [self._start("worker", 0, chief=True), self._start("worker", 1)]
            for worker in self.workers:
                worker.wait_for("ready")
        except BaseException:
            self.close()
            raise

    def _start(self, job, task, **more):
        hosts = {"ps": [], "worker": []}
        for other in self._tasks:
            # Its own port is the one it listens on.
            port = self._ports[other] if other == (job, task) else self._proxies[other].port
            hosts[other[0]].append(f"127.0.0.1:{port}")
        options = dict(job=job, task=task, cluster=hosts, use_resource=self._use_resource, **more)
        self._processes.append(Process(options))
        return self._processes[-1]

    @property
    def bytes(self):
        return sum(proxy.bytes for proxy in self._proxies.values())

    def read_state(self):
        self._start("worker", 2, save=self._path).wait()
        with np.load(self._path) as state:
            return state["ctrs"], state["counts"]

    def close(self):
        for process in self._processes:
            process.close()
        for proxy in self._proxies.values():
            proxy.close()


@pytest.fixture
def cluster(use_resource, tmp_path):
    found = Cluster(use_resource, tmp_path)
    yield found
    found.close()


def means_of(batches):
    """The float64 means and the numbers of the rows of every class."""
    total, counts = np.zeros([CLASSES, DIMS]), np.zeros(CLASSES, int)
    for embeds, labels in batches:
        np.add.at(total, labels, embeds.astype(np.float64))
        np.add.at(counts, labels, 1)
    return total / np.maximum(counts, 1)[:, None], counts


def test_no_row_is_lost_and_none_travels_twice(cluster):
    for worker in cluster.workers:  # One step each, which also sets the connections up.
        worker.tell()
    for worker in cluster.workers:
        worker.wait_for("applied 0")
    before, said = cluster.bytes, [len(worker.said) for worker in cluster.workers]
    for worker in cluster.workers:
        worker.wait_for("done")
    sent = cluster.bytes - before
    steps = sum(len(w.said) - n - 1 for w, n in zip(cluster.workers, said))
    # One row up and one down. Steps may have begun before the count did, but not the other way.
    touched = 2 * ROWS * DIMS * 4
    assert sent < 1.3 * touched * (steps + len(cluster.workers))
    ctrs, counts = cluster.read_state()
    expected = means_of(make_batch(task, step) for task in range(2) for step in range(STEPS))
    np.testing.assert_array_equal(counts, expected[1])
    np.testing.assert_allclose(ctrs, expected[0], rtol=2e-5, atol=2e-5)


def test_a_killed_worker_leaves_the_other_running(cluster):
    survivor, victim = cluster.workers
    for worker in cluster.workers:
        worker.tell()
    victim.wait_for("applied 5")
    victim.kill()
    survivor.wait_for("done")
    ctrs, counts = cluster.read_state()
    steps = sum(line.startswith("applied") for line in victim.said)
    reported = [make_batch(0, step) for step in range(STEPS)]
    reported += [make_batch(1, step) for step in range(steps)]
    # The batch in flight may have reached each of the parameter servers, or not.
    candidates = [means_of(reported), means_of(reported + [make_batch(1, steps)])]
    for shard in np.array_split(np.arange(CLASSES), SHARDS):
        fitting = [means for means, n in candidates if (n[shard] == counts[shard]).all()]
        assert fitting, "a count that no batches explain"
        np.testing.assert_allclose(ctrs[shard], fitting[0][shard], rtol=2e-5, atol=2e-5)
