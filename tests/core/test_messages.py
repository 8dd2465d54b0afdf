"""Mistakes that were met with a wrong message, or with none."""

import inspect
import re

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import C, D, initialized_session, make_centers, make_ctrs, state_bits

import tf_centers

MEAN = tf_centers.CumulativeMean()
EMBEDS, LABELS = np.ones([2, D], np.float32), [1, 3]
CALLS = {
    "get_embed_centers": lambda **how: tf_centers.get_embed_centers(EMBEDS, LABELS, **how),
    "update_embed_centers": lambda **how: tf_centers.update_embed_centers(EMBEDS, LABELS, **how),
    "lookup_embed_centers": lambda **how: tf_centers.lookup_embed_centers(LABELS, **how),
    "nearest_centers": lambda **how: tf_centers.nearest_centers(EMBEDS, **how),
    "center_distances": lambda **how: tf_centers.center_distances(EMBEDS, **how),
    "summarize_centers": lambda **how: tf_centers.summarize_centers(**how),
}
EVERY_CALL = pytest.mark.parametrize("call", list(CALLS))


def fetches(result):
    return list(result) if isinstance(result, tuple) else [result]


# Counts that are made late.


def of_counts(texts):
    return [text for text in texts if "count" in text]


@pytest.mark.parametrize("first", ["get_embed_centers", "update_embed_centers", "nearest_centers"])
@pytest.mark.parametrize("second", ["get_embed_centers", "update_embed_centers"])
@pytest.mark.parametrize("shards", [0, 2])
def test_counts_made_late(first, second, shards, use_resource, warnings):
    with tf.variable_scope("", partitioner=shards and tf.fixed_size_partitioner(shards) or None):
        make_ctrs(use_resource, initial=0.0)
    CALLS[first]()
    assert not of_counts(warnings)
    CALLS[second](updater=MEAN)
    (text,) = of_counts(warnings)
    assert first in text and second in text and "embed/ctrs" in text
    CALLS[second](updater=MEAN)
    assert len(of_counts(warnings)) == 1


def test_counts_made_in_time(use_resource, warnings):
    make_ctrs(use_resource)
    tf_centers.lookup_embed_centers(LABELS)
    tf_centers.get_embed_centers(EMBEDS, LABELS, is_training=False)
    CALLS["update_embed_centers"](updater=MEAN)
    CALLS["get_embed_centers"]()
    assert not of_counts(warnings)


# What is passed as centers.


@EVERY_CALL
def test_a_plain_pair(call, use_resource):
    """Works as `EmbedCenters` does, or is refused by this name."""
    centers = make_centers(tf_centers, use_resource, initial_counts=1)
    try:
        result = CALLS[call](centers=tuple(centers))
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"{call}: ") and "EmbedCenters" in str(error)
        return
    with initialized_session() as session:
        session.run(fetches(result))
        if "update" in call:
            assert session.run(centers.counts).tolist() == [1, 2, 1, 2, 1, 1, 1]


@EVERY_CALL
@pytest.mark.parametrize("shards", [0, 2])
def test_a_table_of_another_graph(call, shards, use_resource):
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    with tf.Graph().as_default(), tf.variable_scope("", partitioner=partitioner):
        centers = make_centers(tf_centers, use_resource, scope="elsewhere")
    for given in (centers, centers.ctrs):
        with pytest.raises(ValueError, match=f"^{call}: ") as caught:
            CALLS[call](centers=given)
        assert "elsewhere/ctrs" in str(caught.value) and "graph" in str(caught.value)


def test_counts_of_another_graph(use_resource):
    with tf.Graph().as_default():
        counts = make_centers(tf_centers, use_resource, scope="elsewhere").counts
    ctrs = make_ctrs(use_resource)
    with pytest.raises(ValueError, match="^update_embed_centers: ") as caught:
        CALLS["update_embed_centers"](centers=tf_centers.EmbedCenters(ctrs, counts), updater=MEAN)
    assert "elsewhere/ctrs_count" in str(caught.value) and "graph" in str(caught.value)


def test_how_to_make_missing_centers(use_resource):
    """What the message advises makes a table of zeros that no optimizer touches."""
    with pytest.raises(ValueError, match="^get_embed_centers: ") as caught:
        CALLS["get_embed_centers"]()
    call = re.search(r"tf\.get_variable\((?:[^()]|\([^()]*\))*\)", str(caught.value)).group()
    with tf.variable_scope("embed", use_resource=use_resource):
        ctrs = eval(call, {"tf": tf, "num_classes": C, "num_dims": D})
    assert not tf.trainable_variables()
    CALLS["get_embed_centers"]()
    with initialized_session() as session:
        np.testing.assert_array_equal(session.run(ctrs), np.zeros([C, D]))


@pytest.mark.skipif(not tf.executing_eagerly(), reason="needs eager execution")
@pytest.mark.eager
def test_creating_within_a_function():
    @tensorflow.function
    def make():
        tf_centers.create_embed_centers(C, D, "inside")

    with pytest.raises(ValueError, match=r"create_embed_centers: .*tf\.function"):
        make()
    centers = tf_centers.create_embed_centers(C, D, "inside")
    rows = tf_centers.get_embed_centers(EMBEDS, LABELS, MEAN, centers)
    np.testing.assert_array_equal(rows.numpy(), EMBEDS)
    rows = tensorflow.function(lambda: CALLS["get_embed_centers"](updater=MEAN, centers=centers))()
    np.testing.assert_array_equal(rows.numpy(), EMBEDS)
    assert centers.counts.numpy().tolist() == [0, 2, 0, 2, 0, 0, 0]


def of_training(texts):
    return [text for text in texts if "gradient" in text]


@pytest.mark.parametrize("trainable", [True, False])
def test_distances_to_a_trainable_table(trainable, use_resource, warnings):
    with tf.variable_scope("embed", use_resource=use_resource):
        tf.get_variable("ctrs", [C, D], trainable=trainable)
    CALLS["center_distances"]()
    texts = of_training(warnings)
    assert len(texts) == (1 if trainable else 0)
    assert all(text.startswith("center_distances: ") and "embed/ctrs" in text for text in texts)


# Batches.


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers"])
@pytest.mark.parametrize("shape", [None, [None, None]], ids=str)
@pytest.mark.parametrize("size", [(2, D - 2), (5, 1), (1, 2 * D)], ids=str)
@pytest.mark.parametrize("shards", [0, 2])
def test_rows_of_other_dims_without_checks(call, shape, size, shards, use_resource):
    """Rows are not cut anew: 5 rows of one dim are no row of 5."""
    partitioner = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope("", partitioner=partitioner):
        make_centers(tf_centers, use_resource)
    embeds, labels = tf.placeholder(tf.float32, shape), tf.placeholder(tf.int64, [None])
    result = getattr(tf_centers, call)(embeds, labels, MEAN, validate_args=False)
    variables = tf.global_variables()
    with initialized_session() as session:
        before = state_bits(session, *variables)
        # As many labels as there are rows, and as there would be if they were cut anew.
        for rows in {size[0], max(1, size[0] * size[1] // D)}:
            feed = {embeds: np.ones(size), labels: [1, 5, 1, 5, 1][:rows]}
            with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.InternalError)):
                session.run(result, feed)
            assert state_bits(session, *variables) == before


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers"])
def test_float_labels(call, use_resource):
    make_ctrs(use_resource)
    for labels in ([1.0, 3.0], tf.constant([[1.0], [3.0]]), tf.placeholder(tf.float32)):
        with pytest.raises(TypeError, match=f"^{call}: label_batch .*integer.*float32"):
            getattr(tf_centers, call)(EMBEDS, labels)
        with pytest.raises(TypeError, match="^lookup_embed_centers: label_batch .*integer"):
            tf_centers.lookup_embed_centers(labels)


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers"])
@pytest.mark.parametrize("decay", [0.95, 0.5, np.float32(0.5)])
def test_a_decay_by_position(call, decay, use_resource):
    """As the circulating recipe takes it."""
    make_ctrs(use_resource)
    message = rf"^{call}: updater .*ExponentialWindow\({decay!r}\)"
    message = message.replace(repr(np.float32(0.5)), "0.5")
    with pytest.raises(TypeError, match=message):
        getattr(tf_centers, call)(EMBEDS, LABELS, decay)


@pytest.mark.parametrize("call", ["get_embed_centers", "update_embed_centers"])
def test_a_decay_by_name(call, use_resource):
    """If feasible: Python's own TypeError does not say what to write."""
    make_ctrs(use_resource)
    with pytest.raises(TypeError, match=r"ExponentialWindow\(0\.9\)"):
        getattr(tf_centers, call)(EMBEDS, LABELS, decay=0.9)
    assert "decay" not in inspect.signature(getattr(tf_centers, call)).parameters
