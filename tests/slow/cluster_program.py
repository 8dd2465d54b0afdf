"""A process of a cluster, started by test_cluster.py: a parameter server, a worker or the reader.

  cluster_program.py '{"job": "worker", "task": 0, "cluster": {...}, "use_resource": true, ...}'

A worker says on its standard output when it is ready and when a batch has been applied, and goes on
once it is told to on its standard input.
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402

import tf_centers  # noqa: E402

CLASSES, DIMS, ROWS, STEPS, SHARDS = 20011, 64, 512, 40, 2


def make_batch(task, step):
    """Rows around the number of their class; half of them of few classes, where workers meet."""
    random = np.random.RandomState(1000 * task + step)
    labels = random.randint(0, CLASSES, ROWS)
    labels[::2] = random.randint(0, CLASSES, ROWS // 2) % 40 * 500
    return (random.randn(ROWS, DIMS) + labels[:, None] % 10).astype(np.float32), labels


def say(*words):
    print(*words, flush=True)


def build(job, task, cluster, use_resource):
    setter = tf.train.replica_device_setter(
        cluster=cluster, worker_device=f"/job:{job}/task:{task}"
    )
    with tf.device(setter):
        partitioner = tf.fixed_size_partitioner(SHARDS)
        with tf.variable_scope("", partitioner=partitioner, use_resource=use_resource):
            centers = tf_centers.create_embed_centers(CLASSES, DIMS)
        embeds = tf.placeholder(tf.float32, [None, DIMS])
        labels = tf.placeholder(tf.int64, [None])
        rows = tf_centers.get_embed_centers(
            embeds, labels, tf_centers.CumulativeMean(), centers, use_locking=True
        )
    assert [v.device for v in centers.ctrs] == [v.device for v in centers.counts]
    assert len({v.device for v in centers.ctrs}) == SHARDS
    return centers, embeds, labels, rows


def run_worker(options, session, embeds, labels, rows):
    task = options["task"]
    say("ready")
    sys.stdin.readline()
    for step in range(STEPS):
        batch, batch_labels = make_batch(task, step)
        found = session.run(rows, {embeds: batch, labels: batch_labels})
        assert found.shape == (ROWS, DIMS) and np.isfinite(found).all()
        say("applied", step)
    say("done")
    sys.stdin.readline()


def main(options):
    tf.disable_v2_behavior()
    cluster = tf.train.ClusterSpec(options["cluster"])
    job, task = options["job"], options["task"]
    server = tf.train.Server(cluster, job_name=job, task_index=task)
    if job == "ps":
        say("ready")
        server.join()
    centers, embeds, labels, rows = build(job, task, cluster, options["use_resource"])
    config = tf.ConfigProto(device_filters=["/job:ps", f"/job:{job}/task:{task}"])
    missing = tf.report_uninitialized_variables()
    with tf.Session(server.target, config=config) as session:
        if options.get("chief"):
            session.run(tf.global_variables_initializer())
        while len(session.run(missing)):
            time.sleep(0.1)
        if "save" in options:
            state = [np.concatenate(session.run(list(variable))) for variable in centers]
            np.savez(options["save"], ctrs=state[0], counts=state[1])
        else:
            run_worker(options, session, embeds, labels, rows)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
