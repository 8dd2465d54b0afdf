"""Centers on two parameter servers, moved by two workers, each a process of its own."""

import contextlib
import json
import pathlib
import socket
import threading

import numpy as np
import pytest
from cluster_program import CLASSES, DIMS, ROWS, SHARDS, STEPS, make_batch
from helpers import free_ports

PROGRAM = pathlib.Path(__file__).resolve().parent / "cluster_program.py"


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


class Cluster:
    """Two parameter servers, two workers and a reader, which reach each other through proxies."""

    def __init__(self, start, use_resource, tmp_path):
        self._start_program = start
        self._path = str(tmp_path / "state.npz")
        self._use_resource = use_resource
        self._tasks = [("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1), ("worker", 2)]
        self._ports = dict(zip(self._tasks, free_ports(len(self._tasks))))
        self._proxies = {task: Proxy(port) for task, port in self._ports.items()}
        self._runs = []
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
        run = self._start_program(PROGRAM, json.dumps(options), apart=True, listens=True)
        self._runs.append(run)
        return run

    @property
    def bytes(self):
        return sum(proxy.bytes for proxy in self._proxies.values())

    def read_state(self):
        self._start("worker", 2, save=self._path).end()
        with np.load(self._path) as state:
            return state["ctrs"], state["counts"]

    def close(self):
        for run in self._runs:
            run.kill()
        for proxy in self._proxies.values():
            proxy.close()


@pytest.fixture
def cluster(start, use_resource, tmp_path):
    found = Cluster(start, use_resource, tmp_path)
    yield found
    found.close()


def means_of(batches):
    """The float64 means and the numbers of the rows of every class."""
    total, counts = np.zeros([CLASSES, DIMS]), np.zeros(CLASSES, int)
    for embeds, labels in batches:
        np.add.at(total, labels, embeds.astype(np.float64))
        np.add.at(counts, labels, 1)
    return total / np.maximum(counts, 1)[:, None], counts


def steps_of(worker):
    """How many batches a worker has said to be applied."""
    return worker.output.count("applied")


def test_no_row_is_lost_and_none_travels_twice(cluster):
    for worker in cluster.workers:  # One step each, which also sets the connections up.
        worker.tell("go on")
    for worker in cluster.workers:
        worker.wait_for("applied 0\n")
    begun = sum(map(steps_of, cluster.workers))
    before = cluster.bytes
    for worker in cluster.workers:
        worker.wait_for("done")
    sent = cluster.bytes - before
    steps = sum(map(steps_of, cluster.workers)) - begun
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
        worker.tell("go on")
    victim.wait_for("applied 5\n")
    victim.kill()
    survivor.wait_for("done")
    ctrs, counts = cluster.read_state()
    steps = steps_of(victim)
    reported = [make_batch(0, step) for step in range(STEPS)]
    reported += [make_batch(1, step) for step in range(steps)]
    # The batch in flight may have reached each of the parameter servers, or not.
    candidates = [means_of(reported), means_of(reported + [make_batch(1, steps)])]
    for shard in np.array_split(np.arange(CLASSES), SHARDS):
        fitting = [means for means, n in candidates if (n[shard] == counts[shard]).all()]
        assert fitting, "a count that no batches explain"
        np.testing.assert_allclose(ctrs[shard], fitting[0][shard], rtol=2e-5, atol=2e-5)
