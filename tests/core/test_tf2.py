"""Eager TF2 code and `tf.function`s, without Keras: every updater, one trace, gradients by hand.

TensorFlow 1.15 runs tf2_program.py instead.
"""

import os
import signal
import threading

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D, make_batch
from tf2_code import as_called, eager_centers, eager_or_function, needs_tf2
from updaters import UPDATERS, WITH_RATE

import tf_centers

pytestmark = [pytest.mark.eager, needs_tf2]
ANY_SIZE = [
    tensorflow.TensorSpec([None, None], tensorflow.float32),
    tensorflow.TensorSpec([None], tensorflow.int64),
    tensorflow.TensorSpec([None], tensorflow.bool),
]


def feed(seed, rows=B):
    """A batch with its mask, as arrays and as tensors."""
    embeds, labels = make_batch(seed, rows)
    arrays = embeds.astype(np.float32), labels.astype(np.int64), np.arange(rows) % 4 != seed % 4
    return arrays, [tensorflow.constant(array) for array in arrays]


@eager_or_function
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_updaters(how, name):
    """Batches of several sizes, an empty one too, in one trace."""
    updater, rule = UPDATERS[name].updater, UPDATERS[name].rule
    centers, traces = eager_centers(), []

    def step(embeds, labels, mask):
        traces.append(1)
        rows = tf_centers.get_embed_centers(embeds, labels, updater, centers, mask, read="before")
        return rows, tf_centers.lookup_embed_centers(tensorflow.range(C), centers)

    step = as_called(how, step, input_signature=ANY_SIZE)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed, rows in enumerate((B, 5, 0, B + 3)):
        (embeds, labels, mask), tensors = feed(seed, rows)
        before = np.where(mask[:, np.newaxis], ctrs[labels], embeds)
        ctrs, counts = reference.apply(rule, ctrs, counts, embeds, labels, mask)
        found = step(*tensors)
        np.testing.assert_allclose(found[0], before, atol=1e-5)
        np.testing.assert_allclose(found[1], ctrs, atol=1e-5)
        np.testing.assert_array_equal(centers.counts, counts)
    before = [variable.numpy().tobytes() for variable in centers]
    for bad, message in (([0, C], r"every label in \[0, 7\)"), ([np.nan, 1], "finite values")):
        embeds = np.tile(bad, [D, 1]).T if np.isnan(bad[0]) else np.ones([2, D])
        labels = [0, 1] if np.isnan(bad[0]) else bad
        with pytest.raises(tf.errors.InvalidArgumentError, match="get_embed_centers: .*" + message):
            step(*map(tensorflow.constant, (np.float32(embeds), np.int64(labels), [True, True])))
        assert [variable.numpy().tobytes() for variable in centers] == before
    assert len(traces) == (6 if how == "eager" else 1)


@eager_or_function
@pytest.mark.parametrize("read", ["before", "after"])
def test_a_training_step(how, read):
    """What a network learns from the loss: the centers stand still under the tape."""
    kernel = np.random.RandomState(0).randn(D + 1, D)
    variable, centers = tensorflow.Variable(kernel, dtype=tensorflow.float32), eager_centers()

    def step(features, labels):
        with tensorflow.GradientTape(persistent=True) as tape:
            tape.watch([centers.ctrs])
            embeds = tensorflow.matmul(features, variable)
            rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers, read=read)
            loss = tensorflow.reduce_mean(tf_centers.center_loss(embeds, rows))
            again = tensorflow.reduce_sum(tf_centers.lookup_embed_centers(labels, centers))
            nearest = tensorflow.reduce_sum(tf_centers.nearest_centers(embeds, centers).distances)
            moved = tensorflow.reduce_sum(rows)
        for blocked in (again, nearest, moved):
            assert tape.gradient(blocked, [variable, centers.ctrs]) == [None, None]
        assert tape.gradient(loss, centers.ctrs) is None
        gradient = tape.gradient(loss, variable)
        variable.assign_sub(0.5 * gradient)
        return loss

    step = as_called(how, step)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed in range(3):
        features, labels = make_batch(seed, dims=D + 1)
        features = features.astype(np.float32)
        embeds, old = features.dot(kernel), ctrs
        ctrs, counts = reference.apply(reference.cumulative_mean, ctrs, counts, embeds, labels)
        difference = embeds - (ctrs if read == "after" else old)[labels]
        loss = step(tensorflow.constant(features), tensorflow.constant(labels))
        np.testing.assert_allclose(loss, 0.5 / B * np.sum(difference**2), rtol=1e-4)
        kernel = kernel - 0.5 / B * features.T.dot(difference)
        np.testing.assert_allclose(variable, kernel, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(centers.ctrs, ctrs, rtol=1e-3, atol=1e-4)
    # A gradient through the mean would have been another one.
    assert np.abs(ctrs - old).max() > 0.1


@eager_or_function
@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_a_schedule(how, name):
    """A variable for a parameter is read at every step, and checked."""
    entry, rate, centers = UPDATERS[name], tensorflow.Variable(0.5), eager_centers()

    def step(embeds, labels):
        tf_centers.update_embed_centers(embeds, labels, entry.make(rate), centers)

    step = as_called(how, step)
    state = np.zeros([C, D]), np.zeros(C, int)
    for seed, value in enumerate((0.5, 0.25, 0.75)):
        (embeds, labels, _), tensors = feed(seed)
        rate.assign(value)
        step(*tensors[:2])
        state = reference.apply(entry._replace(rate=value).rule, *state, embeds, labels)
        np.testing.assert_allclose(centers.ctrs, state[0], atol=1e-4)
    bits = [variable.numpy().tobytes() for variable in centers]
    rate.assign(1.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"in \[0, 1[\])], found"):
        step(*tensors[:2])
    assert [variable.numpy().tobytes() for variable in centers] == bits


def finishes(work):
    """Whether `work` ends; in a thread of its own, since what waits for a lock waits for ever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=60)
    return not thread.is_alive()


@pytest.mark.parametrize("nested", [False, True])
def test_two_locked_calls_in_one_function(nested):
    # With a lock of its own for each, the second would hold it and wait for what the first writes.
    centers = eager_centers()

    def update(embeds):
        return tf_centers.get_embed_centers(embeds, [1], MEAN, centers, use_locking=True)

    @tensorflow.function
    def both(slow):
        for _ in range(6):
            slow = tf.matmul(slow, slow) * 1e-3
        late = 0.0 * tf.reduce_sum(slow) + tf.ones([1, D])
        if nested:
            first = tf.cond(late[0, 0] > 0, lambda: update(late), lambda: late)
        else:
            first = update(late)
        return first, update(4.0 * tf.ones([1, D]))

    assert finishes(lambda: [both(tf.ones([500, 500])) for _ in range(5)])
    assert centers.counts.numpy().tolist() == [0, 10] + [0] * (C - 2)
    np.testing.assert_allclose(centers.ctrs.numpy()[1], 2.5, rtol=1e-6)


def test_an_error_that_is_kept_does_not_keep_the_lock():
    centers, kept = eager_centers(), []

    def update(updater=None):
        tf_centers.update_embed_centers([[1.0] * D], [1], updater, centers, use_locking=True)

    class OutOfMemory(tf_centers.Updater):
        def row_weights(self, rows):
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    try:
        update(OutOfMemory())
    except tf.errors.ResourceExhaustedError as error:
        kept.append(error)
    assert kept and finishes(update)
    assert centers.counts.numpy()[1] == 1


def _lookups(centers):
    """Both calls that look centers up, as functions of labels."""
    return [
        lambda labels: tf_centers.lookup_embed_centers(labels, centers),
        lambda labels: tf_centers.get_embed_centers(
            tensorflow.ones([2, D]), labels, centers=centers, is_training=False
        ),
    ]


@pytest.mark.parametrize("place", [0, 1], ids=["lookup", "get"])
def test_a_bad_label_shows_under_xla(place):
    """XLA drops assertions."""
    centers = eager_centers()
    # Every bit counts: of values that adding 0 or multiplying by 1 might change.
    centers.ctrs.assign(np.float32(np.linspace(-1e30, 1e30, C * D)).reshape(C, D))
    centers.ctrs[3].assign(np.float32([-0.0, 0.0, np.inf, 1e-38, -1.0]))
    lookup = _lookups(centers)[place]
    compiled = tensorflow.function(lookup, jit_compile=True)
    labels = tensorflow.constant([3, 6], tensorflow.int64)
    assert compiled(labels).numpy().tobytes() == lookup(labels).numpy().tobytes()
    for bad in ([3, C], [-1, 3]):
        labels = tensorflow.constant(bad, tensorflow.int64)
        assert np.isnan(compiled(labels)).all()
        for call in (lookup, tensorflow.function(lookup)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"every label in \[0, 7\)"):
                call(labels)


def test_an_update_does_not_compile():
    centers = eager_centers()
    update = tensorflow.function(
        lambda: tf_centers.get_embed_centers(
            tensorflow.ones([2, D]), tensorflow.constant([1, 2]), centers=centers
        ),
        jit_compile=True,
    )
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)):
        update()
    assert not centers.ctrs.numpy().any()


class Interrupting(tf_centers.CumulativeMean):
    """Ctrl-C arrives while the update is under way; `fails` lets its weights be refused, too."""

    def __init__(self, fails=False):
        super().__init__()
        object.__setattr__(self, "fails", fails)

    def row_weights(self, rows):
        os.kill(os.getpid(), signal.SIGINT)
        return super().row_weights(rows) - 2.0 * self.fails


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("use_locking", [False, True])
def test_ctrl_c_waits_for_an_update(use_locking, fails):
    centers, how = eager_centers(), {"use_locking": use_locking}
    batch = np.ones([3, D], np.float32), [1, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        tf_centers.update_embed_centers(*batch, Interrupting(fails), centers, **how)
    done = 0 if fails else 1
    assert centers.counts.numpy().tolist() == [0, 2 * done, done] + [0] * (C - 3)
    np.testing.assert_allclose(centers.ctrs.numpy()[1:3], done)
    # The lock is free again.
    tf_centers.update_embed_centers(*batch, tf_centers.CumulativeMean(), centers, **how)
    assert centers.counts.numpy()[1] == 2 * done + 2
