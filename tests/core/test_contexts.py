"""Where the calls may stand: control flow, towers, several calls in a step, TF2 code."""

import inspect
import pathlib

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
    for value in (2**31, 2**63 - 1, -(2**63), C):
        yield batch, np.append(labels[:-1], value), rf"found\] \[{value}\]"
    for value in (np.nan, np.inf, 1e39):
        bad = np.array(batch)
        bad[-1, -1] = value
        yield bad, labels, "expected finite values"


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
            batches = zip(*batches)
            return session.run(last, dict(zip((embeds, labels), map(list, batches))))

        found = run(good)
        ctrs = check_state(session, good)
        np.testing.assert_allclose(found, ctrs[good[1][1]], atol=1e-5)
        expected = state_bits(session, *tf.global_variables())
        for *bad, message in bad_batches():
            session.run(init)
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                run(good + [bad, good[0]])
            assert state_bits(session, *tf.global_variables()) == expected


def test_towers_one_after_the_other(use_resource):
    """A good one before a bad one counts, one after it does not."""
    holders, previous = [], []
    for tower in range(2):
        with tf.variable_scope("", reuse=tf.AUTO_REUSE), tf.name_scope(f"tower_{tower}"):
            centers = make_centers(tf_centers, use_resource)
            holders.append(placeholders())
            with tf.control_dependencies(previous):
                embeds = tf.identity(holders[-1][0])
                previous = [tf_centers.get_embed_centers(embeds, holders[-1][1], MEAN, centers)]

    def feed(*batches):
        return {h: v for pair, batch in zip(holders, batches) for h, v in zip(pair, batch)}

    good, init = [make_batch(0), make_batch(1, absent=(0, 1))], tf.global_variables_initializer()
    with initialized_session() as session:
        session.run(previous, feed(*good))
        check_state(session, good)
        for *bad, message in bad_batches():
            check_refused(session, previous, feed(bad, good[1]), message)
            session.run(init)
            with pytest.raises(tf.errors.InvalidArgumentError, match="tower_1"):
                session.run(previous, feed(good[0], bad))
            check_state(session, good[:1])


def test_name_is_the_scope_of_the_ops(use_resource):
    make_ctrs(use_resource)
    before = {op.name for op in tf.get_default_graph().get_operations()}
    rows = tf_centers.get_embed_centers([[1.0] * D], [0], name="mine")
    assert rows.name.startswith("mine/")
    added = {op.name for op in tf.get_default_graph().get_operations()} - before
    assert all(name.startswith("mine/") for name in added)
    assert tf_centers.lookup_embed_centers([0]).name.startswith("lookup_embed_centers/")


def test_tf2_program(start):
    """TF2 code in a process of its own, which TensorFlow 1.15 can run as well."""
    program = pathlib.Path(__file__).resolve().parent / "tf2_program.py"
    assert start(program, apart=True).end() == "all well\n"


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
def test_tf2_names_are_refused_with_a_way_out():
    def lookup(labels):
        return tf_centers.lookup_embed_centers(labels)

    for call in (lookup, tensorflow.function(lookup)):
        with pytest.raises(ValueError, match="pass centers=EmbedCenters"):
            call(tensorflow.constant([0]))
    with pytest.raises(ValueError, match="needs counts.*EmbedCenters"):
        tf_centers.update_embed_centers([[1.0] * D], [0], MEAN, eager_centers().ctrs)


@in_tf2
def test_tf2_the_rest():
    centers = tf_centers.create_embed_centers(C, D)
    assert tf_centers.update_embed_centers([[2.0] * D], [3], None, centers) is None
    np.testing.assert_allclose(tf_centers.lookup_embed_centers([3, 0], centers)[0], [0.1] * D)
    found = tf_centers.nearest_centers([[0.0] * D], centers, k=2)
    assert found.labels.numpy().tolist() == [[3, -1]]
    assert not centers.ctrs.trainable and not centers.counts.trainable
