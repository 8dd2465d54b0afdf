"""Updates of one table that run at the same time: exact with the lock, warned of without it."""

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D, make_centers, read_state
from tf2_code import as_called, eager_centers, eager_or_function, in_tf2

import tf_centers

ROWS, STEPS = 3, 6
LOCK = {"use_locking": True}
LOCKED_OR_NOT = pytest.mark.parametrize("how", [{}, LOCK], ids=["unlocked", "locked"])


def of_overlap(texts):
    return [text for text in texts if "use_locking=True" in text]


def get(index, centers, **how):
    """An update with a batch that depends on the iteration."""
    embeds = tf.fill([ROWS, D], tf.cast(index, tf.float32))
    return tf_centers.get_embed_centers(embeds, [1, 1, 3], MEAN, centers, **how)


def counts_after(steps):
    return [0, 2 * steps, 0, steps] + [0] * (C - 4)


def test_updates_that_cannot_meet_are_fine(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource)
    get(1, centers)
    tf_centers.lookup_embed_centers([1], centers)
    get(1, centers, is_training=False)
    tf_centers.nearest_centers(tf.ones([1, D]), centers)
    with tf.Graph().as_default():
        get(1, make_centers(tf_centers, use_resource))
    locked = make_centers(tf_centers, use_resource, scope="locked")
    for _ in range(2):
        get(1, locked, **LOCK)
    failed = make_centers(tf_centers, use_resource, scope="failed")
    with pytest.raises(NotImplementedError):
        tf_centers.update_embed_centers(tf.ones([1, D]), [1], tf_centers.Updater(), failed)
    get(1, failed)
    assert not of_overlap(warnings)


@pytest.mark.parametrize("calls", [[{}, {}], [LOCK, {}], [{}, LOCK]], ids=str)
def test_a_second_update_is_warned_of_once(calls, use_resource, warnings):
    centers = make_centers(tf_centers, use_resource)
    for place, how in enumerate(calls + [{}]):
        tf_centers.update_embed_centers(tf.ones([1, D]), [1], MEAN, centers, **how)
        assert len(of_overlap(warnings)) == min(place, 1)
    (text,) = of_overlap(warnings)
    assert text.startswith("update_embed_centers: ") and "embed/ctrs" in text


def test_a_table_on_a_parameter_server_is_warned_of(use_resource, warnings):
    for how in (LOCK, {}):
        with tf.Graph().as_default(), tf.device(tf.train.replica_device_setter(ps_tasks=1)):
            get(1, make_centers(tf_centers, use_resource, shards=2), **how)
            assert len(of_overlap(warnings)) == (0 if how else 1)
    assert "embed/ctrs" in of_overlap(warnings)[0]


def test_a_table_on_this_machine_is_not_warned_of(use_resource, warnings):
    here = "/job:localhost/replica:0/task:0/device:CPU:0"
    for table, batch in ((here, ""), ("", here), (here, "/cpu:0"), ("/cpu:0", "")):
        with tf.Graph().as_default():
            with tf.device(table):
                centers = make_centers(tf_centers, use_resource)
            with tf.device(batch):
                get(1, centers)
    assert not of_overlap(warnings)


# Loops, whose iterations may run side by side.


def in_map_fn(step):
    return tf.map_fn(step, tf.range(STEPS, dtype=tf.int32), dtype=tf.float32)


def in_while_loop(step):
    def body(index, total):
        return index + 1, total + tf.reduce_sum(step(index))

    return tf.while_loop(lambda index, _: index < STEPS, body, [0, 0.0])[1]


def in_branch_of_loop(step):
    return in_map_fn(lambda i: tf.cond(i > 1, lambda: step(i), lambda: tf.zeros([ROWS, D])))


@pytest.mark.parametrize("loop", [in_map_fn, in_while_loop, in_branch_of_loop])
def test_one_update_in_a_loop(loop, enterable, warnings, session):
    centers, other = (make_centers(tf_centers, enterable, scope=name) for name in ("one", "other"))
    loop(lambda index: get(index, centers, is_training=False))
    assert not of_overlap(warnings)
    for _ in range(2):
        loop(lambda index: get(index, centers))
        (text,) = of_overlap(warnings)  # once a table
        assert text.startswith("get_embed_centers: ") and "one/ctrs" in text
    total = loop(lambda index: get(index, other, **LOCK))
    assert len(of_overlap(warnings)) == 1
    if loop is in_branch_of_loop:
        return
    session.run(total)
    ctrs, counts = read_state(session, other)
    assert counts.tolist() == counts_after(STEPS)
    np.testing.assert_allclose(ctrs[[1, 3]], (STEPS - 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("control_flow", ["control flow v1"], indirect=True)
def test_one_iteration_at_a_time(control_flow, use_resource, warnings):
    """A loop of TensorFlow 1 says in the graph of its body how many run side by side."""
    centers = make_centers(tf_centers, use_resource)

    def body(index):
        with tf.control_dependencies([get(index, centers)]):
            return index + 1

    tf.while_loop(lambda index: index < STEPS, body, [0], parallel_iterations=1)
    assert not of_overlap(warnings)


def test_a_function_that_a_graph_may_call_twice(warnings):
    centers = make_centers(tf_centers, True)
    for how, number in ((LOCK, 0), ({}, 1)):
        step = tensorflow.function(lambda index, how=how: get(index, centers, **how))
        step(1.0), step(2.0)
        assert len(of_overlap(warnings)) == number


# Branches, of which one runs.


def in_two_branches(wanted, step):
    return tf.cond(wanted, step, step)


def in_branches_of_branches(wanted, step):
    return tf.cond(wanted, lambda: in_two_branches(wanted, step), step)


def twice_in_one_branch(wanted, step):
    return tf.cond(wanted, lambda: step() + step(), lambda: tf.zeros([ROWS, D]))


def in_two_conditionals(wanted, step):
    one, other = (tf.cond(wanted, step, lambda: tf.zeros([ROWS, D])) for _ in range(2))
    return one + other


def outside_and_in_a_branch(wanted, step):
    return step() + in_two_branches(wanted, step)


@pytest.mark.parametrize(
    "build, how, warned",
    [
        (in_two_branches, {}, 0),
        (in_branches_of_branches, {}, 0),
        (twice_in_one_branch, {}, 1),
        (in_two_conditionals, {}, 1),
        (outside_and_in_a_branch, {}, 1),
        (outside_and_in_a_branch, LOCK, 0),
    ],
)
def test_updates_in_branches(build, how, warned, enterable, warnings, session):
    centers = make_centers(tf_centers, enterable)
    wanted = tf.placeholder_with_default(True, [])
    rows = build(wanted, lambda: get(2, centers, **how))
    assert len(of_overlap(warnings)) == warned
    if build is in_two_branches:
        session.run(rows)
        session.run(rows, {wanted: False})
        assert session.run(centers.counts).tolist() == counts_after(2)


# Data sets, and TF2 code.


def parallel(centers, **how):
    data = tensorflow.data.Dataset.range(STEPS)
    return data.map(lambda index: get(index, centers, **how), num_parallel_calls=4)


@LOCKED_OR_NOT
def test_a_parallel_data_set(how, warnings, session):
    centers = make_centers(tf_centers, True)
    iterator = tf.data.make_initializable_iterator(parallel(centers, **how))
    rows = iterator.get_next()
    assert ["embed/ctrs" in text for text in of_overlap(warnings)] == ([] if how else [True])
    session.run(iterator.initializer)
    for _ in range(STEPS):
        session.run(rows)
    assert session.run(centers.counts).tolist() == counts_after(STEPS)


@in_tf2
@LOCKED_OR_NOT
def test_a_parallel_data_set_of_tf2(how, warnings):
    centers = eager_centers()
    for _ in parallel(centers, **how):
        pass
    assert len(of_overlap(warnings)) == (0 if how else 1)
    assert centers.counts.numpy().tolist() == counts_after(STEPS)


@in_tf2
@eager_or_function
@pytest.mark.parametrize(
    "loop",
    [in_map_fn, in_while_loop, lambda step: step(1) + step(2)],
    ids=["map_fn", "while_loop", "twice"],
)
def test_tf2_code_runs_in_order(loop, how, warnings):
    """On a table of its own machine, TensorFlow 2 lets each iteration wait for the one before."""
    centers = eager_centers()
    as_called(how, lambda: loop(lambda index: get(index, centers)))()
    assert not of_overlap(warnings)
