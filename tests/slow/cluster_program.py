"""A process of a cluster, started by test_cluster.py: a parameter server, a worker or the reader.

  cluster_program.py '{"job": "worker", "task": 0, "cluster": {...}, "use_resource": true, ...}'

A worker says on its standard output when it is ready and when a batch has been applied, with the
bytes that were sent for it. Before the first batch and before it ends it waits for a line.
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


def received(stats):
    """The bytes of all tensors that went from one process to another in a step, or of most."""
    nodes = [node for device in stats.step_stats.dev_stats for node in device.node_stats]
    return sum(
        output.tensor_description.allocation_description.requested_bytes
        for node in nodes
        if node.node_name == "RecvTensor"
        for output in node.output
    )


def run_worker(task, session, embeds, labels, rows):
    trace = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    say("ready")
    sys.stdin.readline()
    for step in range(STEPS):
        stats, batch = tf.RunMetadata(), make_batch(task, step)
        found = session.run(rows, dict(zip([embeds, labels], batch)), trace, stats)
        assert found.shape == (ROWS, DIMS) and np.isfinite(found).all()
        say("applied", step, received(stats))
    sys.stdin.readline()


def main(job, task, cluster, use_resource, save=None):
    tf.disable_v2_behavior()
    spec = tf.train.ClusterSpec(cluster)
    server = tf.train.Server(spec, job_name=job, task_index=task)
    if job == "ps":
        server.join()
    centers, *batch = build(job, task, spec, use_resource)
    config = tf.ConfigProto(device_filters=["/job:ps", f"/job:{job}/task:{task}"])
    missing = tf.report_uninitialized_variables()
    with tf.Session(server.target, config=config) as session:
        if task == 0:
            session.run(tf.global_variables_initializer())
        while len(session.run(missing)):
            time.sleep(0.1)
        if save is None:
            run_worker(task, session, *batch)
        else:
            state = [np.concatenate(session.run(list(variable))) for variable in centers]
            np.savez(save, ctrs=state[0], counts=state[1])


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
