"""Where the calls may stand: control flow, servers, TF2 code."""

import inspect

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import (
    CALLS,
    MEAN,
    B,
    C,
    D,
    check_refused,
    make_batch,
    make_centers,
    make_ctrs,
    placeholders,
    state_bits,
)
from tf2_code import eager_centers, in_tf2

import tf_centers


def check_state(session, ctrs, batches):
    """The state is that of the cumulative mean of all batches; returns its centers."""
    (counts,) = [v for v in tf.global_variables() if v is not ctrs]
    state = np.zeros([C, D]), np.zeros(C, int)
    for batch, labels in batches:
        state = reference.apply(reference.cumulative_mean, *state, batch, labels)
    np.testing.assert_allclose(session.run(ctrs), state[0], atol=1e-5)
    np.testing.assert_array_equal(session.run(counts), state[1])
    return state[0]


def bad_batches():
    """Each with the message it is refused with."""
    batch, labels = make_batch(3)
    yield (batch, np.append(labels[:-1], C)), r"found\] \[7\]"
    yield (np.where(batch == batch[-1, -1], np.nan, batch), labels), "expected finite values"


@pytest.mark.parametrize("training", ["bool", "tensor"])
def test_in_cond(training, enterable, session):
    ctrs = make_ctrs(enterable)
    embeds, labels = placeholders()
    taken = tf.placeholder(tf.bool, [])
    switch = True if training == "bool" else tf.placeholder_with_default(True, [])

    def update():
        # The count is made here, and has to be outside all the same.
        return tf_centers.get_embed_centers(embeds, labels, MEAN, is_training=switch)

    rows = tf.cond(taken, update, lambda: tf.zeros_like(embeds))
    batches = [make_batch(0), make_batch(1)]
    for (batch, batch_labels), message in [(batches[0], None), *bad_batches()]:
        feed = {embeds: batch, labels: batch_labels}
        assert not session.run(rows, {**feed, taken: False}).any()
        if message:
            check_refused(session, rows, {**feed, taken: True}, message)
    check_state(session, ctrs, [])
    for batch, batch_labels in batches:
        found = session.run(rows, {embeds: batch, labels: batch_labels, taken: True})
    expected = check_state(session, ctrs, batches)
    np.testing.assert_allclose(found, expected[batches[1][1]], atol=1e-6)


def test_in_while_loop(enterable, session):
    """A bad batch of a loop leaves what the iterations before it wrote, and nothing of its own."""
    ctrs = make_ctrs(enterable)
    embeds, labels = tf.placeholder(tf.float32, [None, B, D]), tf.placeholder(tf.int64, [None, B])

    def body(step, previous):
        with tf.control_dependencies([previous]):
            one = tf.identity(embeds[step])
            rows = tf_centers.get_embed_centers(one, labels[step], MEAN)
        return step + 1, rows

    how = dict(loop_vars=[tf.constant(0), tf.zeros([B, D])], parallel_iterations=1)
    _, last = tf.while_loop(lambda step, _: step < tf.shape(embeds)[0], body, **how)
    good, init = [make_batch(0), make_batch(1)], tf.global_variables_initializer()

    def run(batches):
        return session.run(last, dict(zip((embeds, labels), map(list, zip(*batches)))))

    found = run(good)
    expected = check_state(session, ctrs, good)
    np.testing.assert_allclose(found, expected[good[1][1]], atol=1e-5)
    bits = state_bits(session, *tf.global_variables())
    for bad, message in bad_batches():
        session.run(init)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(good + [bad, good[0]])
        assert state_bits(session, *tf.global_variables()) == bits


@pytest.mark.parametrize("call", list(CALLS))
def test_each_server_does_the_work_of_its_shard(call, use_resource):
    """And needs no GPU where the worker has one."""
    worker = "/job:worker/task:0/device:GPU:0"
    with tf.device(tf.train.replica_device_setter(ps_tasks=2, worker_device=worker)):
        centers = make_centers(tf_centers, use_resource, 8, D, 2, initial_counts=1)
        graph = tf.get_default_graph()
        before = set(graph.get_operations())
        CALLS[call](*placeholders(), centers)
    servers = [[], []]
    for op in set(graph.get_operations()) - before:
        place = tf.DeviceSpec.from_string(op.device)
        # tf.group itself leaves its empty ops there.
        if place.job == "ps" and op.type != "NoOp":
            assert place.device_type != "GPU"
            servers[place.task].append(op)
    # As much on each; a check of all shards has to be somewhere.
    first, second = map(len, servers)
    assert first and second and 1 / 1.5 < first / second < 1.5
    assert call not in ("get", "update") or first > 15


@pytest.mark.parametrize("call", list(CALLS))
def test_a_call_stays_on_the_device_of_its_caller(call, use_resource):
    """But for what touches a table that is elsewhere."""
    centers, graph = make_centers(tf_centers, use_resource), tf.get_default_graph()
    before = set(graph.get_operations())
    with tf.device("/device:GPU:1"):
        CALLS[call](*placeholders(), centers)
    for op in set(graph.get_operations()) - before:
        alone = op.colocation_groups() == [f"loc:@{op.name}".encode()]
        assert op.device or not alone or op.type == "NoOp", op


@pytest.mark.parametrize(
    "table, batch, locking, training",
    [(1, 0, True, True), (0, 1, True, "tensor"), (1, 0, False, "tensor"), (0, 1, False, False)],
)
def test_without_soft_placement(table, batch, locking, training, use_resource):
    with tf.device(f"/device:CPU:{table}"):
        centers = make_centers(tf_centers, use_resource)
    how = dict(mask=[True, True, True, False], use_locking=locking, is_training=training)
    with tf.device(f"/device:CPU:{batch}"):
        if training == "tensor":
            how["is_training"] = tf.placeholder_with_default(True, [])
        rows = tf_centers.get_embed_centers(np.ones([4, D]), [1, 2, 2, 6], MEAN, centers, **how)
        found = tf_centers.lookup_embed_centers([1, 2], centers)
    config = tf.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=False)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        session.run(rows)
        expected = np.zeros([2, D]) if training is False else np.ones([2, D])
        np.testing.assert_array_equal(session.run(found), expected)


def test_local_variables_are_found_by_name(use_resource):
    how = dict(collections=[tf.GraphKeys.LOCAL_VARIABLES], use_resource=use_resource)
    ctrs = make_ctrs(**how)
    counts = tf.get_variable("embed/ctrs_count", initializer=np.zeros([C], int), **how)
    update = tf_centers.update_embed_centers(tf.ones([1, D]), [3])
    rows = tf_centers.lookup_embed_centers([3])
    with tf.Session() as session:
        session.run(tf.local_variables_initializer())
        session.run(update)
        assert session.run(rows).all() and session.run(ctrs)[3].all()
        assert session.run(counts)[3] == 1


def test_name_is_the_scope_of_the_ops(use_resource):
    make_ctrs(use_resource)
    before = {op.name for op in tf.get_default_graph().get_operations()}
    rows = tf_centers.get_embed_centers([[1.0] * D], [0], name="mine")
    assert rows.name.startswith("mine/")
    added = {op.name for op in tf.get_default_graph().get_operations()} - before
    assert all(name.startswith("mine/") for name in added)
    assert tf_centers.lookup_embed_centers([0]).name.startswith("lookup_embed_centers/")


class Given:
    """A batch whose conversion to a tensor sees who asks for it."""

    def __init__(self, value):
        self.value, self.generated = value, set()

    def convert(self, dtype=None, name=None, as_ref=False):
        frames = [one for one in inspect.stack() if "autograph_generated" in one.filename]
        self.generated.update(frame.function for frame in frames)
        return tensorflow.constant(self.value)


@in_tf2
def test_autograph_does_not_rewrite_the_package():
    tensorflow.register_tensor_conversion_function(Given, Given.convert)
    centers = eager_centers()
    embeds, labels = Given(np.ones([2, D], np.float32)), Given([0, 1])

    @tensorflow.function
    def step():
        tf_centers.update_embed_centers(embeds, labels, None, centers)
        tf_centers.get_embed_centers(embeds, labels, None, centers)
        tf_centers.lookup_embed_centers(labels, centers)
        tf_centers.center_distances(embeds, centers)
        return tf_centers.nearest_centers(embeds, centers)

    step()
    assert embeds.generated == labels.generated == {"tf__step"}


@in_tf2
def test_tf2_names_are_refused_with_a_way_out():
    def lookup(labels):
        return tf_centers.lookup_embed_centers(labels)

    for call in (lookup, tensorflow.function(lookup)):
        with pytest.raises(ValueError, match="pass centers=EmbedCenters"):
            call(tensorflow.constant([0]))
    with pytest.raises(ValueError, match="needs counts.*EmbedCenters"):
        tf_centers.update_embed_centers([[1.0] * D], [0], MEAN, eager_centers().ctrs)


@in_tf2
def test_tf2_centers_are_created_outside_of_functions():
    make = tensorflow.function(lambda: tf_centers.create_embed_centers(C, D) and None)
    with pytest.raises(ValueError, match=r"create_embed_centers: .*tf\.function"):
        make()
    centers = tf_centers.create_embed_centers(C, D)
    assert tf_centers.update_embed_centers([[2.0] * D], [3], None, centers) is None
    assert not centers.ctrs.trainable and not centers.counts.trainable
