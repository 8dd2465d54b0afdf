"""Mistakes of a line or less in the package that no other test would see."""

import collections

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch, make_centers

import tf_centers

MEAN = tf_centers.CumulativeMean()


def test_classes_beyond_the_first_block_of_each_shard(use_resource):
    """Where a search goes through 8,192 classes at a time."""
    classes = 2 * 8192 + 3000
    table = np.stack([np.arange(classes), np.arange(classes) % 7], 1)
    with tf.variable_scope("", partitioner=tf.fixed_size_partitioner(2)):
        centers = make_centers(tf_centers, use_resource, classes, 2, dtype=tf.float64)
    starts = np.split(table, 2)
    assign = [tf.assign(part, start) for part, start in zip(centers.ctrs, starts)]
    assign += [tf.assign(part, tf.ones_like(part)) for part in centers.counts]
    wanted = [5, 8191, 8192, 9691, 9692, 9700, 17883, 17884, 17890, classes - 1]
    found = tf_centers.nearest_centers(tf.constant(table[wanted], tf.float64), centers)
    with initialized_session() as session:
        session.run(assign)
        assert session.run(found.labels)[:, 0].tolist() == wanted


@pytest.mark.parametrize("decay", [1 - 1e-5, 1 - 1e-6, 1 - 3e-8])
def test_a_first_row_without_the_pull_of_the_initial_value(decay, use_resource):
    """With a decay next to 1, `1 - decay^n` has no digit left where it is taken as it stands."""
    centers = make_centers(tf_centers, use_resource, 3, 1)
    updater = tf_centers.ExponentialWindow(decay, debias=True)
    rows = tf_centers.get_embed_centers([[5.0], [7.0]], [1, 1], updater, centers)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(rows), 6.0, rtol=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [(tf.float16, 1e-3), (tf.bfloat16, 8e-3)])
@pytest.mark.parametrize("updater", [MEAN, tf_centers.ExponentialWindow(0.0, duplicates="mean")])
def test_many_rows_of_a_half_precision_table(updater, dtype, tolerance, use_resource):
    """Their sum has more digits than the table."""
    centers = make_centers(tf_centers, use_resource, 3, 2, dtype=dtype)
    embeds = 100 + np.random.RandomState(0).randn(5000, 2).astype(np.float32)
    rows = tf_centers.get_embed_centers(embeds, np.full(5000, 2), updater, centers)
    with initialized_session() as session:
        found = session.run(rows)[0].astype(np.float64)
    np.testing.assert_allclose(found, embeds.mean(0), rtol=tolerance)


@pytest.mark.parametrize("shards", [0, 2])
@pytest.mark.parametrize("training", [True, False, "tensor"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "embeds, mask, expected",
    [
        ([B, D], [B], [B, D]),
        ([None, D], [None], [None, D]),
        ([None, D], [B], [B, D]),
        ([B, D], None, [B, D]),
        (None, None, [None, D]),
        ([B // 3, 3, D], [B // 3, 3], [B // 3, 3, D]),
    ],
    ids=str,
)
def test_static_shapes(embeds, mask, expected, masked, training, shards, use_resource):
    with tf.variable_scope("", partitioner=tf.fixed_size_partitioner(shards) if shards else None):
        make_centers(tf_centers, use_resource)
    if training == "tensor":
        training = tf.placeholder(tf.bool, [])
    labels = tf.placeholder(tf.int64, mask if embeds is not None and len(embeds) == 3 else [None])
    rows = tf_centers.get_embed_centers(
        tf.placeholder(tf.float32, embeds),
        labels,
        mask=tf.placeholder(tf.bool, mask) if masked else None,
        is_training=training,
    )
    if not masked and embeds == [None, D]:
        expected = [None, D]
    assert rows.shape.as_list() == expected


@pytest.mark.parametrize("counted", [False, True])
def test_local_variables_are_found_by_name(counted, use_resource):
    local = dict(collections=[tf.GraphKeys.LOCAL_VARIABLES], trainable=False)
    with tf.variable_scope("embed", use_resource=use_resource):
        how = dict(initializer=tf.zeros_initializer(), **local)
        ctrs = tf.get_variable("ctrs", [C, D], **how)
        counts = tf.get_variable("ctrs_count", [C], tf.int64, **how) if counted else None
    embeds, labels = make_batch(0)
    update = tf_centers.update_embed_centers(embeds.astype(np.float32), labels)
    rows = tf_centers.lookup_embed_centers(labels)
    with tf.Session() as session:
        session.run(tf.local_variables_initializer())
        session.run(update)
        assert np.abs(session.run(rows)).min() > 0 and session.run(ctrs)[labels].all()
        if counted:
            np.testing.assert_array_equal(session.run(counts), np.bincount(labels, minlength=C))


def ops_by_server(build, use_resource, worker, servers=2):
    """The ops of a call that were placed on each parameter server."""
    setter = tf.train.replica_device_setter(ps_tasks=servers, worker_device=worker)
    with tf.device(setter):
        with tf.variable_scope("", partitioner=tf.fixed_size_partitioner(servers)):
            centers = make_centers(tf_centers, use_resource, 8, D, initial_counts=1)
        before = set(tf.get_default_graph().get_operations())
        embeds, labels = tf.placeholder(tf.float32, [None, D]), tf.placeholder(tf.int64, [None])
        build(embeds, labels, centers)
    places = collections.defaultdict(list)
    for op in tf.get_default_graph().get_operations():
        if op not in before:
            places[tf.DeviceSpec.from_string(op.device).task, "ps" in op.device].append(op)
    return [places[task, True] for task in range(servers)]


UPDATES = {
    "get": lambda *batch, **how: tf_centers.get_embed_centers(*batch[:2], MEAN, batch[2], **how),
    "update": lambda *batch, **how: tf_centers.update_embed_centers(
        *batch[:2], tf_centers.ExponentialWindow(), batch[2], **how
    ),
}
READS = {
    "lookup": lambda embeds, labels, centers: tf_centers.lookup_embed_centers(labels, centers),
    "nearest": lambda embeds, labels, centers: tf_centers.nearest_centers(embeds, centers, k=2),
    "distances": lambda embeds, labels, centers: tf_centers.center_distances(embeds, centers),
}


@pytest.mark.parametrize("locking", [False, True])
@pytest.mark.parametrize("call", list(UPDATES))
def test_each_server_does_the_arithmetic_of_its_shard(call, locking, use_resource):
    first, second = ops_by_server(
        lambda *batch: UPDATES[call](*batch, use_locking=locking),
        use_resource,
        "/job:worker/task:0",
    )
    # About as many: a check of all shards has to be somewhere.
    assert 1 / 1.5 < len(first) / len(second) < 1.5
    assert len(first) > 15


@pytest.mark.parametrize("call", list(READS) + list(UPDATES))
def test_a_server_needs_no_gpu_where_the_worker_has_one(call, use_resource):
    build = dict(READS, **UPDATES)[call]
    for ops in ops_by_server(build, use_resource, "/job:worker/task:0/device:GPU:0"):
        # tf.group itself leaves its empty ops there.
        assert ops and not [op for op in ops if "GPU" in op.device and op.type != "NoOp"]


@pytest.mark.parametrize("device", ["/job:localhost/replica:0/task:0/device:CPU:0", "/cpu:0", ""])
@pytest.mark.parametrize("batch", ["/job:localhost/task:0", "/cpu:0", ""])
def test_a_table_on_this_machine_is_not_warned_of(device, batch, use_resource, warnings):
    with tf.device(device):
        centers = make_centers(tf_centers, use_resource, 3, 2)
    with tf.device(batch):
        tf_centers.update_embed_centers(tf.ones([1, 2]), [1], MEAN, centers)
    assert not [text for text in warnings if "use_locking" in text]


@pytest.mark.skipif(not tf.executing_eagerly(), reason="needs jit_compile")
@pytest.mark.eager
@pytest.mark.parametrize("call", ["lookup", "get"])
def test_a_bad_label_shows_under_xla_behind_other_checks(call):
    """Where shapes have to be checked at run time as well, which are right."""
    ctrs = tensorflow.Variable(np.ones([C, D], np.float32))
    specs = [tensorflow.TensorSpec(None, tf.float32), tensorflow.TensorSpec(None, tf.int64)]

    def read(embeds, labels):
        if call == "lookup":
            return tf_centers.lookup_embed_centers(labels, ctrs)
        return tf_centers.get_embed_centers(embeds, labels, centers=ctrs, is_training=False)

    compiled = tensorflow.function(read, jit_compile=True, input_signature=specs)
    embeds = tf.ones([2, D])
    np.testing.assert_array_equal(compiled(embeds, tf.constant([3, 6], tf.int64)), np.ones([2, D]))
    for bad in ([3, C], [-1, 3]):
        assert np.isnan(compiled(embeds, tf.constant(bad, tf.int64))).all()


@pytest.mark.parametrize("locking", [False, True])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize(
    "make", [tf_centers.ExponentialWindow, tf_centers.WenUpdate], ids=["decay", "alpha"]
)
def test_the_rate_that_is_checked_is_the_rate_that_is_used(make, dtype, locking, use_resource):
    """Whoever assigns its variable in the middle of an update."""
    centers = make_centers(tf_centers, use_resource, 3, 1)
    rate = tf.get_variable("rate", initializer=tf.constant(0.5, dtype), use_resource=use_resource)
    slow = tf.random_uniform([300, 300])
    for _ in range(8):
        slow = tf.matmul(slow, slow) * 1e-3
    with tf.control_dependencies([slow]):
        assigned = tf.assign(rate, 5.0)
    with tf.control_dependencies([assigned]):
        labels = tf.identity(tf.constant([1]))
    rows = tf_centers.get_embed_centers([[6.0]], labels, make(rate), centers, use_locking=locking)
    init = tf.global_variables_initializer()
    with tf.Session() as session:
        for _ in range(5):
            session.run(init)
            try:
                found = session.run(rows)
            except tf.errors.InvalidArgumentError as error:
                assert "[0, 1]" in str(error) and not session.run(centers.ctrs).any()
            else:
                assert found == (3.0 if make is tf_centers.ExponentialWindow else 1.5)
