"""One of two processes under `MultiWorkerMirroredStrategy`, run by test_replica_processes.py.

    python replica_process.py RANK PORT PORT FOLDER

Prints a line after each event; the last step waits for the test to end the other process.
"""

import hashlib
import json
import os
import sys

import numpy as np
import tensorflow as tf

import tf_centers

STEPS = 8
SIGNATURE = [tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int64)]


def say(*words):
    print(*words, flush=True)


def batch(step, rank):
    """Of another size on each process, and now and then empty."""
    rng = np.random.RandomState(10 * step + rank)
    size = rng.randint(0, 5) if step else 0
    return rng.randn(size, 3).astype(np.float32), rng.randint(6, size=size)


def digest(centers):
    return hashlib.sha256(b"".join(variable.numpy().tobytes() for variable in centers)).hexdigest()


def main(rank, ports, folder):
    workers = [f"localhost:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        centers = tf_centers.create_embed_centers(6, 3)

    def update(embeds, labels):
        return tf_centers.get_embed_centers(embeds, labels, tf_centers.CumulativeMean(), centers)

    @tf.function(input_signature=SIGNATURE)
    def step(embeds, labels):
        return strategy.run(update, (embeds, labels))

    for number in range(STEPS):
        step(*batch(number, rank))
    say("trained", digest(centers))
    for bad_rank in (0, 1):
        embeds, labels = np.ones([2, 3], np.float32), np.array([1, 2])
        if rank == bad_rank:
            labels[0] = 6
        try:
            step(embeds, labels)
        except tf.errors.InvalidArgumentError as error:
            say("refused", "expected every label in [0, 6), found] [6]" in str(error))
    say("unchanged", digest(centers))
    step(*batch(STEPS, rank))
    say("went on", digest(centers))
    if rank == 0:
        checkpoint = tf.train.Checkpoint(ctrs=centers.ctrs, counts=centers.counts)
        say("saved", checkpoint.write(os.path.join(folder, "centers")))
    while True:
        step(*batch(STEPS, rank))
        say("step")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:4], sys.argv[4])
