"""Eager TF2 code and `tf.function`s, without Keras: every updater, one trace, gradients by hand."""

import os
import signal
import threading

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, C, D, make_batch
from programs import in_own_process
from tf2_code import as_called, eager_centers, eager_or_function, in_tf2
from updaters import UPDATERS, WITH_RATE

import tf_centers

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


@in_own_process
def test_a_program_that_tensorflow_1_can_run_as_well():
    """Once it is told to behave as TensorFlow 2, where the other tests are skipped."""
    tf.enable_v2_behavior()
    centers = eager_centers()

    @tensorflow.function
    def step(embeds, labels, wanted):
        total = tensorflow.zeros([])
        if wanted > 0:
            total += tf.reduce_sum(tf_centers.get_embed_centers(embeds, labels, MEAN, centers))
        return total

    embeds, labels = tensorflow.ones([2, D]), tensorflow.constant([1, 2])
    assert float(step(embeds, labels, tensorflow.constant(0))) == 0.0
    assert not centers.counts.numpy().any()
    assert float(step(embeds, labels, tensorflow.constant(1))) == 2.0 * D
    for bad in ([1, C], [-1, 2]):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"get_.* label in \[0, 7\)"):
            step(embeds, tensorflow.constant(bad), tensorflow.constant(1))
    with tensorflow.GradientTape() as tape:
        tape.watch(embeds)
        rows = tf_centers.get_embed_centers(embeds, labels, None, centers, read="before")
        loss = tf_centers.center_loss(3.0 * embeds, rows)
    gradient, none = tape.gradient(loss, [embeds, centers.ctrs])
    assert none is None
    np.testing.assert_array_equal(gradient, np.full([2, D], 6.0))  # 3 * (3 - 1)
    # The window counts its rows too, where counts are kept.
    assert centers.counts.numpy().tolist() == [0, 2, 2, 0, 0, 0, 0]
    found = tf_centers.nearest_centers(embeds, centers, k=3).labels
    assert found.numpy().tolist() == [[1, 2, -1]] * 2
    # A schedule is a variable, and batches of any size share one trace.
    decay, traces = tensorflow.Variable(0.5), []

    @tensorflow.function(input_signature=ANY_SIZE)
    def window(embeds, labels, mask):
        traces.append(1)
        updater = tf_centers.ExponentialWindow(decay)
        return tf_centers.get_embed_centers(embeds, labels, updater, centers, mask)

    for rate, rows, expected in ((0.5, [4.0], 2.0), (0.75, [6.0, 6.0], 3.75), (0.75, [], 0.0)):
        decay.assign(rate)
        size = len(rows)
        batch = np.float32(np.outer(rows, np.ones(D))), np.full(size, 6), np.full(size, True)
        found = window(*map(tf.constant, batch))
        np.testing.assert_array_equal(found, np.full([size, D], expected))
    assert len(traces) == 1


@in_tf2
@eager_or_function
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_updaters(how, name):
    """Batches of several sizes, an empty one too, in one trace."""
    updater, rule = UPDATERS[name].updater, UPDATERS[name].rule
    centers, traces = eager_centers(UPDATERS[name].count_dtype), []

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


@in_tf2
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


@in_tf2
@eager_or_function
@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_a_schedule(how, name):
    """A variable for a parameter is read at every step, and checked."""
    entry, rate = UPDATERS[name], tensorflow.Variable(0.5)
    centers = eager_centers(entry.count_dtype)

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


@in_tf2
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


@in_tf2
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


@in_tf2
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


@in_tf2
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


@in_tf2
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
