"""What is wrong with the recipe that everyone copies, next to ours on the same data."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import MEAN, initialized_session, make_ctrs, placeholders

import tf_centers

DECAY = 0.95


def recipe(embeds, labels, ctrs):
    """To the letter: gather, subtract, scatter_sub, gather from what it returned."""
    old = tf.gather(ctrs, labels)
    ctrs = tf.scatter_sub(ctrs, labels, (1 - DECAY) * (old - embeds))
    return tf.gather(ctrs, labels)


def ours_of(embeds, labels, ctrs):
    """The same call with the import changed."""
    return tf_centers.get_embed_centers(embeds, labels, centers=ctrs)


def steps(build, use_resource, batches):
    """The returned rows of each batch, and the centers at the end."""
    with tf.Graph().as_default():
        ctrs, (embeds, labels) = make_ctrs(use_resource, [3, 1]), placeholders(1)
        rows, found = build(embeds, labels, ctrs), []
        with initialized_session() as session:
            for batch, batch_labels in batches:
                try:
                    found.append(session.run(rows, {embeds: batch, labels: batch_labels}))
                except tf.errors.InvalidArgumentError:
                    found.append(None)
            return found, session.run(ctrs)


def test_never_moves_on_resource_variables(use_resource):
    batches = [(np.ones([1, 1]), [1])] * 100
    _, theirs = steps(recipe, use_resource, batches)
    _, ours = steps(ours_of, use_resource, batches)
    # 100 steps towards 1.0 leave 0.95^100 of the way
    assert ours[1, 0] == pytest.approx(1 - DECAY**100, abs=1e-6)
    assert theirs[1, 0] == (0.0 if use_resource else pytest.approx(ours[1, 0], abs=1e-5))


def test_diverges_on_repeated_labels(use_resource):
    batches = [(np.ones([64, 1]), [1] * 64)] * 40
    theirs, _ = steps(recipe, False, batches)
    centers = [rows[0, 0] for rows in theirs]
    np.testing.assert_allclose(centers[:5], [3.2, -3.84, 11.648, -22.4256, 52.53632], rtol=1e-4)
    assert abs(centers[-1]) > 1e13
    ours, _ = steps(ours_of, use_resource, batches)
    # 1 - 0.95^64 in the first step already, and never beyond 1
    assert ours[0][0, 0] == pytest.approx(1 - DECAY**64, abs=1e-6)
    assert all(0 < rows[0, 0] <= 1 + 1e-6 for rows in ours)


def test_one_nan_poisons_a_class_for_ever(use_resource):
    good, bad = (np.ones([2, 1]), [1, 2]), (np.array([[np.nan], [1.0]]), [1, 2])
    batches = [good, bad] + [good] * 50
    _, theirs = steps(recipe, False, batches)
    assert np.isnan(theirs[1, 0]) and np.isfinite(theirs[2, 0])
    ours, ctrs = steps(ours_of, use_resource, batches)
    assert ours[1] is None  # refused, and nothing of that batch was written
    expected = reference.exponential_window(np.zeros(1), 0, np.ones([51, 1]))
    np.testing.assert_allclose(ctrs, [[0.0], expected, expected], atol=1e-6)


def test_state_is_saved(use_resource, tmp_path, session):
    """Facenet saves `tf.trainable_variables()`, in which its centers are not."""
    ctrs = make_ctrs(use_resource, [3, 1])
    tf.get_variable("network", [1])
    rows = tf_centers.get_embed_centers([[1.0]], [1], MEAN)
    theirs, ours = tf.train.Saver(tf.trainable_variables()), tf.train.Saver()
    session.run([rows, ctrs])
    state = ["embed/ctrs", "embed/ctrs_count"]
    for saver, names in ((theirs, ["network"]), (ours, [*state, "network"])):
        path = saver.save(session, str(tmp_path / "model"))
        found = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        assert sorted(found) == names
