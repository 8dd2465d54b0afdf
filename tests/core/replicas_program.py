"""Checks on three replicas, run by test_replicas.py in a process of their own.

Prints what went wrong in each check as JSON. TensorFlow wants one strategy a process.
"""

import json
import os
import sys
import tempfile
import traceback

import numpy as np
import tensorflow
import tensorflow.compat.v1 as tf

import tf_centers

sys.path.append(os.path.join("scripts", "maintenance"))
import check_replicas  # noqa: E402
from check_replicas import bits, distribute  # noqa: E402

REPLICAS = 3
STRATEGY = check_replicas.make_strategy(REPLICAS)
MEAN = tf_centers.CumulativeMean()
# Unequal parts, one of them empty; class 1 comes on two replicas.
EMBEDS = [[[1.0, 2.0], [3.0, 4.0]], np.zeros([0, 2]), [[5.0, 0.0]]]
LABELS = [[1, 3], [], [1]]


def make(**how):
    with STRATEGY.scope():
        return tf_centers.create_embed_centers(4, 2, **how)


def run(call, embeds=EMBEDS, labels=LABELS, *more):
    """What `call(embeds, labels, ...)` returns on each replica, inside a `tf.function`."""
    columns = [[tf.constant(part, tf.float32) for part in embeds]]
    columns.append([tf.constant(part, tf.int64) for part in labels])
    parts = [distribute(STRATEGY, column) for column in columns + list(more)]
    function = tensorflow.function(lambda *given: STRATEGY.run(call, given))
    return STRATEGY.experimental_local_results(function(*parts))


def get(centers, updater=MEAN, **how):
    return lambda embeds, labels: tf_centers.get_embed_centers(
        embeds, labels, updater, centers, **how
    )


def copies(centers):
    return [STRATEGY.experimental_local_results(variable) for variable in centers]


def state(centers):
    return [bits(copy) for found in copies(centers) for copy in found]


def same(found, expected):
    np.testing.assert_array_equal(np.array(found), expected)


def refused(error, message, call):
    try:
        call()
    except error as raised:
        assert message in str(raised), str(raised)
    else:
        raise AssertionError(f"passed: {message}")


def check_random_runs_hold_the_bits_of_a_single_process():
    rng = np.random.RandomState(5)
    for _ in range(4):
        check_replicas.run(STRATEGY, rng)


def check_every_copy_gets_the_rows_of_all():
    centers = make()
    assert [len(found) for found in copies(centers)] == [REPLICAS, REPLICAS]
    rows = run(get(centers))
    same(rows[0], [[3.0, 1.0], [3.0, 4.0]])
    same(rows[1], np.zeros([0, 2]))
    same(rows[2], [[3.0, 1.0]])
    for ctrs, counts in zip(*copies(centers)):
        same(ctrs, [[0.0, 0.0], [3.0, 1.0], [0.0, 0.0], [3.0, 4.0]])
        same(counts, [0, 2, 0, 1])


def check_every_part_may_be_empty():
    centers = make(initializer=np.ones([4, 2]))
    before = state(centers)
    rows = run(get(centers), [np.zeros([0, 2])] * REPLICAS, [[]] * REPLICAS)
    assert [row.shape.as_list() for row in rows] == [[0, 2]] * REPLICAS
    assert state(centers) == before


def check_the_calls_run_without_a_function():
    centers = make()
    parts = [
        distribute(STRATEGY, [tf.constant(part, dtype) for part in column])
        for column, dtype in ((EMBEDS, tf.float32), (LABELS, tf.int64))
    ]
    rows = STRATEGY.experimental_local_results(STRATEGY.run(get(centers), parts))
    same(rows[2], [[3.0, 1.0]])
    assert len(set(state(centers))) == 2


def check_a_bad_replica_changes_no_copy():
    centers = make()
    run(get(centers))
    before = state(centers)
    error = tf.errors.InvalidArgumentError

    def bad(message, *batch, call=None):
        refused(error, message, lambda: run(call or get(centers), *batch))
        assert state(centers) == before

    label = "expected every label in [0, 4), found"
    nan = [EMBEDS[0], EMBEDS[1], [[np.nan, 0.0]]]
    for replica in (0, 2):
        labels = [list(part) for part in LABELS]
        labels[replica][0] = 4
        bad(f"get_embed_centers: {label}] [4]", EMBEDS, labels)
    bad("get_embed_centers: expected finite values", nan)

    def cut(embeds, labels):
        # Of a length that is known only at run time, and is right on the other replicas.
        here = tensorflow.distribute.get_replica_context().replica_id_in_sync_group
        labels = labels[: tf.where(tf.equal(here, 0), 1, 3)]
        return get(centers)(tf.placeholder_with_default(embeds, [None, 2]), labels)

    bad("each replica, and does by their ids:] [0 1 1]", EMBEDS, LABELS, call=cut)

    def unlike(value, **how):
        def call(embeds, labels, value):
            window = tf_centers.ExponentialWindow(value if how else 0.5)
            training = True if how else value
            return get(centers, window, is_training=training)(embeds, labels)

        values = distribute(STRATEGY, [tf.constant(each) for each in value])
        function = tensorflow.function(
            lambda given: STRATEGY.run(
                lambda each: call(tf.ones([1, 2]), tf.constant([1]), each), (given,)
            )
        )
        refused(error, "to be the same on every replica, found", lambda: function(values))
        assert state(centers) == before

    unlike([0.5, 0.5, 0.25], decay=True)
    unlike([True, False, True])
    run(get(centers))  # And training goes on.
    assert len(set(state(centers))) == 2


def check_each_replica_reads_its_own_copy():
    centers = make()
    for place, copy in enumerate(copies(centers)[0]):
        copy.assign(np.full([4, 2], 1.0 + place))
    copies(centers)[1][1].assign([0, 0, 5, 0])

    batch = [np.zeros([1, 2])] * REPLICAS, [[2]] * REPLICAS
    rows = run(lambda embeds, labels: tf_centers.lookup_embed_centers(labels, centers), *batch)
    same(rows, [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]])
    nearest = run(lambda embeds, labels: tf_centers.nearest_centers(embeds, centers).labels, *batch)
    same(nearest, [[[-1]], [[2]], [[-1]]])
    rows = run(get(centers, is_training=False), *batch)
    same(rows, [[[1.0, 1.0]], [[2.0, 2.0]], [[3.0, 3.0]]])
    same(tf_centers.lookup_embed_centers([2], centers), [[1.0, 1.0]])  # outside: the first


def check_updates_on_other_replicas_than_have_copies_are_refused():
    centers = make()
    plain = tf_centers.create_embed_centers(4, 2)
    mixed = centers._replace(counts=plain.counts)
    before = state(centers)
    outside = "replicas as have a copy of embed/ctrs, 3, found one on 1; create the centers in"

    def update():
        return get(centers)([[1.0, 2.0]], [1])

    refused(ValueError, outside, update)
    with STRATEGY.scope():
        refused(ValueError, outside, update)
    refused(ValueError, "a copy of embed/ctrs, 1, found one on 3;", lambda: run(get(plain)))
    refused(ValueError, "to as many replicas as centers, 3, got", lambda: run(get(mixed)))
    assert state(centers) == before and not plain.counts.numpy().any()


def check_a_gradient_is_that_of_the_losses_of_all_replicas():
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


def check_a_checkpoint_is_that_of_a_single_table():
    centers = make()
    run(get(centers))
    plain = tf_centers.create_embed_centers(4, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = tensorflow.train.Checkpoint(ctrs=centers.ctrs, counts=centers.counts).save(
            os.path.join(folder, "copied")
        )
        tensorflow.train.Checkpoint(ctrs=plain.ctrs, counts=plain.counts).restore(
            path
        ).assert_consumed()
        assert [bits(whole) for whole in plain] == [bits(found[2]) for found in copies(centers)]
        restored = make()
        path = tensorflow.train.Checkpoint(ctrs=plain.ctrs, counts=plain.counts).save(
            os.path.join(folder, "plain")
        )
        tensorflow.train.Checkpoint(ctrs=restored.ctrs, counts=restored.counts).restore(
            path
        ).assert_consumed()
    assert state(restored) == state(centers)


def check_a_warm_start_writes_every_copy():
    centers = make()
    with tempfile.TemporaryDirectory() as folder:
        saved = tensorflow.Variable([[1.0, 2.0], [3.0, 4.0]])
        path = tensorflow.train.Checkpoint(saved=saved).write(os.path.join(folder, "old"))
        tf_centers.warm_start_embed_centers(
            path, centers, "saved/.ATTRIBUTES/VARIABLE_VALUE", counts=5
        )
    for ctrs, counts in zip(*copies(centers)):
        same(ctrs, [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
        same(counts, [5, 5, 0, 0])


def check_a_graph_of_tensorflow_1():
    texts = []
    tf.get_logger().warning, kept = texts.append, tf.get_logger().warning
    config = tf.ConfigProto(device_count={"CPU": REPLICAS})
    with tempfile.TemporaryDirectory() as folder:
        with tf.Graph().as_default(), tf.Session(config=config) as session:
            with STRATEGY.scope(), tf.variable_scope("embed"):
                ctrs = tf.get_variable("ctrs", [4, 2], initializer=tf.zeros_initializer())

            def call():
                place = int(
                    tf.get_static_value(
                        tensorflow.distribute.get_replica_context().replica_id_in_sync_group
                    )
                )
                # The count is made here, since the graph has none.
                return tf_centers.get_embed_centers(
                    tf.constant(EMBEDS[place], tf.float32, [len(LABELS[place]), 2]),
                    tf.constant(LABELS[place], tf.int64, [len(LABELS[place])]),
                    MEAN,
                )

            def differentiable(embeds, labels):
                return get(ctrs, stop_gradient=False)(embeds, labels)

            rows = STRATEGY.experimental_local_results(STRATEGY.run(call))
            refused(
                ValueError,
                "stop_gradient=False on 3 replicas needs a tf.function",
                lambda: STRATEGY.run(differentiable, (tf.ones([1, 2]), tf.constant([1]))),
            )
            summary = tf_centers.summarize_centers()
            session.run(tf.global_variables_initializer())
            same(session.run(rows)[2], [[3.0, 1.0]])
            shown = tf.Summary.FromString(session.run(summary)).value
            assert {value.tag.split("/")[-1]: value.simple_value for value in shown}[
                "max_count"
            ] == 2
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


def check_one_device_needs_no_gather():
    one = tensorflow.distribute.OneDeviceStrategy("/cpu:0")
    with one.scope():
        centers = tf_centers.create_embed_centers(4, 2)
        get(centers)([[4.0, 4.0]], [1])
    one.run(lambda: get(centers)([[2.0, 2.0]], [1]))
    get(centers)([[0.0, 0.0]], [1])
    same(centers.ctrs[1], [2.0, 2.0])
    same(centers.counts, [0, 3, 0, 0])


def main():
    faults = {}
    for name, check in list(globals().items()):
        if name.startswith("check_") and callable(check):
            try:
                check()
                faults[name] = ""
            except Exception:
                faults[name] = traceback.format_exc()
    print(json.dumps(faults))


if __name__ == "__main__":
    main()
