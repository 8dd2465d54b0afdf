"""Two parameter servers and three workers of TensorFlow 2 on this machine, for tests and scripts.

  python tests/servers.py '[{"ps": [...], "worker": [...]}, "worker", 0]'

runs the process of one task; a coordinator connects to them.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["GRPC_FAIL_FAST"] = "use_caller"  # or nobody notices a lost process

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

TASKS = [("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1), ("worker", 2)]


def make_cluster(ports):
    """The address of each task."""
    addresses = [f"localhost:{port}" for port in ports]
    return {"ps": addresses[:2], "worker": addresses[2:]}


def serve(cluster, job, task):
    """Runs until it is killed."""
    # Functions of all workers may wait in one server. With fewer threads they could wait for ever.
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=len(cluster["worker"]) + 1)
    tf.distribute.Server(cluster, job, task, protocol="grpc", config=config).join()


def connect(cluster, shards):
    """A strategy that splits each table into shards, and its coordinator.

    `shards` is a number, or a function that returns it whenever a table is created.
    """
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster), rpc_layer="grpc"
    )
    number = shards if callable(shards) else lambda: shards
    strategy = tf.distribute.ParameterServerStrategy(
        resolver, lambda shape, dtype: [number()] + [1] * (len(shape) - 1)
    )
    return strategy, tf.distribute.coordinator.ClusterCoordinator(strategy)


def read(centers):
    """Centers and counts, those of all shards in one piece."""
    wholes = [getattr(variable, "variables", [variable]) for variable in centers]
    return [np.concatenate([part.numpy() for part in whole]) for whole in wholes]


if __name__ == "__main__":
    serve(*json.loads(sys.argv[1]))
