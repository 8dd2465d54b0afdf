"""The updaters: the weight of each row of a batch. They hold no state and write nothing.

Every updater follows one recipe, `ctrs[label] -= w * (ctrs[label] - embed)`; only the row weights
`w` differ. The recipe is in `update.py`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Optional

import tensorflow.compat.v1 as tf
from tensorflow import Variable

from tf_centers import arguments
from tf_centers.checks import Checks, scalar

# Stands in for a decay of 0, whose logarithm is infinite: its first power already rounds to 0.
_TINY = 1e-300


class Rows:
    """What the weight of a row may depend on, for R rows of a batch, sorted by class.

    All are `[R]` in the dtype of the weights: float64 for float64 centers, else float32.
    """

    def __init__(
        self, dtype: tf.DType, group: tf.Tensor, sizes: tf.Tensor, seen: Optional[tf.Tensor] = None
    ) -> None:
        """Takes the class of each row `[R]`, and the sizes and counts of the classes `[U]`."""
        self.dtype = dtype
        self._group, self._sizes, self._seen = group, sizes, seen

    @property
    def sizes(self) -> tf.Tensor:
        """k, the rows that the class of the row has in this batch, at least 1."""
        return tf.cast(tf.gather(self._sizes, self._group), self.dtype)

    @property
    def later(self) -> tf.Tensor:
        """k - j for the j-th of them in batch order: how many come after it."""
        ends = tf.gather(tf.cumsum(self._sizes), self._group)
        return tf.cast(ends - tf.range(1, tf.size(self._group) + 1), self.dtype)

    @property
    def seen(self) -> tf.Tensor:
        """N, the rows that the class had before this batch, where an updater `needs_counts`."""
        if self._seen is None:
            raise ValueError("Rows.seen: expected an updater with needs_counts = True")
        return tf.cast(tf.gather(self._seen, self._group), self.dtype)


class Updater:
    """Base class of all updaters, and of your own. A subclass defines `row_weights`.

    Attributes:
      needs_counts: whether the weights depend on `rows.seen`. If so, counts are created in a graph
        that has none.

    Examples:
      >>> class MoveTenthOfTheWayToTheMean(Updater):
      ...     def row_weights(self, rows):
      ...         return 0.1 / rows.sizes
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> updater = MoveTenthOfTheWayToTheMean()
      >>> rows = get_embed_centers([[40.0], [60.0]], [2, 2], updater, centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)[:, 0]
      array([5., 5.], dtype=float32)
    """

    needs_counts = False

    def row_weights(self, rows: Rows) -> tf.Tensor:
        """The weight w of each row.

        Args:
          rows: has `sizes` (k), `later` (k - j) and `seen` (N), each `[R]` of `rows.dtype`.

        Returns:
          `[R]`, of `rows.dtype`, each weight at least 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define row_weights(rows)")

    def _prepare(self, checks: Checks) -> "Updater":
        """The updater with its tensor parameters read once and their run-time checks added."""
        del checks
        return self


@dataclass(frozen=True, eq=False)
class CumulativeMean(Updater):
    """The exact mean of all rows of a class so far.

    `w = 1 / (N + k)` for the k rows of a class in a batch, after N earlier ones. Needs counts.

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

    def row_weights(self, rows: Rows) -> tf.Tensor:
        return 1.0 / (rows.seen + rows.sizes)


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
      ValueError: a decay that is out of range or not a float or scalar, an unknown `duplicates`, or
        `debias` without "sequential".

    Examples:
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> rows = get_embed_centers([[4.0], [8.0]], [2, 2], ExponentialWindow(0.5), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)[:, 0]
      array([5., 5.], dtype=float32)
    """

    decay: Any = 0.95
    debias: bool = False
    duplicates: str = "sequential"

    def __post_init__(self) -> None:
        caller = "ExponentialWindow"
        arguments.check_choice(caller, "duplicates", self.duplicates, ("sequential", "mean", "sum"))
        try:
            arguments.check_bool(caller, "debias", self.debias)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if self.debias and self.duplicates != "sequential":
            raise ValueError(
                f"{caller}: debias=True needs duplicates='sequential', got {self.duplicates!r}"
            )
        arguments.check_rate(caller, "decay", self.decay, below_one=self.debias)

    @property
    def needs_counts(self) -> bool:  # type: ignore[override]
        return self.debias

    def row_weights(self, rows: Rows) -> tf.Tensor:
        dtype = rows.dtype
        step = _cast(1.0 - self.decay, dtype)
        if self.duplicates == "sum":
            return step * tf.ones_like(rows.sizes)
        if self.duplicates == "mean":
            return step / rows.sizes
        # Powers by exp, which is several times faster than pow.
        log_decay = _cast(_log(self.decay), dtype)
        weights = step * tf.exp(log_decay * rows.later)
        if self.debias:
            weights /= -tf.math.expm1(log_decay * (rows.seen + rows.sizes))
        return weights

    def _prepare(self, checks: Checks) -> Updater:
        decay = _read_rate(checks, "decay", self.decay, below_one=self.debias)
        return dataclasses.replace(self, decay=decay)


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

    alpha: Any = 0.5

    def __post_init__(self) -> None:
        arguments.check_rate("WenUpdate", "alpha", self.alpha)

    def row_weights(self, rows: Rows) -> tf.Tensor:
        return _cast(self.alpha, rows.dtype) / (1.0 + rows.sizes)

    def _prepare(self, checks: Checks) -> Updater:
        return dataclasses.replace(self, alpha=_read_rate(checks, "alpha", self.alpha))


def as_updater(caller: str, updater: Any) -> Updater:
    """Returns the updater, or the default one for None."""
    if updater is None:
        return ExponentialWindow()
    if not isinstance(updater, Updater):
        raise TypeError(
            f"{caller}: updater must be an instance of CumulativeMean, ExponentialWindow, "
            f"WenUpdate or another Updater, got {updater!r}"
        )
    return updater


def weigh(checks: Checks, updater: Updater, rows: Rows) -> tf.Tensor:
    """The row weights `[R]` of an updater, checked if the caller wrote the updater."""
    given = updater.row_weights(rows)
    if updater.row_weights.__module__ == __name__:
        return given
    name = f"{type(updater).__name__}.row_weights"
    expected = f"{checks.caller}: {name} must return [R] weights of {rows.dtype.name}"
    try:
        weights = tf.convert_to_tensor(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, got {given!r}") from error
    if weights.dtype != rows.dtype or weights.shape.ndims not in (None, 1):
        raise ValueError(f"{expected}, got {weights.dtype.name} of shape {weights.shape}")
    checks.require(
        # No comparison with infinity, which a debugger would report.
        lambda: tf.reduce_all(tf.logical_and(weights >= 0, tf.is_finite(weights))),
        f"{name} to return finite weights that are at least 0, found",
        weights,
    )
    return weights


def _read_rate(checks: Checks, name: str, rate: Any, below_one: bool = False) -> Any:
    if not tf.is_tensor(rate) and not isinstance(rate, Variable):
        return float(rate)
    # A copy, so that the value checked is the value used, whoever assigns a variable meanwhile.
    # In float64, where 1 - decay keeps its digits.
    rate = scalar(checks, name, tf.identity(tf.cast(rate, tf.float64)))
    checks.require(
        lambda: tf.logical_and(rate >= 0, rate < 1 if below_one else rate <= 1),
        f"{name} in [0, 1{')' if below_one else ']'}, found",
        rate,
    )
    return rate


def _log(decay: Any) -> Any:
    if tf.is_tensor(decay):
        return tf.log(tf.maximum(decay, _TINY))
    return math.log(max(decay, _TINY))


def _cast(rate: Any, dtype: tf.DType) -> tf.Tensor:
    # tf.cast would round a Python float to float32 on its way to float64.
    return tf.cast(rate, dtype) if tf.is_tensor(rate) else tf.constant(rate, dtype)
