"""Tables that have another number of classes at run time than the graph knows."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import C, D, initialized_session, make_centers, make_ctrs, state_bits

import tf_centers

MEAN = tf_centers.CumulativeMean()
LARGE = 50
ONES = np.ones([2, D], np.float32)
CALLS = {
    "get_embed_centers": lambda labels, **how: tf_centers.get_embed_centers(ONES, labels, **how),
    "get_embed_centers, before": lambda labels, **how: tf_centers.get_embed_centers(
        ONES, labels, read="before", **how
    ),
    "get_embed_centers, mean": lambda labels, **how: tf_centers.get_embed_centers(
        ONES, labels, MEAN, **how
    ),
    "get_embed_centers, locked": lambda labels, **how: tf_centers.get_embed_centers(
        ONES, labels, MEAN, use_locking=True, **how
    ),
    "get_embed_centers, a switch": lambda labels, **how: tf_centers.get_embed_centers(
        ONES, labels, MEAN, is_training=tf.placeholder_with_default(True, []), **how
    ),
    "get_embed_centers, no training": lambda labels, **how: tf_centers.get_embed_centers(
        ONES, labels, is_training=False, **how
    ),
    "update_embed_centers": lambda labels, **how: tf_centers.update_embed_centers(
        ONES, labels, MEAN, **how
    ),
    "update_embed_centers, locked": lambda labels, **how: tf_centers.update_embed_centers(
        ONES, labels, use_locking=True, **how
    ),
    "lookup_embed_centers": lambda labels, **how: tf_centers.lookup_embed_centers(labels, **how),
}
UPDATES = [name for name in CALLS if "no training" not in name and "lookup" not in name]
SEARCHES = {
    "nearest_centers": lambda **how: list(tf_centers.nearest_centers(40 * ONES, k=C, **how)),
    "center_distances": lambda **how: tf_centers.center_distances(ONES, **how),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A table of 50 classes, whose k-th center is k everywhere."""
    path = str(tmp_path_factory.mktemp("large") / "model")
    with tf.Graph().as_default():
        table = np.repeat(np.arange(LARGE, dtype=np.float32)[:, None], D, 1)
        make_centers(tf_centers, True, LARGE, initializer=table, initial_counts=1)
        saver = tf.train.Saver()
        with initialized_session() as session:
            return saver.save(session, path)


@pytest.mark.parametrize("saved", ["ctrs", "both"])
@pytest.mark.parametrize("call", list(CALLS))
def test_a_label_beyond_the_classes_of_the_graph(call, saved, checkpoint):
    centers = make_centers(tf_centers, True)
    saver = tf.train.Saver(list(centers) if saved == "both" else [centers.ctrs])
    labels = tf.placeholder(tf.int64, [None])
    result = CALLS[call](labels)
    with initialized_session() as session:
        saver.restore(session, checkpoint)
        before = state_bits(session, *centers)
        for bad in ([1, 40], [C, 1], [LARGE, 1], [-1, 1]):
            message = call.split(",")[0] + r".*\[0, 7\)"
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                session.run(result, {labels: bad})
            assert state_bits(session, *centers) == before


@pytest.mark.parametrize("saved", ["no counts", "ctrs", "both"])
@pytest.mark.parametrize("call", list(SEARCHES))
def test_a_search_never_finds_a_class_beyond(call, saved, checkpoint):
    """Nor says how far it is."""
    if saved == "no counts":
        centers = [make_ctrs(True)]
    else:
        centers = make_centers(tf_centers, True, initial_counts=1)
    saver = tf.train.Saver(list(centers) if saved == "both" else [centers[0]])
    results = SEARCHES[call]()
    with initialized_session() as session:
        session.run(results)
        saver.restore(session, checkpoint)
        before = state_bits(session, *centers)
        for result in results if isinstance(results, list) else [results]:
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"{call}: expected"):
                session.run(result)
        assert state_bits(session, *centers) == before


def make_shards(classes=8):
    with tf.variable_scope("", partitioner=tf.fixed_size_partitioner(2), use_resource=True):
        return tf_centers.create_embed_centers(classes, D, initial_counts=1)


def resize(session, variable, rows):
    """What restoring a checkpoint with another number of rows does to a resource variable."""
    dtype = variable.dtype.base_dtype.as_numpy_dtype
    values = np.ones([rows] + variable.shape.as_list()[1:], dtype)
    session.run(f"{variable.op.name}/resize", {f"{variable.op.name}/value:0": values})


def allow_resizing(*variables):
    for variable in variables:
        value = tf.placeholder(variable.dtype, name=f"{variable.op.name}/value")
        tf.raw_ops.AssignVariableOp(
            resource=variable.handle, value=value, name=f"{variable.op.name}/resize"
        )


@pytest.mark.parametrize("call", list(SEARCHES))
@pytest.mark.parametrize("place", [0, 1])
def test_a_search_in_a_shard_that_is_larger(place, call):
    shard = list(make_shards().ctrs)[place]
    allow_resizing(shard)
    results = SEARCHES[call]()
    with initialized_session() as session:
        session.run(results)
        resize(session, shard, 9)
        for result in results if isinstance(results, list) else [results]:
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"{call}: expected"):
                session.run(result)


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("place", [0, 1])
def test_a_label_beyond_the_shards(place, call):
    centers = make_shards()
    variables = list(centers.ctrs) + list(centers.counts)
    allow_resizing(variables[place], variables[2 + place])
    labels = tf.placeholder(tf.int64, [None])
    result = CALLS[call](labels)
    with initialized_session() as session:
        for variable in (variables[place], variables[2 + place]):
            resize(session, variable, 9)
        before = state_bits(session, *variables)
        for bad in ([1, 8], [12, 5]):
            message = call.split(",")[0] + r".*\[0, 8\)"
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                session.run(result, {labels: bad})
            assert state_bits(session, *variables) == before


@pytest.mark.parametrize("short", range(4))
@pytest.mark.parametrize("call", UPDATES)
def test_a_shard_that_is_shorter(call, short):
    """The label 7 has a row in the graph, and none at run time in shard 1."""
    centers = make_shards()
    variables = list(centers.ctrs) + list(centers.counts)
    allow_resizing(variables[short])
    labels = tf.placeholder(tf.int64, [None])
    result = CALLS[call](labels)
    with initialized_session() as session:
        resize(session, variables[short], 2)
        before = state_bits(session, *variables)
        for bad in ([3, 7], [7, 3], [3, 3], [7, 7]):
            if short % 2 == (0 if 3 in bad else 1) or set(bad) == {3, 7}:
                with pytest.raises(tf.errors.InvalidArgumentError, match=call.split(",")[0]):
                    session.run(result, {labels: bad})
                assert state_bits(session, *variables) == before


@pytest.mark.parametrize("shards", [0, 1, 2])
def test_graphs_that_read_still_freeze(shards, use_resource, control_flow):
    """Whatever compares the classes with those at run time."""
    table = np.random.RandomState(0).randn(C, D).astype(np.float32)
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope("", partitioner=partitioner, use_resource=use_resource):
        tf_centers.create_embed_centers(C, D, initializer=table, initial_counts=[1] * (C - 1) + [0])
    embeds = tf.placeholder(tf.float32, [None, D], name="embeds")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    found = [
        tf_centers.lookup_embed_centers(labels),
        tf_centers.get_embed_centers(embeds, labels, is_training=False),
        tf_centers.center_distances(embeds),
        *tf_centers.nearest_centers(embeds, k=2),
    ]
    names = [tf.identity(one, f"found_{place}").op.name for place, one in enumerate(found)]
    feed = {"embeds:0": table[[5, 0, 6]], "labels:0": [5, 0, 6]}
    with initialized_session() as session:
        expected = session.run(found, feed)
        frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, names)
    assert expected[3][:, 0].tolist()[:2] == [5, 0]
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(frozen, name="")
        for one, other in zip(expected, session.run([f"{name}:0" for name in names], feed)):
            np.testing.assert_allclose(one, other, rtol=1e-5)
        with pytest.raises(tf.errors.InvalidArgumentError):
            session.run(f"{names[0]}:0", dict(feed, **{"labels:0": [5, 0, 7]}))


def test_a_table_of_the_right_size_keeps_working(use_resource):
    ctrs = make_ctrs(use_resource, initial=np.eye(C, D))
    results = [call(tf.constant([1, 2])) for call in CALLS.values()]
    results += [call() for call in SEARCHES.values()]
    with initialized_session() as session:
        session.run(results)
        assert session.run(ctrs).shape == (C, D)
