"""Where the calls may stand: control flow, servers, TF2 code."""

import inspect

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    B,
    C,
    D,
    check_refused,
    initialized_session,
    make_batch,
    make_centers,
    make_ctrs,
    placeholders,
    state_bits,
)
from tf2_code import eager_centers, in_tf2

import tf_centers


def check_state(session, batches):
    """The state is that of the cumulative mean of all batches; returns its centers."""
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for batch, labels in batches:
        ctrs, counts = reference.apply(reference.cumulative_mean, ctrs, counts, batch, labels)
    by_name = {v.name: v for v in tf.global_variables()}
    found = session.run([by_name["embed/ctrs:0"], by_name["embed/ctrs_count:0"]])
    np.testing.assert_allclose(found[0], ctrs, atol=1e-5)
    np.testing.assert_array_equal(found[1], counts)
    return ctrs


def bad_batches():
    """Each with the message it is refused with."""
    batch, labels = make_batch(3)
    yield batch, np.append(labels[:-1], C), r"found\] \[7\]"
    yield np.where(batch == batch[-1, -1], np.nan, batch), labels, "expected finite values"


@pytest.mark.parametrize("training", ["bool", "tensor"])
def test_in_cond(training, enterable):
    make_ctrs(enterable)
    embeds, labels = placeholders()
    taken = tf.placeholder(tf.bool, [])
    switch = True if training == "bool" else tf.placeholder_with_default(True, [])

    def update():
        # The count is made here, and has to be outside all the same.
        return tf_centers.get_embed_centers(embeds, labels, MEAN, is_training=switch)

    rows = tf.cond(taken, update, lambda: tf.zeros_like(embeds))
    batches = [make_batch(0), make_batch(1)]
    with initialized_session() as session:

        def run(batch, batch_labels, take):
            return session.run(rows, {embeds: batch, labels: batch_labels, taken: take})

        assert not run(*batches[0], False).any()
        check_state(session, [])
        run(*batches[0], True)
        for batch, batch_labels, message in bad_batches():
            feed = {embeds: batch, labels: batch_labels}
            check_refused(session, rows, {**feed, taken: True}, message)
            run(batch, batch_labels, False)
        found = run(*batches[1], True)
        ctrs = check_state(session, batches)
        np.testing.assert_allclose(found, ctrs[batches[1][1]], atol=1e-6)


def test_in_while_loop(enterable):
    """A bad batch of a loop leaves what the iterations before it wrote, and nothing of its own."""
    make_ctrs(enterable)
    embeds, labels = tf.placeholder(tf.float32, [None, B, D]), tf.placeholder(tf.int64, [None, B])

    def body(step, previous):
        with tf.control_dependencies([previous]):
            one = tf.identity(embeds[step])
            rows = tf_centers.get_embed_centers(one, labels[step], MEAN)
        return step + 1, rows

    last = tf.while_loop(
        lambda step, _: step < tf.shape(embeds)[0],
        body,
        [tf.constant(0), tf.zeros([B, D])],
        parallel_iterations=1,
    )[1]
    good, init = [make_batch(0), make_batch(1)], tf.global_variables_initializer()
    with initialized_session() as session:

        def run(batches):
            return session.run(last, dict(zip((embeds, labels), map(list, zip(*batches)))))

        found = run(good)
        ctrs = check_state(session, good)
        np.testing.assert_allclose(found, ctrs[good[1][1]], atol=1e-5)
        expected = state_bits(session, *tf.global_variables())
        for *bad, message in bad_batches():
            session.run(init)
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                run(good + [bad, good[0]])
            assert state_bits(session, *tf.global_variables()) == expected


CALLS = {
    "get": lambda *batch: tf_centers.get_embed_centers(*batch[:2], MEAN, batch[2]),
    "update": lambda *batch: tf_centers.update_embed_centers(
        *batch[:2], None, batch[2], use_locking=True
    ),
    "lookup": lambda embeds, labels, centers: tf_centers.lookup_embed_centers(labels, centers),
    "nearest": lambda embeds, labels, centers: tf_centers.nearest_centers(embeds, centers, k=2),
    "distances": lambda embeds, labels, centers: tf_centers.center_distances(embeds, centers),
}


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


def test_local_variables_are_found_by_name(use_resource):
    how = dict(collections=[tf.GraphKeys.LOCAL_VARIABLES], trainable=False)
    zeros = tf.zeros_initializer()
    with tf.variable_scope("embed", use_resource=use_resource, initializer=zeros):
        ctrs = tf.get_variable("ctrs", [C, D], **how)
        counts = tf.get_variable("ctrs_count", [C], tf.int64, **how)
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

    def __init__(self, value, generated):
        self.value, self.generated = value, generated


def convert(given, dtype=None, name=None, as_ref=False):
    for frame in inspect.stack():
        if "autograph_generated" in frame.filename:
            given.generated.add(frame.function)
    return tensorflow.constant(given.value)


@in_tf2
def test_autograph_does_not_rewrite_the_package():
    tensorflow.register_tensor_conversion_function(Given, convert)
    centers, generated = eager_centers(), set()
    embeds, labels = Given(np.ones([2, D], np.float32), generated), Given([0, 1], generated)

    @tensorflow.function
    def step():
        tf_centers.update_embed_centers(embeds, labels, None, centers)
        tf_centers.get_embed_centers(embeds, labels, None, centers)
        tf_centers.lookup_embed_centers(labels, centers)
        tf_centers.center_distances(embeds, centers)
        return tf_centers.nearest_centers(embeds, centers)

    step()
    assert generated == {"tf__step"}


@in_tf2
@pytest.mark.parametrize("call", ["lookup", "lookup of two axes", "get"])
def test_a_bad_label_shows_under_xla_behind_other_checks(call):
    """Where shapes have to be checked at run time as well, which are right."""
    ctrs = tensorflow.Variable(np.random.RandomState(1).randn(C, D).astype(np.float32))
    axes = [None, None] if "axes" in call else None
    specs = [tensorflow.TensorSpec(None, tf.float32), tensorflow.TensorSpec(axes, tf.int64)]

    def read(embeds, labels):
        if call != "get":
            return tf_centers.lookup_embed_centers(labels, ctrs)
        return tf_centers.get_embed_centers(embeds, labels, centers=ctrs, is_training=False)

    compiled = tensorflow.function(read, jit_compile=True, input_signature=specs)
    for labels in ([3, 6], [3, C], [-1, 3]):
        labels = np.array([labels, labels] if axes else labels)
        found = compiled(tf.ones([2, D]), tf.constant(labels)).numpy()
        if labels.max() == 6:
            np.testing.assert_array_equal(found, ctrs.numpy()[labels])
        else:
            assert found.shape == labels.shape + (D,) and np.isnan(found).all()


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
