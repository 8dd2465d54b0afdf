"""Centers restored from checkpoints of other code, fewer classes and other numbers of shards."""

import os

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D, check_refused, make_centers, make_ctrs, read_state
from tf2_code import as_called, eager_or_function, in_tf2

import tf_centers

OLD = 4  # classes of the checkpoint
CALL = "^warm_start_embed_centers: "
ROWS = np.random.RandomState(0).randn(OLD, D).astype(np.float32)
COUNTS = np.array([5, 0, 7, 2**40])


def save(folder, tensors, shards=None):
    """Writes a checkpoint of variables of these names and values; returns its path."""
    os.makedirs(str(folder), exist_ok=True)
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


def saved(ctrs=ROWS, counts=COUNTS):
    return {"embed/ctrs": ctrs, "embed/ctrs_count": counts}


FULL = saved()


def make_table(shards=None, use_resource=False, classes=C, **kwargs):
    return make_centers(tf_centers, use_resource, classes, D, shards, **kwargs)


@pytest.mark.parametrize(
    "saved_in, shards, classes",
    [(None, None, OLD), (3, None, C), (None, 3, C), (3, 5, C), (3, 2, OLD), (None, 1, C)],
)
def test_whole_or_sharded_into_whole_or_sharded(saved_in, shards, classes, use_resource, tmp_path):
    path = save(tmp_path, FULL, saved_in)
    initial = np.arange(classes * D).reshape([classes, D]) + 0.5
    centers = make_table(shards, use_resource, classes, initializer=initial, initial_counts=9)
    warm_start, init = tf_centers.warm_start_embed_centers(path), tf.global_variables_initializer()
    assert isinstance(warm_start, tf.Operation)
    with tf.Session() as session:
        if classes > OLD:  # A full table need not be initialized.
            session.run(init)
        for _ in range(2):
            session.run(warm_start)
            ctrs, counts = read_state(session, centers)
            np.testing.assert_array_equal(ctrs, np.concatenate([ROWS, initial[OLD:]]))
            np.testing.assert_array_equal(counts, np.append(COUNTS, [9] * (classes - OLD)))


def test_old_centers_of_other_code(use_resource, tmp_path, session):
    """As facenet's `centers`: twice the classes, in three shards."""
    path = save(tmp_path, {"centers": ROWS, "logits/kernel": np.ones([D, 3], np.float32)})
    centers = make_table(3, use_resource, 2 * OLD)
    folder = os.path.dirname(path)
    warm_start = tf_centers.warm_start_embed_centers(folder, ctrs_name="centers", counts=99)
    nearest = tf_centers.nearest_centers(ROWS, k=OLD + 1)
    session.run(warm_start)
    ctrs, counts = read_state(session, centers)
    np.testing.assert_array_equal(ctrs, np.concatenate([ROWS, np.zeros([OLD, D])]))
    assert counts.tolist() == [99] * OLD + [0] * OLD
    labels = session.run(nearest.labels)
    assert labels[:, 0].tolist() == list(range(OLD)) and (labels[:, OLD] == -1).all()


def test_counts_that_are_given(tmp_path, session):
    """And not used where the checkpoint has some."""
    without = save(tmp_path / "without", {"embed/ctrs": ROWS})
    counted = save(tmp_path / "counted", saved(counts=np.int32([1, 2, 3, 4])))
    centers = make_table(3)  # The old classes are in two of the shards.
    cases = [(without, np.uint8(3), [3] * 4), (without, COUNTS, COUNTS), (counted, 5, [1, 2, 3, 4])]
    ops = [tf_centers.warm_start_embed_centers(path, counts=given) for path, given, _ in cases]
    for warm_start, (_, _, expected) in zip(ops, cases):
        session.run(warm_start)
        found = read_state(session, centers)[1]
        np.testing.assert_array_equal(found, np.append(expected, [0] * 3))


def test_a_table_without_counts_needs_none_but_keeps_those_that_are_given(
    use_resource, tmp_path, warnings, session
):
    path = save(tmp_path, {"embed/ctrs": ROWS})
    ctrs = make_ctrs(use_resource)
    without = tf_centers.warm_start_embed_centers(path, ctrs)
    assert tf.global_variables() == [ctrs]
    assert not warnings
    warm_start = tf_centers.warm_start_embed_centers(path, ctrs, counts=[1, 2, 3, 4])
    (text,) = [text for text in warnings if "counts" in text]  # The first call ignores them.
    assert "embed/ctrs" in text and "warm_start_embed_centers" in text and "built before" in text
    update = tf_centers.update_embed_centers([[1.0] * D], [3], MEAN, ctrs)
    session.run(without)
    np.testing.assert_array_equal(session.run(ctrs)[:OLD], ROWS)
    session.run(warm_start)
    session.run(update)
    found, counts = session.run(tf.global_variables())
    assert counts.tolist() == [1, 2, 3, 5, 0, 0, 0]
    np.testing.assert_allclose(found[3], ROWS[3] + (1 - ROWS[3]) / 5, rtol=1e-5)


@pytest.mark.parametrize(
    "saved_as, saved_in, dtype, shards",
    [
        ("float16", None, tf.float32, 2),
        ("float16", None, tf.bfloat16, None),
        ("float64", 3, tf.float16, 2),
        ("float64", None, tf.bfloat16, 2),
        ("bfloat16", 3, tf.float32, None),
        ("bfloat16", None, tf.float64, 2),
    ],
)
def test_cast_to_the_dtype_of_the_table(
    saved_as, saved_in, dtype, shards, use_resource, tmp_path, session
):
    rows_saved = ROWS.astype(tf.as_dtype(saved_as).as_numpy_dtype)
    path = save(tmp_path, {"embed/ctrs": rows_saved}, saved_in)
    make_table(shards, use_resource, dtype=dtype)
    warm_start = tf_centers.warm_start_embed_centers(path, counts=1)
    wanted = tf.cast(rows_saved, dtype)
    rows = tf_centers.lookup_embed_centers(list(range(OLD)))
    session.run(warm_start)
    np.testing.assert_array_equal(*session.run([rows, wanted]))


def test_a_float16_in_shards_is_refused(tmp_path):
    """TensorFlow reads it only shard by shard."""
    path = save(tmp_path, {"embed/ctrs": np.float16(ROWS)}, 3)
    make_table()
    with pytest.raises(ValueError, match=CALL + "expected a float16"):
        tf_centers.warm_start_embed_centers(path, counts=1)


def test_nothing_as_large_as_the_table_is_in_the_graph(tmp_path):
    rows = np.ones([5000, D], np.float32)
    path = save(tmp_path, {"embed/ctrs": rows})
    make_table(3, classes=6000)
    before = tf.get_default_graph().as_graph_def().ByteSize()
    tf_centers.warm_start_embed_centers(path, counts=1)
    grown = tf.get_default_graph().as_graph_def().ByteSize() - before
    assert grown < 20000  # A constant [C] would be 40,000 bytes.


HOLDS = r"It holds embed/ctrs \[4, 5\] float32, embed/ctrs_count \[4\] int64"


@pytest.mark.parametrize(
    "tensors, how, error, message",
    [
        (FULL, {"ctrs_name": "centers"}, ValueError, "a table centers of .*found none.*" + HOLDS),
        (FULL, {"ctrs_name": 3}, TypeError, "ctrs_name must be a string or None, got 3"),
        (FULL, {"counts": -1}, ValueError, "counts must be .* at least 0, .*got -1"),
        (FULL, {"counts": [1, 2]}, ValueError, r"counts must be .* 4 of them, got shape \[2\]"),
        ({"embed/ctrs": ROWS}, {}, ValueError, "has no embed/ctrs_count.* pass counts="),
        (saved(np.ones([C + 1, D])), {}, ValueError, r"at most \[7, 5\] .*found.* \[8, 5\]"),
        (saved(ROWS[:, 1:]), {}, ValueError, r"found embed/ctrs \[4, 4\] float32"),
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


def test_an_error_makes_no_counts(tmp_path):
    path, ctrs = save(tmp_path, FULL), make_ctrs(True)
    for wrong in ({"checkpoint": "nowhere"}, {"counts": [1]}, {"ctrs_name": "nowhere"}):
        with pytest.raises(ValueError, match=CALL):
            how = {"checkpoint": path, "centers": ctrs, "counts": 5, **wrong}
            tf_centers.warm_start_embed_centers(**how)
    assert tf.global_variables() == [ctrs]


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


def test_damaged_data_leaves_the_table_as_it_was(use_resource, tmp_path, session):
    path = save(tmp_path, FULL)
    (data,) = (p for p in (tmp_path / "old").iterdir() if ".data-" in p.name)
    found = bytearray(data.read_bytes())
    found[3] ^= 1
    data.write_bytes(bytes(found))
    centers = make_table(2, use_resource, initial_counts=2)
    warm_start = tf_centers.warm_start_embed_centers(path)
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
