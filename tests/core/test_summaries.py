"""The summaries of centers, against NumPy over all pairs of classes."""

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, initialized_session, make_centers, make_ctrs
from tf2_code import as_called, eager_or_function, in_tf2

import tf_centers

# Not seen are one of the two that lie closest, 5 and 6; the one farthest out, 2; and 7, half way
# between the two that lie closest of those seen, 0 and 3.
TABLE = np.array(
    [
        [4, 0, 3],
        [-6, 2, 3],
        [90, 0, 0],
        [1, 1, 1],
        [8, -1, 4],
        [0, 12, 5],
        [0.5, 12, 5],
        [2.5, 0.5, 2],
    ]
)
COUNTS = np.array([3, 1, 0, 250, 2, 0, 9, 0])
COUNT_TAGS = {"share_of_classes_seen", "mean_count", "min_count", "max_count"}


def expected(table, counts=None):
    """What is to be shown of centers, all of them finite, with tags as keys."""
    found = {}
    if counts is not None:
        counts = np.array(counts)
        found["share_of_classes_seen"] = sum(counts > 0) / len(counts)
        found["mean_count"] = sum(counts) / len(counts)
        found["min_count"], found["max_count"] = min(counts), max(counts)
    seen = [row for i, row in enumerate(table) if counts is None or counts[i] > 0]
    norms = [sum(row**2) ** 0.5 for row in seen]
    if norms:
        found["norms"] = (len(norms), min(norms), max(norms), sum(norms))
        found["mean_norm"] = sum(norms) / len(norms)
    gaps = [sum((a - b) ** 2) ** 0.5 for i, a in enumerate(seen) for b in seen[:i]]
    if gaps:
        found["inter_class_distance"] = min(gaps)
    return found


def shown(serialized, scope="summarize_centers"):
    """The values of a summary, with what follows the scope in their tags as keys."""
    found = {}
    for value in tf.Summary.FromString(serialized).value:
        assert value.tag.startswith(scope + "/")
        tag = value.tag[len(scope) + 1 :]
        assert tag not in found
        histo = value.histo
        found[tag] = value.simple_value
        if value.HasField("histo"):
            found[tag] = (histo.num, histo.min, histo.max, histo.sum)
            assert sum(histo.bucket) == histo.num
    return found


def assert_shown(found, wanted, rtol=1e-6):
    assert set(found) == set(wanted)
    for tag in wanted:
        np.testing.assert_allclose(found[tag], wanted[tag], rtol=rtol, err_msg=tag)


def run(centers, **kwargs):
    summary = tf_centers.summarize_centers(centers, **kwargs)
    assert summary.dtype == tf.string and summary.shape.as_list() == []
    with initialized_session() as session:
        found = session.run(summary)
    return shown(found, kwargs.get("name", "summarize_centers"))


def make(use_resource, table=TABLE, counts=COUNTS):
    ctrs = make_ctrs(use_resource, np.shape(table), initial=table)
    if counts is None:
        return ctrs
    initial = np.array(counts, np.int64)
    return tf_centers.EmbedCenters(
        ctrs, tf.get_variable("n", initializer=initial, use_resource=use_resource)
    )


@pytest.mark.parametrize("counts", [COUNTS, None], ids=["counted", "bare"])
def test_agrees_with_numpy(counts, use_resource):
    wanted = expected(TABLE, counts)
    # By hand: of those seen, class 0 is nearest to class 3 at sqrt(9 + 1 + 4), and to class 4 at
    # sqrt(16 + 1 + 1); without counts, class 5 is at 0.5 from class 6.
    by_hand = 14**0.5 if counts is not None else 0.5
    assert wanted["inter_class_distance"] == pytest.approx(by_hand)
    assert_shown(run(make(use_resource, counts=counts)), wanted)


@pytest.mark.parametrize(
    "dtype, shards", [("float16", 3), ("bfloat16", None), ("float32", 1), ("float64", 3)]
)
def test_shards_and_dtypes(dtype, shards, use_resource):
    # These all have few enough digits for a bfloat16, but not their norms.
    how = {"initializer": TABLE, "initial_counts": COUNTS, "dtype": dtype}
    make_centers(tf_centers, use_resource, 8, 3, shards, **how)
    assert_shown(run("embed", name="shown"), expected(TABLE, COUNTS))


def test_far_from_zero_and_close_to_each_other_or_in_one_place(use_resource):
    table = 1000 + np.random.RandomState(0).randn(6, 4).astype(np.float32)
    assert_shown(run(make(use_resource, table, None)), expected(np.float64(table)))
    with tf.Graph().as_default():
        table[4] = table[1]
        assert run(make(use_resource, table, None))["inter_class_distance"] == 0.0


def test_nothing_seen_and_then_one_class_and_then_two(use_resource, session):
    centers = make_centers(tf_centers, use_resource, 4, 2)
    labels = tf.placeholder(tf.int32, [1])
    rows = [[0.0, 2.0]] + tf.cast(labels[:, None], tf.float32)
    update = tf_centers.update_embed_centers(rows, labels, MEAN)
    summary = tf_centers.summarize_centers(centers)
    assert shown(session.run(summary)) == dict.fromkeys(COUNT_TAGS, 0)
    for label, tags in ((3, {"norms", "mean_norm"}), (1, {"inter_class_distance"})):
        session.run(update, {labels: [label]})
        found = shown(session.run(summary))
        assert_shown(found, expected(*session.run(list(centers))))
        assert COUNT_TAGS | tags <= set(found)


@pytest.mark.parametrize("counted, bad", [(False, np.nan), (True, -np.inf)])
def test_centers_that_are_not_finite_are_left_out(bad, counted, use_resource):
    table, counts = TABLE.copy(), COUNTS if counted else None
    table[3, 1] = bad
    wanted = expected(np.delete(table, 3, 0), np.delete(COUNTS, 3) if counted else None)
    found = run(make(use_resource, table, counts))
    for tag in COUNT_TAGS & set(found):
        assert found.pop(tag) == pytest.approx(expected(TABLE, counts)[tag])
        del wanted[tag]
    assert_shown(found, wanted)
    with tf.Graph().as_default():
        assert run(make(use_resource, np.full([3, 2], np.nan), None)) == {}


@pytest.mark.parametrize("counted", [False, True])
def test_a_sample_of_many_classes(counted, use_resource):
    """Of up to 16,384 classes, and gaps of up to 2,048, as the docstring says."""
    line, counts = 3.0 * np.arange(40000), np.arange(40000) % 5
    line[[-2, -1]] = line[:2] + 1.0  # outside the sample of every 2.44th class
    found = run(make(use_resource, line[:, None], counts if counted else None))
    sample = np.arange(16384) * 40000 // 16384
    seen = counts > 0 if counted else np.ones(40000, bool)
    assert found["norms"][0] == seen[sample].sum()
    paired = [label for label in sample[::8] if seen[label]]
    assert found["inter_class_distance"] == 3 * np.diff(paired).min()


def test_several_sets_of_centers_and_names(use_resource, session):
    with tf.variable_scope("tower"):
        make_ctrs(use_resource, TABLE.shape, initial=TABLE)
        first = tf_centers.summarize_centers(name="first")
    make_ctrs(use_resource, TABLE.shape, initial=2 * TABLE, scope="other")
    tf_centers.summarize_centers("other", name="second")
    everything = tf.summary.merge_all()
    together, alone = session.run([everything, first])
    values = tf.Summary.FromString(together).value
    assert_shown(shown(alone, "tower/first"), expected(TABLE))
    assert sorted(v.tag for v in values) == sorted(
        f"{scope}/{tag}" for scope in ("tower/first", "second") for tag in expected(TABLE)
    )


@in_tf2
@eager_or_function
def test_outside_graphs(how):
    ctrs = tensorflow.Variable(TABLE)

    with pytest.raises(RuntimeError, match="summarize_centers: expected a graph of TensorFlow 1"):
        as_called(how, lambda: tf_centers.summarize_centers(ctrs))()
