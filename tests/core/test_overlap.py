"""Updates of one table that run at the same time: exact with the lock, warned of without it."""

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    C,
    D,
    initialized_session,
    make_batch,
    make_centers,
    placeholders,
    read_state,
)
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


def test_one_update_beside_lookups_is_fine(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource)
    get(1, centers)
    tf_centers.lookup_embed_centers([1], centers)
    get(1, centers, is_training=False)
    tf_centers.nearest_centers(tf.ones([1, D]), centers)
    get(1, make_centers(tf_centers, use_resource, scope="other"))
    with tf.Graph().as_default():
        get(1, make_centers(tf_centers, use_resource))
    assert not of_overlap(warnings)


@pytest.mark.parametrize("calls", [[{}, {}], [LOCK, {}], [{}, LOCK]], ids=str)
def test_a_second_update_is_warned_of_once(calls, use_resource, warnings):
    centers = make_centers(tf_centers, use_resource)
    for how in calls + [{}]:
        tf_centers.update_embed_centers(tf.ones([1, D]), [1], MEAN, centers, **how)
    (text,) = of_overlap(warnings)
    assert text.startswith("update_embed_centers: ") and "embed/ctrs" in text


def test_updates_that_lock_and_one_that_fails_are_fine(use_resource, warnings):
    centers = make_centers(tf_centers, use_resource)
    for _ in range(3):
        get(1, centers, **LOCK)
    other = make_centers(tf_centers, use_resource, scope="other")
    with pytest.raises(NotImplementedError):
        tf_centers.update_embed_centers(tf.ones([1, D]), [1], tf_centers.Updater(), other)
    get(1, other)
    assert not of_overlap(warnings)


@pytest.mark.parametrize("shards", [None, 2])
def test_a_table_on_a_parameter_server_is_warned_of(shards, use_resource, warnings):
    for how in (LOCK, {}):
        with tf.Graph().as_default(), tf.device(tf.train.replica_device_setter(ps_tasks=1)):
            get(1, make_centers(tf_centers, use_resource, shards=shards), **how)
            assert len(of_overlap(warnings)) == (0 if how else 1)
    assert "embed/ctrs" in of_overlap(warnings)[0]


@pytest.mark.parametrize("batch", ["/job:localhost/task:0", "/cpu:0", ""])
@pytest.mark.parametrize("table", ["/job:localhost/replica:0/task:0/device:CPU:0", "/cpu:0", ""])
def test_a_table_on_this_machine_is_not_warned_of(table, batch, use_resource, warnings):
    with tf.device(table):
        centers = make_centers(tf_centers, use_resource)
    with tf.device(batch):
        get(1, centers)
    assert not of_overlap(warnings)


@pytest.mark.parametrize("shards", [None, 2])
def test_two_towers_lose_no_row(shards, use_resource):
    with tf.device("/device:CPU:0"):
        centers = make_centers(tf_centers, use_resource, shards=shards, dtype=tf.float64)
    holders, towers, batches = [], [], []
    for place in range(2):
        with tf.device(f"/device:CPU:{place}"):
            holders.append(placeholders(embeds=tf.float64))
            towers.append(tf_centers.get_embed_centers(*holders[-1], MEAN, centers, **LOCK))
    config = tf.ConfigProto(device_count={"CPU": 2}, allow_soft_placement=False)
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        for step in range(40):
            pair = [make_batch(2 * step, rows=64), make_batch(2 * step + 1, rows=64)]
            feed = {h: v for both in zip(holders, pair) for h, v in zip(*both)}
            session.run(towers, feed)
            batches += pair
        ctrs, counts = read_state(session, centers)
    rows, of = (np.concatenate(column) for column in zip(*batches))
    expected = reference.apply(reference.cumulative_mean, np.zeros([C, D]), np.zeros(C), rows, of)
    np.testing.assert_array_equal(counts, expected[1])
    np.testing.assert_allclose(ctrs, expected[0], rtol=0, atol=1e-12)


# Loops, whose iterations may run side by side.


def in_map_fn(step):
    return tf.map_fn(step, tf.range(STEPS, dtype=tf.int32), dtype=tf.float32)


def in_while_loop(step):
    def body(index, total):
        return index + 1, total + tf.reduce_sum(step(index))

    return tf.while_loop(lambda index, _: index < STEPS, body, [0, 0.0])[1]


def in_nested_loops(step):
    return in_while_loop(lambda index: in_map_fn(step))


def in_branch_of_loop(step):
    return in_map_fn(lambda i: tf.cond(i > 1, lambda: step(i), lambda: tf.zeros([ROWS, D])))


@pytest.mark.parametrize("loop", [in_map_fn, in_while_loop, in_nested_loops, in_branch_of_loop])
def test_one_update_in_a_loop(loop, enterable, warnings):
    centers, other = (make_centers(tf_centers, enterable, scope=name) for name in ("one", "other"))
    for _ in range(2):
        loop(lambda index: get(index, centers))
        (text,) = of_overlap(warnings)  # once a table
        assert text.startswith("get_embed_centers: ") and "one/ctrs" in text
    total = loop(lambda index: get(index, other, **LOCK))
    assert len(of_overlap(warnings)) == 1
    with initialized_session() as session:
        session.run(total)
        if loop in (in_map_fn, in_while_loop):
            ctrs, counts = read_state(session, other)
            assert counts.tolist() == counts_after(STEPS)
            np.testing.assert_allclose(ctrs[[1, 3]], (STEPS - 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("shards", [None, 2])
def test_reading_in_a_loop_is_fine(shards, control_flow, warnings):
    centers = make_centers(tf_centers, True, shards=shards)
    in_map_fn(lambda index: get(index, centers, is_training=False))
    in_map_fn(lambda index: tf_centers.lookup_embed_centers([index], centers))
    assert not of_overlap(warnings)
    in_map_fn(lambda index: get(index, centers))
    assert len(of_overlap(warnings)) == 1


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


def in_a_branch_and_outside(wanted, step):
    return in_two_branches(wanted, step) + step()


def outside_and_in_a_branch(wanted, step):
    return step() + in_two_branches(wanted, step)


@pytest.mark.parametrize(
    "build, together",
    [
        (in_two_branches, False),
        (in_branches_of_branches, False),
        (twice_in_one_branch, True),
        (in_two_conditionals, True),
        (in_a_branch_and_outside, True),
        (outside_and_in_a_branch, True),
    ],
)
@LOCKED_OR_NOT
def test_updates_in_branches(build, together, how, enterable, warnings):
    centers = make_centers(tf_centers, enterable)
    wanted = tf.placeholder_with_default(True, [])
    rows = build(wanted, lambda: get(2, centers, **how))
    assert len(of_overlap(warnings)) == (1 if together and not how else 0)
    if build is in_two_branches:
        with initialized_session() as session:
            session.run(rows)
            session.run(rows, {wanted: False})
            assert session.run(centers.counts).tolist() == counts_after(2)


# Data sets, and TF2 code.


def parallel(centers, **how):
    data = tensorflow.data.Dataset.range(STEPS)
    return data.map(lambda index: get(index, centers, **how), num_parallel_calls=4)


@LOCKED_OR_NOT
def test_a_parallel_data_set(how, warnings):
    centers = make_centers(tf_centers, True)
    iterator = tf.data.make_initializable_iterator(parallel(centers, **how))
    rows = iterator.get_next()
    assert ["embed/ctrs" in text for text in of_overlap(warnings)] == ([] if how else [True])
    with initialized_session() as session:
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
