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
from updaters import UPDATERS

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
    assert float(step(embeds, labels, tensorflow.constant(1))) == 2.0 * D
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"get_.* label in \[0, 7\)"):
        step(embeds, tensorflow.constant([1, C]), tensorflow.constant(1))
    with tensorflow.GradientTape() as tape:
        tape.watch(embeds)
        rows = tf_centers.get_embed_centers(embeds, labels, None, centers, read="before")
        loss = tf_centers.center_loss(3.0 * embeds, rows)
    gradient, none = tape.gradient(loss, [embeds, centers.ctrs])
    assert none is None
    np.testing.assert_array_equal(gradient, np.full([2, D], 6.0))  # 3 * (3 - 1)


@in_tf2
@eager_or_function
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_updaters(how, name):
    """Batches of several sizes, an empty one too, and a schedule for the rate, in one trace."""
    entry, rate = UPDATERS[name], tensorflow.Variable(0.5)
    centers, traces = eager_centers(entry.count_dtype), []

    def step(embeds, labels, mask):
        traces.append(1)
        batch = embeds, labels, entry.make(rate), centers, mask
        rows = tf_centers.get_embed_centers(*batch, read="before")
        return rows, tf_centers.lookup_embed_centers(tensorflow.range(C), centers)

    step = as_called(how, step, input_signature=ANY_SIZE)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed, (rows, value) in enumerate(((B, 0.5), (5, 0.25), (0, 0.5), (B + 3, 0.75))):
        (embeds, labels, mask), tensors = feed(seed, rows)
        before = np.where(mask[:, np.newaxis], ctrs[labels], embeds)
        rule = entry._replace(rate=entry.rate and value).rule
        ctrs, counts = reference.apply(rule, ctrs, counts, embeds, labels, mask)
        rate.assign(value)
        found = step(*tensors)
        np.testing.assert_allclose(found[0], before, atol=1e-5)
        np.testing.assert_allclose(found[1], ctrs, atol=1e-5)
        np.testing.assert_array_equal(centers.counts, counts)
    before = [variable.numpy().tobytes() for variable in centers]
    good = np.ones([2, D], np.float32), np.array([0, 1])
    for embeds, labels, value, message in (
        (good[0], np.array([0, C]), 0.5, r"every label in \[0, 7\)"),
        (np.float32([[np.nan] * D, [1.0] * D]), good[1], 0.5, "finite values"),
        *([(*good, 1.5, r"in \[0, 1[\])], found")] if entry.rate else []),
    ):
        rate.assign(value)
        with pytest.raises(tf.errors.InvalidArgumentError, match="get_embed_centers: .*" + message):
            step(*map(tensorflow.constant, (embeds, labels, [True, True])))
        assert [variable.numpy().tobytes() for variable in centers] == before
    assert len(traces) == 1 or how == "eager"


@in_tf2
@eager_or_function
@pytest.mark.parametrize("read", ["before", "after"])
def test_a_training_step(how, read):
    """What a network learns from the loss: the centers stand still under the tape."""
    centers = eager_centers()

    def step(embeds, labels):
        with tensorflow.GradientTape(persistent=True) as tape:
            tape.watch([embeds, centers.ctrs])
            rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers, read=read)
            loss = tensorflow.reduce_mean(tf_centers.center_loss(embeds, rows))
            again = tensorflow.reduce_sum(tf_centers.lookup_embed_centers(labels, centers))
            nearest = tensorflow.reduce_sum(tf_centers.nearest_centers(embeds, centers).distances)
            moved = tensorflow.reduce_sum(rows)
        for blocked in (again, nearest, moved):
            assert tape.gradient(blocked, [embeds, centers.ctrs]) == [None, None]
        assert tape.gradient(loss, centers.ctrs) is None
        return loss, tape.gradient(loss, embeds)

    step = as_called(how, step)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed in range(2):
        (embeds, labels, _), tensors = feed(seed)
        old = ctrs
        ctrs, counts = reference.apply(reference.cumulative_mean, ctrs, counts, embeds, labels)
        difference = embeds - (ctrs if read == "after" else old)[labels]
        loss, gradient = step(*tensors[:2])
        np.testing.assert_allclose(loss, 0.5 / B * np.sum(difference**2), rtol=1e-4)
        np.testing.assert_allclose(gradient, difference / B, rtol=1e-3, atol=1e-5)


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
    centers = eager_centers()

    def update(updater=None):
        tf_centers.update_embed_centers([[1.0] * D], [1], updater, centers, use_locking=True)

    class OutOfMemory(tf_centers.Updater):
        needs_counts, calls = True, 0

        def row_weights(self, rows):
            self.calls += 1
            if self.calls == 2:  # under the lock
                raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
            return 1 / rows.sizes

    with pytest.raises(tf.errors.ResourceExhaustedError) as kept:
        update(OutOfMemory())
    assert kept and finishes(update)
    assert centers.counts.numpy()[1] == 1


def _lookup(embeds, labels, centers):
    return tf_centers.lookup_embed_centers(labels, centers)


def _get(embeds, labels, centers):
    return tf_centers.get_embed_centers(embeds, labels, None, centers, is_training=False)


@in_tf2
@pytest.mark.parametrize(
    "call, dims, axes",
    [(_lookup, D, [2]), (_lookup, D, [None, None]), (_get, D, [2]), (_get, None, [None])],
)
def test_a_bad_label_shows_under_xla(call, dims, axes):
    """Which drops assertions; also behind checks of shapes at run time, which are right."""
    centers = eager_centers()
    # Every bit counts: of values that adding 0 or multiplying by 1 might change.
    centers.ctrs.assign(np.float32(np.linspace(-1e30, 1e30, C * D)).reshape(C, D))
    centers.ctrs[3].assign(np.float32([-0.0, 0.0, np.inf, 1e-38, -1.0]))
    specs = [tensorflow.TensorSpec(dims and [2, dims]), tensorflow.TensorSpec(axes, tf.int64)]

    def read(embeds, labels):
        return call(embeds, labels, centers)

    compiled = tensorflow.function(read, jit_compile=True, input_signature=specs)
    for labels in ([3, 6], [3, C], [-1, 3]):
        labels = np.array([labels] * len(axes) if len(axes) > 1 else labels)
        batch = tf.ones([2, D]), tf.constant(labels)
        found = compiled(*batch).numpy()
        if labels.max() == 6:
            assert found.tobytes() == read(*batch).numpy().tobytes()
            continue
        assert found.shape == labels.shape + (D,) and np.isnan(found).all()
        for plain in (read, tensorflow.function(read)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"every label in \[0, 7\)"):
                plain(*batch)


@in_tf2
def test_an_update_does_not_compile():
    centers = eager_centers()
    batch = tensorflow.ones([2, D]), tensorflow.constant([1, 2]), None, centers
    update = tensorflow.function(lambda: tf_centers.get_embed_centers(*batch), jit_compile=True)
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)):
        update()
    assert not centers.ctrs.numpy().any()


class Interrupting(tf_centers.Updater):
    """Ctrl-C arrives while the update is under way."""

    needs_counts = True

    def __init__(self, factor):
        self.factor = factor

    def row_weights(self, rows):
        os.kill(os.getpid(), signal.SIGINT)
        return self.factor / (rows.seen + rows.sizes)


@in_tf2
@pytest.mark.parametrize("use_locking", [False, True])
@pytest.mark.parametrize("factor, done", [(1, 1), (-1, 0)])  # Weights below 0 are refused.
def test_ctrl_c_waits_for_an_update(factor, done, use_locking):
    centers, how = eager_centers(), {"use_locking": use_locking}
    batch = np.ones([3, D], np.float32), [1, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        tf_centers.update_embed_centers(*batch, Interrupting(factor), centers, **how)
    assert centers.counts.numpy().tolist() == [0, 2 * done, done] + [0] * (C - 3)
    np.testing.assert_allclose(centers.ctrs.numpy()[1:3], done)
    # The lock is free again.
    tf_centers.update_embed_centers(*batch, MEAN, centers, **how)
    assert centers.counts.numpy()[1] == 2 * done + 2
