"""Centers restored from checkpoints of other code, fewer classes and other numbers of shards."""

import os

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    C,
    D,
    check_refused,
    initialized_session,
    make_centers,
    make_ctrs,
    read_state,
)
from tf2_code import as_called, eager_or_function, in_tf2

import tf_centers

OLD = 4  # classes of the checkpoint
CALL = "^warm_start_embed_centers: "
ROWS = np.random.RandomState(0).randn(OLD, D).astype(np.float32)
COUNTS = np.array([5, 0, 7, 2**40])


def save(folder, tensors, shards=None):
    """Writes a checkpoint of variables of these names and values; returns its path."""
    with tf.Graph().as_default():
        splits = tf.fixed_size_partitioner(shards) if shards else None
        with tf.variable_scope("", partitioner=splits):
            for name, value in tensors.items():
                value = np.asarray(value)
                tf.get_variable(name, initializer=tf.constant(value, tf.as_dtype(value.dtype)))
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            path = os.path.join(str(folder), "old", "model")
            return tf.train.Saver().save(session, path, write_meta_graph=False)


def make_table(shards=None, use_resource=False, classes=C, **kwargs):
    return make_centers(tf_centers, use_resource, classes, D, shards, **kwargs)


@pytest.mark.parametrize("saved_in", [None, 3])
@pytest.mark.parametrize("shards", [None, 1, 3, 5])
@pytest.mark.parametrize("classes", [OLD, C])
def test_whole_or_sharded_into_whole_or_sharded(saved_in, shards, classes, use_resource, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS, "embed/ctrs_count": COUNTS}, saved_in)
    shards = shards and min(shards, classes)
    initial = np.arange(classes * D).reshape([classes, D]) + 0.5
    centers = make_table(shards, use_resource, classes, initializer=initial, initial_counts=9)
    warm_start = tf_centers.warm_start_embed_centers(path)
    assert isinstance(warm_start, tf.Operation)
    with initialized_session() as session:
        for _ in range(2):
            session.run(warm_start)
            ctrs, counts = read_state(session, centers)
            np.testing.assert_array_equal(ctrs, np.concatenate([ROWS, initial[OLD:]]))
            np.testing.assert_array_equal(counts, np.append(COUNTS, [9] * (classes - OLD)))


def test_old_centers_of_other_code(use_resource, tmp_path):
    """As facenet's `centers`: twice the classes, in three shards."""
    path = save(tmp_path, {"centers": ROWS, "logits/kernel": np.ones([D, 3], np.float32)})
    centers = make_table(3, use_resource, 2 * OLD)
    warm_start = tf_centers.warm_start_embed_centers(
        os.path.dirname(path), ctrs_name="centers", counts=99
    )
    nearest = tf_centers.nearest_centers(ROWS, k=OLD + 1)
    with initialized_session() as session:
        session.run(warm_start)
        ctrs, counts = read_state(session, centers)
        np.testing.assert_array_equal(ctrs, np.concatenate([ROWS, np.zeros([OLD, D])]))
        assert counts.tolist() == [99] * OLD + [0] * OLD
        labels = session.run(nearest.labels)
        assert labels[:, 0].tolist() == list(range(OLD)) and (labels[:, OLD] == -1).all()


@pytest.mark.parametrize(
    "given, saved, expected",
    [
        (0, {}, [0] * 4),
        (np.uint8(3), {}, [3] * 4),
        ([1, 2, 3, 4], {}, [1, 2, 3, 4]),
        (COUNTS, {}, COUNTS),
        (50, {"embed/ctrs_count": np.int32([1, 2, 3, 4])}, [1, 2, 3, 4]),
    ],
)
def test_counts_that_are_given(given, saved, expected, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS, **saved})
    centers = make_table(3)  # The old classes are in two of the shards.
    warm_start = tf_centers.warm_start_embed_centers(path, counts=given)
    with initialized_session() as session:
        session.run(warm_start)
        np.testing.assert_array_equal(read_state(session, centers)[1], np.append(expected, [0] * 3))


def test_a_table_without_counts_needs_none_but_keeps_those_that_are_given(use_resource, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS})
    ctrs = make_ctrs(use_resource)
    without = tf_centers.warm_start_embed_centers(path, ctrs)
    assert tf.global_variables() == [ctrs]
    warm_start = tf_centers.warm_start_embed_centers(path, ctrs, counts=[1, 2, 3, 4])
    update = tf_centers.update_embed_centers([[1.0] * D], [3], MEAN, ctrs)
    with initialized_session() as session:
        session.run(without)
        np.testing.assert_array_equal(session.run(ctrs)[:OLD], ROWS)
        session.run(warm_start)
        session.run(update)
        found, counts = session.run(tf.global_variables())
    assert counts.tolist() == [1, 2, 3, 5, 0, 0, 0]
    expected = reference.apply(
        reference.cumulative_mean, ROWS, np.array([1, 2, 3, 4]), [[1.0] * D], [3]
    )[0]
    np.testing.assert_allclose(found[:OLD], expected, rtol=1e-6)


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize("saved_in", [None, 3])
@pytest.mark.parametrize("saved_as", [np.float16, np.float64, tf.bfloat16.as_numpy_dtype])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.bfloat16, tf.float16])
def test_cast_to_the_dtype_of_the_table(saved_as, saved_in, dtype, shards, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS.astype(saved_as)}, saved_in)
    make_table(shards, use_resource=True, dtype=dtype)
    if saved_in and saved_as == np.float16:  # which TensorFlow reads only shard by shard
        with pytest.raises(ValueError, match=CALL + "expected a float16"):
            tf_centers.warm_start_embed_centers(path, counts=1)
        return
    warm_start = tf_centers.warm_start_embed_centers(path, counts=1)
    wanted = tf.cast(ROWS.astype(saved_as), dtype)
    rows = tf_centers.lookup_embed_centers(list(range(OLD)))
    with initialized_session() as session:
        session.run(warm_start)
        found, expected = session.run([rows, wanted])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wrong", ["checkpoint", "counts", "ctrs_name"])
def test_an_error_makes_no_counts(wrong, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS})
    ctrs = make_ctrs(False)
    how = {"checkpoint": path, "counts": 5, "ctrs_name": None}
    how.update({wrong: [1] if wrong == "counts" else "nowhere"})
    with pytest.raises(ValueError, match=CALL):
        tf_centers.warm_start_embed_centers(centers=ctrs, **how)
    assert tf.global_variables() == [ctrs]


def test_a_full_table_need_not_be_initialized(use_resource, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS, "embed/ctrs_count": COUNTS})
    centers = make_table(2, use_resource, OLD)
    warm_start = tf_centers.warm_start_embed_centers(path)
    with tf.Session() as session:
        session.run(warm_start)
        ctrs, counts = read_state(session, centers)
    np.testing.assert_array_equal(ctrs, ROWS)
    np.testing.assert_array_equal(counts, COUNTS)


def test_nothing_as_large_as_the_table_is_in_the_graph(tmp_path):
    rows = np.ones([5000, D], np.float32)
    path = save(tmp_path, {"embed/ctrs": rows})
    make_table(3, classes=6000)
    before = tf.get_default_graph().as_graph_def().ByteSize()
    tf_centers.warm_start_embed_centers(path, counts=1)
    grown = tf.get_default_graph().as_graph_def().ByteSize() - before
    assert grown < 20000  # A constant [C] would be 40,000 bytes.


def saved(ctrs=ROWS, counts=COUNTS):
    return {"embed/ctrs": ctrs, "embed/ctrs_count": counts}


FULL = saved()
HOLDS = r"It holds embed/ctrs \[4, 5\] float32, embed/ctrs_count \[4\] int64"


@pytest.mark.parametrize(
    "tensors, how, error, message",
    [
        (FULL, {"ctrs_name": "centers"}, ValueError, "a table centers of .*found none.*" + HOLDS),
        (FULL, {"ctrs_name": 3}, TypeError, "ctrs_name must be a string or None, got 3"),
        (FULL, {"counts": -1}, ValueError, "counts must be .* at least 0, .*got -1"),
        (FULL, {"counts": [1, 2]}, ValueError, r"counts must be .* 4 of them, got shape \[2\]"),
        (FULL, {"counts": 1.5}, TypeError, "counts must be an integer at least 0.* got 1.5"),
        (FULL, {"counts": [True] * 4}, TypeError, "counts must be an integer"),
        ({"embed/ctrs": ROWS}, {}, ValueError, "has no embed/ctrs_count.* pass counts="),
        (saved(np.ones([C + 1, D])), {}, ValueError, r"at most \[7, 5\] .*found.* \[8, 5\]"),
        (saved(ROWS[:, 1:]), {}, ValueError, r"found embed/ctrs \[4, 4\] float32"),
        (saved(ROWS[0]), {}, ValueError, r"found embed/ctrs \[5\] float32"),
        (saved(COUNTS[:, None]), {}, ValueError, r"found embed/ctrs \[4, 1\] int64"),
        (saved(np.ones([4, 5], np.int32)), {}, ValueError, "a floating dtype.*found.* int32"),
        (saved(counts=COUNTS[:2]), {}, ValueError, r"shape \[4\] .*found.*count \[2\] int64"),
        (saved(counts=COUNTS * 1.0), {}, ValueError, "integer dtype, found.*count .* float64"),
    ],
)
def test_refused(tensors, how, error, message, tmp_path):
    path = save(tmp_path, tensors)
    make_table()
    ops = len(tf.get_default_graph().get_operations())
    with pytest.raises(error, match=CALL + ".*" + message) as caught:
        tf_centers.warm_start_embed_centers(path, **how)
    assert "It holds embed/ctrs" in str(caught.value) or "must be" in message
    assert len(tf.get_default_graph().get_operations()) == ops


@pytest.mark.parametrize("what", ["nowhere", "empty", "damaged"])
def test_no_checkpoint(what, tmp_path):
    make_table()
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "damaged":
        (tmp_path / "damaged.index").write_bytes(b"no table of an index")
    with pytest.raises(ValueError, match=CALL + "checkpoint must be .*" + what):
        tf_centers.warm_start_embed_centers(str(path), counts=1)
    with pytest.raises(TypeError, match=CALL + "checkpoint must be a path, got 3"):
        tf_centers.warm_start_embed_centers(3)


@pytest.mark.parametrize("shards", [None, 2])
def test_damaged_data_leaves_the_table_as_it_was(shards, use_resource, tmp_path):
    path = save(tmp_path, {"embed/ctrs": ROWS, "embed/ctrs_count": COUNTS})
    (data,) = (p for p in (tmp_path / "old").iterdir() if ".data-" in p.name)
    found = bytearray(data.read_bytes())
    found[3] ^= 1
    data.write_bytes(bytes(found))
    centers = make_table(shards, use_resource, initial_counts=2)
    warm_start = tf_centers.warm_start_embed_centers(path)
    with initialized_session() as session:
        check_refused(session, warm_start, {}, "", *centers, error=tf.errors.OpError)


def test_only_the_shards_machine_reads(tmp_path):
    path = save(tmp_path, FULL)
    with tf.device(tf.train.replica_device_setter(ps_tasks=2)):
        make_table(2, use_resource=True)
    with tf.device("/job:worker/task:0"):
        tf_centers.warm_start_embed_centers(path)
    reads = [op for op in tf.get_default_graph().get_operations() if op.type == "RestoreV2"]
    devices = [tf.DeviceSpec.from_string(op.device) for op in reads]
    assert [(d.job, d.task, d.device_type) for d in devices] == [("ps", 0, "CPU")]


@in_tf2
@eager_or_function
def test_without_a_graph(how, tmp_path):
    ctrs = tensorflow.Variable(tf.ones([C, D]), name="ctrs")
    counts = tensorflow.Variable(tf.zeros([C], tf.int64), name="counts")
    path = tensorflow.train.Checkpoint(table=tensorflow.Variable(ROWS)).save(str(tmp_path / "ckpt"))
    name = "table/.ATTRIBUTES/VARIABLE_VALUE"

    def warm_start():
        centers = tf_centers.EmbedCenters(ctrs, counts)
        done = tf_centers.warm_start_embed_centers(path, centers, name, counts=3)
        assert done is None or how == "function"

    as_called(how, warm_start)()
    np.testing.assert_array_equal(ctrs, np.concatenate([ROWS, np.ones([C - OLD, D])]))
    assert counts.numpy().tolist() == [3] * OLD + [0] * (C - OLD)


@pytest.mark.parametrize("shards", [None, 2])
def test_counts_made_later_are_warned_of(shards, use_resource, tmp_path, warnings):
    path = save(tmp_path, FULL)
    with tf.variable_scope("", partitioner=shards and tf.fixed_size_partitioner(shards)):
        ctrs = make_ctrs(use_resource, initial=0.0)
    tf_centers.warm_start_embed_centers(path, ctrs)
    for _ in range(2):
        tf_centers.update_embed_centers([[1.0] * D], [1], MEAN, ctrs)
    (text,) = [text for text in warnings if "counts" in text]
    assert "embed/ctrs" in text and "warm_start_embed_centers" in text and "built before" in text
