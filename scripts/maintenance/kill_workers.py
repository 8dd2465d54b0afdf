"""Kills workers of a parameter server strategy in the middle of updates, and looks for lost rows.

  python scripts/maintenance/kill_workers.py [--kills=100] [--shards=2]

Two servers and three workers are processes on this machine. Again and again, a worker is killed at
a random moment of locked updates of `CumulativeMean`, and started anew. Each function updates
classes that all share, and a class of its own in each shard, whose count says how often it was
applied there. Exits with 1 if a shard lacks a function, if more functions were applied again than
workers killed, or if a center is not the mean of all rows applied; with a traceback if it hangs.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import pathlib
import socket
import sys
import time
from typing import Any, List

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import servers  # noqa: E402
import tensorflow as tf  # noqa: E402
from absl import app, flags  # noqa: E402
from helpers import free_ports  # noqa: E402
from tqdm import tqdm  # noqa: E402

import tf_centers  # noqa: E402

flags.DEFINE_integer("kills", 100, "How many times a worker is killed.", lower_bound=1)
flags.DEFINE_integer("shards", 2, "Shards of the table; 1 leaves it whole.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the batches and of the moments.")

SHARED, DIMS, ROWS = 20, 64, 256
PER_KILL, WAVE = 300, 30  # functions at most, and at once


def main(argv: List[str]) -> None:
    """Runs the script."""
    kills, shards, seed = (flags.FLAGS[name].value for name in ("kills", "shards", "seed"))
    random, batches = np.random.RandomState(seed), []
    cluster = servers.make_cluster(free_ports(len(servers.TASKS)))
    tf.get_logger().setLevel("CRITICAL")  # or it tells of every lost worker

    # Forked from a process that has imported TensorFlow and not used it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow"])

    def start(*task: Any) -> Any:
        process = context.Process(target=servers.serve, args=[cluster, *task], daemon=True)
        process.start()
        return process

    processes = {task: start(*task) for task in servers.TASKS}
    try:
        strategy, coordinator = servers.connect(cluster, shards)
        size = SHARED + kills * PER_KILL  # of a shard
        with strategy.scope():
            centers = tf_centers.create_embed_centers(shards * size, DIMS)

        @tf.function(input_signature=[tf.TensorSpec([None, DIMS]), tf.TensorSpec([None], tf.int64)])
        def step(embeds: Any, labels: Any) -> Any:
            mean = tf_centers.CumulativeMean()
            return tf_centers.get_embed_centers(embeds, labels, mean, centers, use_locking=True)

        for kill in tqdm(range(1, kills + 1), "kills", disable=None):
            faulthandler.dump_traceback_later(600, exit=True)
            victim = random.randint(3)
            while not _listens(cluster["worker"][victim]):
                time.sleep(0.1)
            end = time.monotonic() + random.uniform(0, 2)
            while time.monotonic() < end:
                wave = WAVE if coordinator.done() and len(batches) <= kill * PER_KILL - WAVE else 0
                for _ in range(wave):
                    labels = random.randint(SHARED, size=ROWS)
                    labels[:shards] = SHARED + len(batches)  # its own
                    labels += size * (np.arange(ROWS) % shards)
                    batches.append((random.randn(ROWS, DIMS).astype(np.float32), labels))
                    coordinator.schedule(step, args=tuple(map(tf.constant, batches[-1])))
                time.sleep(0.01)
            processes["worker", victim].kill()
            processes["worker", victim].join()
            processes["worker", victim] = start("worker", victim)
        coordinator.join()
        ctrs, counts = servers.read(centers)
    finally:
        for process in processes.values():
            process.kill()

    times = counts.reshape(shards, size)[:, SHARED : SHARED + len(batches)]
    sums, rows = np.zeros(ctrs.shape), np.zeros(counts.shape, int)
    for number, (embeds, labels) in enumerate(batches):
        applied = times[labels // size, number]
        np.add.at(sums, labels, embeds * applied[:, np.newaxis].astype(float))
        np.add.at(rows, labels, applied)
    lost, again, wrong = np.sum(times.min(0) < 1), np.sum(times.max(0) - 1), np.sum(rows != counts)
    error = np.abs(ctrs - sums / np.maximum(rows, 1)[:, np.newaxis]).max()
    print(f"TensorFlow {tf.__version__}: {kills} kills, {len(batches)} functions, {shards} shards")
    print(
        f"lost {lost}, applied again {again}, wrong counts {wrong}, error {error:.1e}", flush=True
    )
    # At a usual exit, the coordinator waits long for servers that are gone.
    os._exit(int(lost > 0 or again > kills or wrong > 0 or error > 1e-4))


def _listens(address: str) -> bool:
    """Whether a server is up."""
    with contextlib.closing(socket.socket()) as one:
        return one.connect_ex(("localhost", int(address.split(":")[1]))) == 0


if __name__ == "__main__":
    app.run(main)
