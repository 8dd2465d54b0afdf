"""Replicas of a distribution strategy: the same centers on each, as in a single process."""

import os
import tempfile

import check_replicas
import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from check_replicas import bits, distribute, replica
from helpers import MEAN, C, D, make_ctrs
from tf2_code import needs_gathers
from three_replicas import (
    REPLICAS,
    copies,
    get,
    make,
    on_three_replicas,
    run,
    state,
    strategy,
)

import tf_centers

# Unequal parts, one of them empty; class 1 comes on two replicas.
EMBEDS = [np.float32(rows) for rows in ([[1, 2], [3, 4]], np.zeros([0, 2]), [[5, 0]])]
LABELS = [np.array(labels, int) for labels in ([1, 3], [], [1])]


def same(found, expected):
    np.testing.assert_array_equal(np.array(found), expected)


def refused(error, message, call):
    with pytest.raises(error, match=message):
        call()


@on_three_replicas
def test_random_runs_hold_the_bits_of_a_single_process():
    rng = np.random.RandomState(5)
    for _ in range(3):
        check_replicas.run(strategy(), rng)


@on_three_replicas
def test_every_copy_gets_the_rows_of_all():
    centers = make()
    assert [len(found) for found in copies(centers)] == [REPLICAS, REPLICAS]
    rows = run(get(centers), EMBEDS, LABELS)
    same(rows[0], [[3.0, 1.0], [3.0, 4.0]])
    same(rows[1], np.zeros([0, 2]))
    same(rows[2], [[3.0, 1.0]])
    for ctrs, counts in zip(*copies(centers)):
        same(ctrs, [[0.0, 0.0], [3.0, 1.0], [0.0, 0.0], [3.0, 4.0]])
        same(counts, [0, 2, 0, 1])
    before = state(centers)
    rows = run(get(centers), EMBEDS[1:2] * REPLICAS, LABELS[1:2] * REPLICAS)
    assert [row.shape.as_list() for row in rows] == [[0, 2]] * REPLICAS
    assert state(centers) == before
    # Without a function, from the state as it is now.
    parts = [distribute(strategy(), column) for column in (EMBEDS, LABELS)]
    rows = strategy().experimental_local_results(strategy().run(get(centers), parts))
    same(rows[2], [[3.0, 1.0]])
    assert len(set(state(centers))) == 2 and state(centers) != before


@on_three_replicas
def test_each_replica_reads_its_own_copy():
    centers = make()
    for place, copy in enumerate(copies(centers)[0]):
        copy.assign(np.full([4, 2], 1.0 + place))
    copies(centers)[1][1].assign([0, 0, 5, 0])

    batch = [np.zeros([1, 2], np.float32)] * REPLICAS, [[2]] * REPLICAS
    rows = run(lambda embeds, labels: tf_centers.lookup_embed_centers(labels, centers), *batch)
    same(rows, [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]])
    nearest = run(lambda embeds, labels: tf_centers.nearest_centers(embeds, centers).labels, *batch)
    same(nearest, [[[-1]], [[2]], [[-1]]])
    rows = run(get(centers, is_training=False), *batch)
    same(rows, [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]])
    same(tf_centers.lookup_embed_centers([2], centers), [[1.0, 1.0]])  # outside: the first


@on_three_replicas
def test_updates_on_other_replicas_than_have_copies_are_refused():
    centers = make()
    plain = tf_centers.create_embed_centers(4, 2)
    mixed = centers._replace(counts=plain.counts)
    before = state(centers)
    outside = "embed/ctrs.* 3.* 1"

    def update():
        return get(centers)([[1.0, 2.0]], [1])

    refused(ValueError, outside, update)
    with strategy().scope():
        refused(ValueError, outside, update)
    refused(ValueError, "embed/ctrs.* 1.* 3", lambda: run(get(plain), EMBEDS, LABELS))
    message = "as many replicas as centers, 3, got"
    refused(ValueError, message, lambda: run(get(mixed), EMBEDS, LABELS))
    assert state(centers) == before and not plain.counts.numpy().any()


@on_three_replicas
def test_a_gradient_is_that_of_the_losses_of_all_replicas():
    def gradient(centers):
        def call(embeds, labels):
            with tensorflow.GradientTape() as tape:
                tape.watch(embeds)
                rows = get(centers, tf_centers.WenUpdate(), stop_gradient=False)(embeds, labels)
                # The loss knows which replica it is on, so that no two rows pull alike.
                loss = tf.reduce_sum(tf.pow(rows, 2.0) * tf.cast(1 + labels[:1], tf.float32))
            return tape.gradient(loss, embeds)

        return call

    labels = [[1, 3], [2], [3, 1]]
    embeds = [[[1.0, 2.0], [3.0, 4.0]], [[0.5, -1.0]], [[5.0, 0.0], [2.0, 2.0]]]
    found = np.concatenate(run(gradient(make()), embeds, labels))
    # Each class moves to sum(x) * 0.5 / (1 + k), and a loss is the sum of its rows' squares times
    # one more than the first label of its replica.
    joined, of = np.concatenate(embeds), np.concatenate(labels)
    factors = np.repeat([2.0, 3.0, 4.0], [2, 1, 2])
    expected = np.zeros_like(joined)
    for label in (1, 2, 3):
        mine = of == label
        weight = 0.5 / (1 + mine.sum())
        expected[mine] = 2 * weight * weight * joined[mine].sum(0) * factors[mine].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@on_three_replicas
def test_a_checkpoint_is_that_of_a_single_table_and_a_warm_start_writes_every_copy():
    centers = make()
    run(get(centers), EMBEDS, LABELS)
    plain = tf_centers.create_embed_centers(4, 2)
    restored, warm = make(), make()
    with tempfile.TemporaryDirectory() as folder:

        def restore(saved, target):
            path = tensorflow.train.Checkpoint(**saved._asdict()).save(f"{folder}/saved")
            tensorflow.train.Checkpoint(**target._asdict()).restore(path).assert_consumed()

        restore(centers, plain)
        assert [bits(whole) for whole in plain] == [bits(found[2]) for found in copies(centers)]
        restore(plain, restored)
        assert state(restored) == state(centers)
        saved = tensorflow.Variable([[1.0, 2.0], [3.0, 4.0]])
        path = tensorflow.train.Checkpoint(saved=saved).write(f"{folder}/old")
        tf_centers.warm_start_embed_centers(path, warm, "saved/.ATTRIBUTES/VARIABLE_VALUE", 5)
    for ctrs, counts in zip(*copies(warm)):
        same(ctrs, [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
        same(counts, [5, 5, 0, 0])


@on_three_replicas
def test_a_graph_of_tensorflow_1():
    texts = []
    kept = tf.get_logger().warning
    tf.get_logger().warning = lambda text, *values: texts.append(text)
    config = tf.ConfigProto(device_count={"CPU": REPLICAS})
    with tempfile.TemporaryDirectory() as folder:
        with tf.Graph().as_default(), tf.Session(config=config) as session:
            with strategy().scope():
                ctrs = make_ctrs(None, [4, 2])

            def call(**how):
                # The count is made here, since the graph has none.
                return get("embed", **how)(EMBEDS[replica()], LABELS[replica()])

            rows = strategy().experimental_local_results(strategy().run(call))
            refused(
                ValueError,
                "stop_gradient=False on 3 replicas needs a tf.function",
                lambda: strategy().run(call, kwargs={"stop_gradient": False}),
            )
            summary = tf_centers.summarize_centers()
            session.run(tf.global_variables_initializer())
            same(session.run(rows)[2], [[3.0, 1.0]])
            shown = tf.Summary.FromString(session.run(summary)).value
            assert [v.simple_value for v in shown if v.tag.endswith("max_count")] == [2]
            (counts,) = [v for v in tf.global_variables() if v.name == "embed/ctrs_count:0"]
            for found in copies([ctrs, counts]):
                assert len({value.tobytes() for value in session.run(list(found))}) == 1
            path = tf.train.Saver().save(session, os.path.join(folder, "graph"))
        with tf.Graph().as_default(), tf.Session() as session:
            centers = tf_centers.create_embed_centers(4, 2)
            tf.train.Saver().restore(session, path)
            same(session.run(centers.ctrs), [[0.0, 0.0], [3.0, 1.0], [0.0, 0.0], [3.0, 4.0]])
            same(session.run(centers.counts), [0, 2, 0, 1])
        with tf.Graph().as_default(), tf.Session(config=config) as session:
            centers = make()
            tf.train.Saver().restore(session, path)
            for found in copies(centers):
                assert len({value.tobytes() for value in session.run(list(found))}) == 1
    tf.get_logger().warning = kept
    assert not [text for text in texts if "use_locking" in str(text)], texts


@on_three_replicas
def test_one_device_needs_no_gather():
    one = tensorflow.distribute.OneDeviceStrategy("/cpu:0")
    with one.scope():
        centers = tf_centers.create_embed_centers(4, 2)
        get(centers)([[4.0, 4.0]], [1])
    one.run(lambda: get(centers)([[2.0, 2.0]], [1]))
    get(centers)([[0.0, 0.0]], [1])
    same(centers.ctrs[1], [2.0, 2.0])
    same(centers.counts, [0, 3, 0, 0])


@pytest.mark.parametrize("made_by", ["create_embed_centers", "get_variable", "a replica"])
def test_one_replica_works_on_every_version(made_by, session):
    strategy = tensorflow.distribute.MirroredStrategy(["/device:CPU:0"])
    within = getattr(strategy, "run", None) or strategy.experimental_run_v2
    if made_by == "a replica":  # as in the model of an Estimator
        within(lambda: tf_centers.create_embed_centers(C, D) and None)
    else:
        with strategy.scope():
            make_ctrs(None) if made_by == "get_variable" else tf_centers.create_embed_centers(C, D)

    def update():
        return tf_centers.get_embed_centers([[2.0] * D, [4.0] * D], [1, 1], MEAN)

    rows = [within(update)]
    with tf.control_dependencies(strategy.experimental_local_results(rows[0])):
        rows.append(update())
    counts = [v for v in tf.global_variables() if v.name == "embed/ctrs_count:0"][0].read_value()
    for found in session.run([strategy.experimental_local_results(row) for row in rows]):
        np.testing.assert_allclose(np.reshape(found, [2, D]), np.full([2, D], 3.0), rtol=1e-6)
    assert session.run(counts).tolist() == [0, 4] + [0] * (C - 2)


@pytest.mark.skipif(
    not needs_gathers.args[0], reason="from TensorFlow 2.4 on every replica has a copy"
)
def test_several_replicas_are_refused_before_tensorflow_2_4():
    message = "centers must be one variable before TensorFlow 2.4, got one with 2 copies.*lock"
    strategy = tensorflow.distribute.MirroredStrategy(["/device:CPU:0", "/device:CPU:1"])
    with strategy.scope():
        ctrs = tf.get_variable("embed/ctrs", [C, D])
        with pytest.raises(ValueError, match="^create_embed_centers: " + message):
            tf_centers.create_embed_centers(C, D, scope="other")
    assert not [v for v in tf.global_variables() if v.name.startswith("other")]
    for centers in (ctrs, tf_centers.EmbedCenters(ctrs), "embed"):
        with pytest.raises(ValueError, match="^update_embed_centers: " + message):
            tf_centers.update_embed_centers([[1.0] * D], [1], MEAN, centers)
        with pytest.raises(ValueError, match="^nearest_centers: " + message):
            tf_centers.nearest_centers([[1.0] * D], centers)
