"""One unlocked update that may overlap with itself, or with one that never runs beside it."""

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import initialized_session, make_centers

import tf_centers

CLASSES, ROWS, STEPS = 4, 3, 6
LOCK = {"use_locking": True}


def get(index, centers, **how):
    """An update with a batch that depends on the iteration."""
    embeds = tf.fill([ROWS, 2], tf.cast(index, tf.float32))
    return tf_centers.get_embed_centers(
        embeds, [1, 1, 3], tf_centers.CumulativeMean(), centers, **how
    )


def of_overlap(texts):
    return [text for text in texts if "use_locking=True" in text]


def in_map_fn(update):
    return tf.map_fn(update, tf.range(STEPS, dtype=tf.int32), dtype=tf.float32)


def in_while_loop(update):
    def body(index, total):
        return index + 1, total + tf.reduce_sum(update(index))

    return tf.while_loop(lambda index, _: index < STEPS, body, [0, 0.0])[1]


def in_nested_loops(update):
    return in_while_loop(lambda index: in_map_fn(update))


def in_branch_of_loop(update):
    return in_map_fn(lambda i: tf.cond(i > 1, lambda: update(i), lambda: tf.zeros([ROWS, 2])))


LOOPS = [in_map_fn, in_while_loop, in_nested_loops, in_branch_of_loop]


@pytest.fixture
def centers(use_resource, control_flow):
    if not use_resource and control_flow.endswith("v2"):
        pytest.skip("a ref variable cannot enter the new control flow")
    return make_centers(tf_centers, use_resource, CLASSES, 2)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("call", ["get", "update"])
def test_one_update_in_a_loop(loop, call, centers, warnings):
    def update(index):
        if call == "get":
            return get(index, centers)
        with tf.control_dependencies([tf_centers.update_embed_centers([[1.0, 2.0]], [1])]):
            return tf.zeros([ROWS, 2])

    result = loop(update)
    (text,) = of_overlap(warnings)
    assert text.startswith(f"{call}_embed_centers: ") and "embed/ctrs" in text
    loop(update)  # once a table
    assert len(of_overlap(warnings)) == 1
    with initialized_session() as session:
        session.run(result)


@pytest.mark.parametrize("loop", LOOPS)
def test_one_update_in_a_loop_with_the_lock(loop, centers, warnings):
    total = loop(lambda index: get(index, centers, **LOCK))
    assert not of_overlap(warnings)
    with initialized_session() as session:
        session.run(total)
        counts, ctrs = session.run([centers.counts, centers.ctrs])
    if loop in (in_map_fn, in_while_loop):
        np.testing.assert_array_equal(counts, [0, 2 * STEPS, 0, STEPS])
        np.testing.assert_allclose(ctrs[[1, 3]], (STEPS - 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("shards", [1, 2])
def test_reading_in_a_loop_is_fine(shards, control_flow, warnings):
    partitioner = tf.fixed_size_partitioner(shards) if shards > 1 else None
    with tf.variable_scope("", partitioner=partitioner, use_resource=True):
        centers = tf_centers.create_embed_centers(CLASSES, 2)
    in_map_fn(lambda index: get(index, centers, is_training=False))
    in_map_fn(lambda index: tf_centers.lookup_embed_centers([index], centers))
    assert not of_overlap(warnings)
    in_map_fn(lambda index: get(index, centers))
    assert len(of_overlap(warnings)) == 1


def one_or_other(wanted, *updates):
    return tf.cond(wanted, *[lambda update=update: update(2) for update in updates])


def test_two_branches_never_run_together(centers, warnings):
    wanted = tf.placeholder_with_default(True, [])
    rows = one_or_other(wanted, *2 * [lambda index: get(index, centers)])
    assert not of_overlap(warnings)
    with initialized_session() as session:
        session.run(rows)
        session.run(rows, {wanted: False})
        assert session.run(centers.counts).tolist() == [0, 4, 0, 2]


def test_branches_of_branches_never_run_together(centers, warnings):
    wanted = tf.placeholder_with_default(True, [])
    one = lambda index: get(index, centers)  # noqa: E731
    one_or_other(wanted, lambda _: one_or_other(wanted, one, one), one)
    assert not of_overlap(warnings)


def two_in_one_branch(wanted, update):
    both = lambda index: update(index) + update(index)  # noqa: E731
    return one_or_other(wanted, both, lambda _: tf.zeros([ROWS, 2]))


def in_two_conditionals(wanted, update):
    none = lambda _: tf.zeros([ROWS, 2])  # noqa: E731
    return one_or_other(wanted, update, none) + one_or_other(wanted, update, none)


def in_a_branch_and_outside(wanted, update):
    return one_or_other(wanted, update, update) + update(1)


def outside_and_in_a_branch(wanted, update):
    return update(1) + one_or_other(wanted, update, update)


@pytest.mark.parametrize(
    "build",
    [two_in_one_branch, in_two_conditionals, in_a_branch_and_outside, outside_and_in_a_branch],
)
@pytest.mark.parametrize("how", [{}, LOCK], ids=["unlocked", "locked"])
def test_two_that_may_run_together(build, how, centers, warnings):
    wanted = tf.placeholder_with_default(True, [])
    build(wanted, lambda index: get(index, centers, **how))
    assert len(of_overlap(warnings)) == (0 if how else 1)


def parallel(centers, **how):
    data = tensorflow.data.Dataset.range(STEPS)
    return data.map(lambda index: get(index, centers, **how), num_parallel_calls=4)


@pytest.mark.parametrize("how", [{}, LOCK], ids=["unlocked", "locked"])
def test_a_parallel_data_set(how, warnings):
    centers = make_centers(tf_centers, True, CLASSES, 2)
    iterator = tf.data.make_initializable_iterator(parallel(centers, **how))
    rows = iterator.get_next()
    texts = of_overlap(warnings)
    assert len(texts) == (0 if how else 1) and all("embed/ctrs" in text for text in texts)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(iterator.initializer)
        for _ in range(STEPS):
            session.run(rows)
        assert session.run(centers.counts).tolist() == [0, 2 * STEPS, 0, STEPS]


needs_eager = pytest.mark.skipif(
    not tf.executing_eagerly(), reason="TensorFlow 1.15 starts in graph mode"
)


def variables():
    return tf_centers.EmbedCenters(
        tensorflow.Variable(np.zeros([CLASSES, 2], np.float32), name="table"),
        tensorflow.Variable(np.zeros([CLASSES], np.int64)),
    )


@needs_eager
@pytest.mark.eager
@pytest.mark.parametrize("how", [{}, LOCK], ids=["unlocked", "locked"])
def test_a_parallel_data_set_of_tf2(how, warnings):
    centers = variables()
    for _ in parallel(centers, **how):
        pass
    texts = of_overlap(warnings)
    assert len(texts) == (0 if how else 1) and all("table" in text for text in texts)
    assert centers.counts.numpy().tolist() == [0, 2 * STEPS, 0, STEPS]


@needs_eager
@pytest.mark.eager
@pytest.mark.parametrize(
    "loop",
    [in_map_fn, in_while_loop, lambda update: update(1) + update(2)],
    ids=["map_fn", "while_loop", "twice"],
)
@pytest.mark.parametrize("how", ["eager", "function"])
def test_tf2_code_runs_in_order(loop, how, warnings):
    """On a table of its own machine, TensorFlow 2 lets each iteration wait for the one before."""
    centers = variables()
    call = lambda: loop(lambda index: get(index, centers))  # noqa: E731
    (tensorflow.function(call) if how == "function" else call)()
    assert not of_overlap(warnings)
