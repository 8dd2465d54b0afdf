"""A lock is taken once all is there that the updater takes, wherever it keeps it.

Or an update could hold the lock and wait for another one, which waits for the lock.
"""

import pathlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import initialized_session, make_centers

import tf_centers

PROGRAM = pathlib.Path(__file__).resolve().parent / "eager_updater_program.py"
DIMS = 3
TIME_LIMIT = tf.RunOptions(timeout_in_ms=30000)


class Kept(tf_centers.Updater):
    """Moves a class all the way by `scale`, which it takes from where `take` knows."""

    def __init__(self, take, **attributes):
        self.take = take
        vars(self).update(attributes)

    def row_weights(self, rows):
        return tf.cast(self.take(self), rows.dtype) / rows.sizes


class Slotted(tf_centers.Updater):
    """Keeps its tensor where `vars` does not see it."""

    __slots__ = ("_scale",)

    def __init__(self, scale):
        self._scale = scale

    def row_weights(self, rows):
        return self._scale / rows.sizes


def as_method(scale):
    class Closed(tf_centers.Updater):
        def row_weights(self, rows):
            return scale / rows.sizes

    return Closed()


def read_within(scale):
    variable = tf.get_variable("rate", initializer=0.25)

    def read(_):
        with tf.control_dependencies([scale]):
            return variable.read_value() + 0.0 * scale + 0.25

    return Kept(read)


UPDATERS = {
    "an attribute": lambda scale: Kept(lambda self: self.scale, scale=scale),
    "a slot": Slotted,
    "a closure": lambda scale: Kept(lambda _: scale),
    "the closure of a method": as_method,
    "a list": lambda scale: Kept(lambda self: self.all[0], all=[scale]),
    "a dict": lambda scale: Kept(lambda self: self.by["name"][0], by={"name": (scale,)}),
    "another updater": lambda scale: Kept(
        lambda self: self.other.alpha, other=tf_centers.WenUpdate(scale)
    ),
    "made in row_weights": lambda scale: Kept(lambda _: tf.abs(scale) + 0.0),
    "a variable, read in order": read_within,
}


def late(value):
    """A batch that takes long, so that the update that needs it comes last by itself."""
    slow = tf.random_uniform([400, 400])
    for _ in range(8):
        slow = tf.matmul(slow, slow) * 1e-3
    zero = 0.0 * tf.cast(tf.is_finite(tf.reduce_sum(slow)), tf.float32)
    return tf.fill([2, DIMS], value) + zero


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("place", list(UPDATERS))
def test_the_lock_waits(place, shards, use_resource):
    partitioner = tf.fixed_size_partitioner(shards) if shards > 1 else None
    with tf.variable_scope("", partitioner=partitioner):
        centers = make_centers(tf_centers, use_resource, 4, DIMS)
    how = dict(centers=centers, use_locking=True)
    half = tf_centers.ExponentialWindow(0.5, duplicates="mean")
    first = tf_centers.get_embed_centers(late(1.0), [1, 1], half, **how)
    second = tf_centers.get_embed_centers(
        tf.fill([2, DIMS], 2.5), [1, 1], UPDATERS[place](tf.reduce_mean(first)), **how
    )
    with initialized_session() as session:
        # 0 -> 0.5, which is the scale of the way from there to 2.5.
        found = session.run(second, options=TIME_LIMIT)
        np.testing.assert_allclose(found, 1.5, rtol=1e-6)
        both = session.run(tf_counts(centers))
        assert np.concatenate(both).tolist() == [0, 4, 0, 0]


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    "argument", ["embed_batch", "label_batch", "mask", "is_training", "updater"]
)
def test_the_lock_waits_for_each_argument(argument, validate, use_resource):
    centers = make_centers(tf_centers, use_resource, 4, DIMS)
    how = dict(centers=centers, use_locking=True)
    half = tf_centers.ExponentialWindow(0.5, duplicates="mean")
    first = tf.reduce_mean(tf_centers.get_embed_centers(late(1.0), [1, 1], half, **how))
    one = 2 * first
    how.update(embed_batch=tf.fill([2, DIMS], 2.5), label_batch=[1, 1], updater=half)
    how[argument] = {
        "embed_batch": one * how["embed_batch"],
        "label_batch": tf.cast([one, one], tf.int32),
        "mask": tf.equal([one, one], 1),
        "is_training": one > 0.5,
        "updater": tf_centers.ExponentialWindow(first, duplicates="mean"),
    }[argument]
    second = tf_centers.get_embed_centers(validate_args=validate, **how)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(second, options=TIME_LIMIT), 1.5, rtol=1e-6)


def tf_counts(centers):
    return list(centers.counts) if hasattr(centers.counts, "as_tensor") else [centers.counts]


class HalfLife(tf_centers.ExponentialWindow):
    """With a constructor of its own."""

    def __init__(self, rows, power=1.0, debias=False):
        super().__init__(decay=rows if tf.is_tensor(rows) else 0.5 ** (1.0 / rows), debias=debias)
        self.power = power


class Doubled(HalfLife):
    """And with weights of its own."""

    def row_weights(self, rows):
        return self.power * super().row_weights(rows)


class Damped(tf_centers.WenUpdate):
    """With another order of arguments."""

    def __init__(self, name, rate):
        super().__init__(rate)
        self.name = name


class Halved(Damped):
    def row_weights(self, rows):
        return 0.5 * super().row_weights(rows)


@pytest.mark.parametrize("locking", [False, True])
@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda rate: HalfLife(rate if tf.is_tensor(rate) else 1.0), 0.5 * 1 + 0.25 * 2),
        (lambda rate: HalfLife(rows=1.0, debias=True), (0.5 * 2 + 0.25 * 1) / 0.75),
        (lambda rate: Doubled(rate if tf.is_tensor(rate) else 1.0, 0.5), None),
        (lambda rate: Damped("wen", rate), 0.5 / 3 * 3),
        (lambda rate: Halved("half", rate), 0.25 / 3 * 3),
    ],
    ids=["HalfLife", "debiased", "Doubled", "Damped", "Halved"],
)
def test_subclasses_with_constructors_of_their_own(make, expected, tensor, locking, use_resource):
    centers = make_centers(tf_centers, use_resource, 4, 1)
    rate = tf.placeholder_with_default(0.5, []) if tensor else 0.5
    rows = tf_centers.get_embed_centers(
        [[1.0], [2.0]], [3, 3], make(rate), centers, use_locking=locking
    )
    with initialized_session() as session:
        found = session.run(rows)
    if expected is None:
        expected = 0.5 * (0.25 * 1 + 0.5 * 2)
    elif expected == 1.0:
        expected = 0.25 * 1 + 0.5 * 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("make", [HalfLife, lambda rate: Damped("wen", rate)])
def test_the_rate_of_a_subclass_is_checked(make, use_resource):
    centers = make_centers(tf_centers, use_resource, 4, 1)
    rate = tf.placeholder(tf.float32, [])
    rows = tf_centers.get_embed_centers([[1.0]], [3], make(rate), centers)
    with initialized_session() as session:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"get_embed_centers: .*\[0, 1\]"):
            session.run(rows, {rate: 1.5})
        assert not session.run(centers.ctrs).any() and not session.run(centers.counts).any()


def test_an_eager_tensor_in_a_locked_function(start):
    """Also on TensorFlow 1.15, told to behave as 2."""
    assert "all well" in start(PROGRAM).end()
