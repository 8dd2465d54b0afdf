"""Eager TF2 code and `tf.function`s, without Keras: every updater, one trace, gradients by hand.

TensorFlow 1.15 runs tf2_program.py instead.
"""

import threading

import numpy as np
import pytest
import reference
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import B, C, D, make_batch

import tf_centers

pytestmark = [
    pytest.mark.eager,
    pytest.mark.skipif(not tf.executing_eagerly(), reason="TensorFlow 1.15 starts in graph mode"),
]
RULES = [
    (tf_centers.CumulativeMean(), reference.cumulative_mean),
    (tf_centers.ExponentialWindow(), reference.exponential_window),
    (tf_centers.ExponentialWindow(debias=True), reference.debiased_window),
    (tf_centers.WenUpdate(), reference.wen_update),
]
HOW = pytest.mark.parametrize("how", ["eager", "function"])
ANY_SIZE = [
    tensorflow.TensorSpec([None, None], tensorflow.float32),
    tensorflow.TensorSpec([None], tensorflow.int64),
    tensorflow.TensorSpec([None], tensorflow.bool),
]


def make_variables():
    return tf_centers.EmbedCenters(
        tensorflow.Variable(np.zeros([C, D], np.float32)),
        tensorflow.Variable(np.zeros([C], np.int64)),
    )


def as_called(how, step, signature=None):
    return step if how == "eager" else tensorflow.function(step, input_signature=signature)


def feed(seed, rows=B):
    """A batch with its mask, as arrays and as tensors."""
    embeds, labels = make_batch(seed, rows)
    arrays = embeds.astype(np.float32), labels.astype(np.int64), np.arange(rows) % 4 != seed % 4
    return arrays, [tensorflow.constant(array) for array in arrays]


@HOW
@pytest.mark.parametrize("updater, rule", RULES, ids=lambda value: getattr(value, "__name__", ""))
def test_updaters(how, updater, rule):
    """Batches of several sizes, an empty one too, in one trace."""
    centers, traces = make_variables(), []

    def step(embeds, labels, mask):
        traces.append(1)
        rows = tf_centers.get_embed_centers(embeds, labels, updater, centers, mask, read="before")
        return rows, tf_centers.lookup_embed_centers(tensorflow.range(C), centers)

    step = as_called(how, step, ANY_SIZE)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed, rows in enumerate((B, 5, 0, B + 3)):
        (embeds, labels, mask), tensors = feed(seed, rows)
        before = np.where(mask[:, np.newaxis], ctrs[labels], embeds)
        ctrs, counts = reference.apply(rule, ctrs, counts, embeds, labels, mask)
        found = step(*tensors)
        np.testing.assert_allclose(found[0], before, atol=1e-5)
        np.testing.assert_allclose(found[1], ctrs, atol=1e-5)
        np.testing.assert_array_equal(centers.counts, counts)
    assert len(traces) == (4 if how == "eager" else 1)
    assert not np.allclose(ctrs[labels[mask]], before[mask], atol=0.1)


@HOW
@pytest.mark.parametrize("read", ["before", "after"])
def test_a_training_step(how, read):
    """What a network learns from the loss: the centers stand still under the tape."""
    kernel = np.random.RandomState(0).randn(D + 1, D)
    variable, centers = tensorflow.Variable(kernel, dtype=tensorflow.float32), make_variables()
    mean = tf_centers.CumulativeMean()

    def step(features, labels):
        with tensorflow.GradientTape(persistent=True) as tape:
            tape.watch([centers.ctrs])
            embeds = tensorflow.matmul(features, variable)
            rows = tf_centers.get_embed_centers(embeds, labels, mean, centers, read=read)
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


@HOW
@pytest.mark.parametrize(
    "make, rule",
    [
        (tf_centers.WenUpdate, reference.wen_update),
        (tf_centers.ExponentialWindow, reference.exponential_window),
    ],
)
def test_a_schedule(how, make, rule):
    """A variable for a parameter is read at every step, and checked."""
    rate, centers = tensorflow.Variable(0.5), make_variables()

    def step(embeds, labels):
        tf_centers.update_embed_centers(embeds, labels, make(rate), centers)

    step = as_called(how, step)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    for seed, value in enumerate((0.5, 0.25, 1.0)):
        (embeds, labels, _), tensors = feed(seed)
        rate.assign(value)
        step(*tensors[:2])
        ctrs, counts = reference.apply(
            lambda center, seen, rows, value=value: rule(center, seen, rows, value),
            ctrs,
            counts,
            embeds,
            labels,
        )
        np.testing.assert_allclose(centers.ctrs, ctrs, atol=1e-5)
    rate.assign(1.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"in \[0, 1\], found"):
        step(*tensors[:2])
    np.testing.assert_allclose(centers.ctrs, ctrs, atol=1e-5)


def finishes(work):
    """Whether `work` ends; in a thread of its own, since what waits for a lock waits for ever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=60)
    return not thread.is_alive()


@pytest.mark.parametrize("nested", [False, True])
def test_two_locked_calls_in_one_function(nested):
    # With a lock of its own for each, the second would hold it and wait for what the first writes.
    centers, mean = make_variables(), tf_centers.CumulativeMean()

    def update(embeds):
        return tf_centers.get_embed_centers(embeds, [1], mean, centers, use_locking=True)

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
    centers, kept = make_variables(), []

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


@pytest.mark.parametrize("call", [0, 1], ids=["lookup", "get"])
def test_a_bad_label_shows_under_xla(call):
    """XLA drops assertions."""
    centers = make_variables()
    # Every bit counts: of values that adding 0 or multiplying by 1 might change.
    centers.ctrs.assign(np.float32(np.linspace(-1e30, 1e30, C * D)).reshape(C, D))
    centers.ctrs[3].assign(np.float32([-0.0, 0.0, np.inf, 1e-38, -1.0]))
    lookup = _lookups(centers)[call]
    compiled = tensorflow.function(lookup, jit_compile=True)
    labels = tensorflow.constant([3, 6], tensorflow.int64)
    assert compiled(labels).numpy().tobytes() == lookup(labels).numpy().tobytes()
    for bad in ([3, C], [-1, 3]):
        assert np.isnan(compiled(tensorflow.constant(bad, tensorflow.int64))).all()


def test_a_function_without_xla_still_raises():
    for lookup in _lookups(make_variables()):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"every label in \[0, 7\)"):
            tensorflow.function(lookup)(tensorflow.constant([3, C], tensorflow.int64))


def test_an_update_does_not_compile():
    centers = make_variables()
    update = tensorflow.function(
        lambda: tf_centers.get_embed_centers(
            tensorflow.ones([2, D]), tensorflow.constant([1, 2]), centers=centers
        ),
        jit_compile=True,
    )
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)):
        update()
    assert not centers.ctrs.numpy().any()
