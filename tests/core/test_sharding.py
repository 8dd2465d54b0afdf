"""Centers split over shards: the same results, only in other variables."""

import pathlib

import make_checkpoint
import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import MEAN, D, make_batch, make_centers, make_ctrs, parts, read_state

import tf_centers

CHECKPOINTS = pathlib.Path(__file__).resolve().parent.parent / "checkpoints"
WRITTEN_BY = sorted(folder.name for folder in CHECKPOINTS.iterdir())
C, B = 11, 40  # uneven in every number of shards below
RULE = reference.cumulative_mean


def test_legacy_shards_by_name_and_as_variable(use_resource, session):
    # Made by get_variable, found by the name of the scope; the counts are made on demand.
    ctrs = make_ctrs(use_resource, [C, D], tf.float64, shards=3)
    batch, labels = make_batch(0, B, C, D)
    with tf.variable_scope("embed", reuse=True):  # below it there is none, so it is absolute
        rows = tf_centers.get_embed_centers(tf.constant(batch), labels, MEAN)
    with tf.control_dependencies([rows]):
        again = tf_centers.get_embed_centers(tf.identity(batch), labels, MEAN, ctrs)
    shapes = {v.name: v.shape.as_list() for v in tf.global_variables()}
    assert len(shapes) == 6
    for part, shard in enumerate(ctrs):
        assert shapes[f"embed/ctrs_count/part_{part}:0"] == shard.shape.as_list()[:1]
    expected = np.zeros([C, D]), np.zeros(C, int)
    for _ in range(2):
        expected = reference.apply(RULE, *expected, batch, labels)
    np.testing.assert_allclose(session.run(again), expected[0][labels])


def test_split_by_columns_is_refused(use_resource):
    partitioner = tf.fixed_size_partitioner(2, axis=1)
    with tf.variable_scope("", partitioner=partitioner, use_resource=use_resource):
        with pytest.raises(ValueError, match=r"^create_embed_centers: .*by rows.*\[1, 2\]"):
            tf_centers.create_embed_centers(C, D)
        assert tf.global_variables() == []
        with tf.variable_scope("embed"):
            ctrs = tf.get_variable("ctrs", [C, 6])
    for centers in ("embed", ctrs, tf_centers.EmbedCenters(ctrs)):
        with pytest.raises(ValueError, match="^lookup_embed_centers: .*split by rows.*embed/ctrs"):
            tf_centers.lookup_embed_centers([1], centers)


def test_counts_of_other_shards_are_refused(use_resource):
    ctrs = make_centers(tf_centers, use_resource, C, D, 3).ctrs
    with tf.variable_scope("other", partitioner=tf.fixed_size_partitioner(2)):
        counts = tf.get_variable("counts", [C], tf.int64, tf.zeros_initializer())
    centers = tf_centers.EmbedCenters(ctrs, counts)
    message = r"counts must have shards of shapes \[\[4\], \[4\], \[3\]\]"
    with pytest.raises(ValueError, match=message):
        tf_centers.update_embed_centers([[1.0] * D], [1], None, centers)


@pytest.mark.parametrize("shards", [None, 1, 3])
@pytest.mark.parametrize("written_by", WRITTEN_BY)
def test_a_checkpoint_moves_between_versions_and_numbers_of_shards(
    written_by, shards, use_resource
):
    """And kinds of variables: it was written from two shards of the ref kind."""
    assert {"tensorflow-1.15", "tensorflow-2.21"} <= set(WRITTEN_BY)
    folder = CHECKPOINTS / written_by
    sizes = make_checkpoint.CLASSES, make_checkpoint.DIMS, shards
    centers = make_centers(tf_centers, use_resource, *sizes)
    with tf.Session() as session:
        tf.train.Saver().restore(session, str(folder / "model"))
        ctrs, counts = read_state(session, centers)
    initial = np.zeros_like(ctrs), np.zeros_like(counts)
    batch = make_checkpoint.ROWS, make_checkpoint.LABELS
    expected = reference.apply(RULE, *initial, *batch)
    np.testing.assert_array_equal(counts, expected[1])
    np.testing.assert_allclose(ctrs, expected[0], rtol=1e-6)


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("placed", [False, True])
def test_counts_made_on_demand_are_where_the_centers_are(placed, shards, use_resource):
    setter = tf.train.replica_device_setter(ps_tasks=3)
    with tf.device("/job:ps/task:2"):
        other = tf.get_variable("other", [1], use_resource=use_resource)
    with tf.device(setter if placed else None):
        ctrs = make_ctrs(use_resource, [C, D], scope="net/part_1/embed", shards=shards)
    with tf.device(setter), tf.get_default_graph().colocate_with(other.op):
        tf_centers.update_embed_centers([[1.0] * D], [1], MEAN, "net/part_1/embed")
    counts = {v.name: v.device for v in tf.global_variables() if "count" in v.name}
    names = [v.name.replace("/ctrs", "/ctrs_count") for v in parts(ctrs)]
    assert [counts[name] for name in names] == [v.device for v in parts(ctrs)]
    assert len(set(counts.values())) == (shards or 1 if placed else 1)
