"""One of two processes under `MultiWorkerMirroredStrategy`, run by test_replica_processes.py.

    python replica_process.py RANK PORT PORT FOLDER

Holds its copy of the table against a single table that gets the batches of both, bit for bit. Then
says so, and makes steps until the test ends the other process.
"""

import json
import os
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_centers


def batch(step, rank):
    """Of another size on each process, and now and then empty."""
    rng = np.random.RandomState(10 * step + rank)
    size = rng.randint(0, 5) if step else 0
    return rng.randn(size, 3).astype(np.float32), rng.randint(6, size=size)


def bits(centers):
    return [variable.numpy().tobytes() for variable in centers]


def main(rank, ports, folder):
    workers = [f"localhost:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    strategy, mean = tf.distribute.MultiWorkerMirroredStrategy(), tf_centers.CumulativeMean()
    with strategy.scope():
        centers = tf_centers.create_embed_centers(6, 3)
    single, twin = (tf_centers.create_embed_centers(6, 3) for _ in range(2))
    update_single = tf.function(tf_centers.get_embed_centers)

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None], tf.int64)])
    def step(*batch):
        return strategy.run(lambda *own: tf_centers.get_embed_centers(*own, mean, centers), batch)

    def make_step(number):
        step(*batch(number, rank))
        joined = [np.concatenate(column) for column in zip(batch(number, 0), batch(number, 1))]
        update_single(*joined, mean, single)
        assert bits(centers) == bits(single)

    for number in range(8):
        make_step(number)
    for wrong, message in (
        ((2, [6, 2]), r"every label in \[0, 6\), found\] \[6\]"),
        ((3, [1, 2]), "expected embed_batch of shape"),
    ):
        for bad_rank in (0, 1):
            size, labels = wrong if rank == bad_rank else (2, [1, 2])
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                step(np.ones([size, 3], np.float32), np.array(labels))
    make_step(8)
    if rank == 0:
        path = tf.train.Checkpoint(**centers._asdict()).write(os.path.join(folder, "centers"))
        tf.train.Checkpoint(**twin._asdict()).read(path).assert_consumed()
        assert bits(twin) == bits(single)
    print("all the same", flush=True)
    while True:
        step(*batch(8, rank))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:4], sys.argv[4])
