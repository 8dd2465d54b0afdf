"""The updaters: the weight of each row of a batch. They hold no state and write nothing.

Every updater follows one recipe, `ctrs[label] -= w * (ctrs[label] - embed)`; only the row weights
`w` differ. The recipe is in `update.py`.
"""

import numbers
from dataclasses import dataclass
from typing import Any

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.row_weights import Rows, Updater, valid
from tf_centers.typing import Duplicates, Rate

# Stands in for a decay of 0, whose logarithm is infinite: its first power already rounds to 0.
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class CumulativeMean(Updater):
    """The exact mean of all rows of a class so far.

    `w = 1 / (N + k)` for the k rows of a class in a batch, after N earlier ones. Needs counts. With
    more than 10,000 rows of one class in one batch, a float32 table loses digits (2e-4 of the mean
    at 100,000 rows); use a float64 table then.

    Examples:
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> update = update_embed_centers([[1.0], [4.0]], [2, 2], CumulativeMean(), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(update)
      >>> sess.run(centers.ctrs)[:, 0]
      array([0. , 0. , 2.5], dtype=float32)
    """

    needs_counts = True

    @valid
    def row_weights(self, rows: Rows) -> tf.Tensor:
        return _divide(1.0, rows.seen + rows.sizes)


@dataclass(frozen=True, eq=False)
class FadingMean(Updater):
    """The mean of all rows of a class, in which those of earlier updates count less and less.

    `w = 1 / (d N + k)`: with every update that has a row of any class, the counts of all classes
    fade by d, then the rows of the batch count 1 each, `N <- d N + k`. The average of VQ-VAE
    codebooks, `N <- d N + k`, `m <- d m + sum(x)`, `c = m / N` (van den Oord et al., "Neural
    Discrete Representation Learning", NeurIPS 2017, appendix A.1), for any initial counts.

    Needs float64 counts: `create_embed_centers(count_dtype=tf.float64)`, or made on demand. An
    update takes time for every class, as no other updater's does, which shows from 100,000 on.

    Args:
      decay: d, a Python float or a scalar float tensor or variable, in [0, 1].

    Raises:
      ValueError: a decay that is out of range or not a float or scalar.

    Examples:
      >>> centers = create_embed_centers(num_classes=2, num_dims=1, count_dtype=tf.float64)
      >>> update = update_embed_centers([[3.0]], [1], FadingMean(0.5), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> for _ in range(2): sess.run(update)
      >>> sess.run(centers.counts)
      array([0. , 1.5])
    """

    decay: Rate = 0.99
    needs_counts = True

    def __post_init__(self) -> None:
        arguments.check_rate("FadingMean", "decay", self.decay)

    @property
    def count_decay(self) -> Rate:  # type: ignore[override]
        return self.decay

    @valid
    def row_weights(self, rows: Rows) -> tf.Tensor:
        decay = tf.cast(rows.rate("decay", self.decay), rows.dtype)
        return _divide(1.0, decay * rows.seen + rows.sizes)


@dataclass(frozen=True, eq=False)
class ExponentialWindow(Updater):
    """An exponentially weighted mean: each row counts `decay` times as much as the next one.

    `w = (1 - d) d^(k - j)` for the j-th of the k rows of a class in a batch. The result is exactly
    that of `c <- d c + (1 - d) x` for one row at a time.

    Args:
      decay: d, a Python float or a scalar float tensor or variable (a schedule), in [0, 1]; with
        `debias` in [0, 1).
      debias: divides by `1 - d^(N + k)` after N earlier rows of the class, so that the initial
        value has no weight (Kingma and Ba, "Adam", ICLR 2015, section 3). Needs counts, a constant
        decay and "sequential".
      duplicates: how the k rows of one class in a batch are combined. "sequential": as above.
        "mean": `w = (1 - d) / k`, the class moves `1 - d` of the way to the mean of its rows, as in
        much center-loss code. "sum": `w = 1 - d` for every row, as in the usual recipe; it
        overshoots on repeated labels, diverges where `k (1 - d) > 2`, and is only for reproducing
        an old run.

    Raises:
      ValueError: a decay out of range or not a float or scalar, an unknown `duplicates`, or
        `debias` that is not bool or without "sequential".

    Examples:
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> rows = get_embed_centers([[4.0], [8.0]], [2, 2], ExponentialWindow(0.5), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)[:, 0]
      array([5., 5.], dtype=float32)
    """

    decay: Rate = 0.95
    debias: bool = False
    duplicates: Duplicates = "sequential"

    def __post_init__(self) -> None:
        caller = "ExponentialWindow"
        arguments.check_choice(caller, "duplicates", self.duplicates, ("sequential", "mean", "sum"))
        arguments.check_choice(caller, "debias", self.debias, (True, False))
        if self.debias and self.duplicates != "sequential":
            raise ValueError(
                f"{caller}: debias=True needs duplicates='sequential', got {self.duplicates!r}"
            )
        arguments.check_rate(caller, "decay", self.decay, below_one=self.debias)

    @property
    def needs_counts(self) -> bool:  # type: ignore[override]
        return self.debias

    @valid
    def row_weights(self, rows: Rows) -> tf.Tensor:
        dtype = rows.dtype
        decay = rows.rate("decay", self.decay, below_one=self.debias)
        step = tf.cast(1.0 - decay, dtype)
        if self.duplicates == "sum":
            return step * tf.ones_like(rows.sizes)
        if self.duplicates == "mean":
            return _divide(step, rows.sizes)
        # Powers by exp, which is several times faster than pow.
        log_decay = tf.cast(tf.log(tf.maximum(decay, _TINY)), dtype)
        weights = step * tf.exp(log_decay * rows.later)
        if self.debias:
            weights /= -tf.math.expm1(log_decay * (rows.seen + rows.sizes))
        return weights


@dataclass(frozen=True, eq=False)
class WenUpdate(Updater):
    """The rule of the paper: a class moves by `alpha` times the damped mean of its differences.

    `w = alpha / (1 + k)`, eq. (4) of Wen et al., "A Discriminative Feature Learning Approach for
    Deep Face Recognition", ECCV 2016.

    Args:
      alpha: a Python float or a scalar float tensor or variable, in [0, 1].

    Raises:
      ValueError: an alpha that is out of range or not a float or scalar.

    Examples:
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> rows = get_embed_centers([[3.0], [6.0]], [2, 2], WenUpdate(0.5), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)[:, 0]
      array([1.5, 1.5], dtype=float32)
    """

    alpha: Rate = 0.5

    def __post_init__(self) -> None:
        arguments.check_rate("WenUpdate", "alpha", self.alpha)

    @valid
    def row_weights(self, rows: Rows) -> tf.Tensor:
        return _divide(rows.rate("alpha", self.alpha), 1.0 + rows.sizes)


BUILT_IN = (CumulativeMean, FadingMean, ExponentialWindow, WenUpdate)


def as_updater(caller: str, updater: Any) -> Updater:
    """Returns the updater, or the default one for None."""
    if updater is None:
        return ExponentialWindow()
    if not isinstance(updater, Updater):
        known = ", ".join(built_in.__name__ for built_in in BUILT_IN)
        is_rate = isinstance(updater, numbers.Real)
        hint = f"; for that decay, pass ExponentialWindow({updater:g})" if is_rate else ""
        raise TypeError(
            f"{caller}: updater must be an instance of {known} or another Updater, got {updater!r}"
            f"{hint}"
        )
    return updater


def _divide(numerator: Any, denominator: tf.Tensor) -> tf.Tensor:
    # Not 1.0 / x, which TensorFlow's optimizer replaces by a reciprocal with other last bits, so
    # that a graph and eager code would differ.
    return tf.math.divide_no_nan(tf.cast(numerator, denominator.dtype), denominator)
