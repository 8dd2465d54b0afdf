"""The updaters: what weight each row of a batch moves its center with. Pure: no state, no writes.

All of them move the centers by one recipe, `ctrs[label] -= w * (ctrs[label] - embed)` for every
row, and differ in the row weights `w` alone: a function of the k rows that its class has in the
batch, of those among them that come later, and of the N rows before. Weights are computed in
float64, since `1 - decay` and `N + k` lose their last digits in float32.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import tensorflow.compat.v1 as tf
from tensorflow import Variable

from tf_centers import arguments
from tf_centers.checks import Checks

_WEIGHT_DTYPE = tf.float64
# In the place of a decay of 0: its first power is already lost beside 1.
_TINY = 1e-300


class Rows(NamedTuple):
    """What the weight of a row may depend on, for R rows.

    Attributes:
      sizes: int32 or float64 `[R]`, the rows k that the class of the row has in the batch.
      later: the same `[R]`, those among them that come after the row: `k - j` for the j-th. Not
        to be looked at by an updater that does not set `orders_rows`.
      seen: int64 `[R]`, the rows N that the class had before, or None where no counts are kept
        (never so for an updater that `needs_counts`).
    """

    sizes: tf.Tensor
    later: tf.Tensor
    seen: Optional[tf.Tensor]


class Updater:
    """What the updaters have in common; `get_embed_centers` takes any of them."""

    needs_counts = False
    # Whether the rows of a class weigh differently, by the order in which they come.
    orders_rows = True

    def row_weights(self, rows: Rows) -> tf.Tensor:
        """The weights of R rows, float64 `[R]`, each from what `rows` says of that row alone."""
        raise NotImplementedError

    def prepare(self, checks: Checks) -> "Updater":
        """The updater with its tensor parameters read once, here, and their checks added."""
        del checks
        return self


@dataclass(frozen=True, eq=False)
class CumulativeMean(Updater):
    """The exact mean of every row a class has ever had.

    `w = 1 / (N + k)` for the k rows of a class in a batch, after N earlier ones. Needs counts.

    Example:
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> update = update_embed_centers([[1.0], [4.0]], [2, 2], CumulativeMean(), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(update)
      >>> sess.run(centers.ctrs)[:, 0]
      array([0. , 0. , 2.5], dtype=float32)
    """

    needs_counts = True
    orders_rows = False

    def row_weights(self, rows: Rows) -> tf.Tensor:
        return 1.0 / _total(rows)


@dataclass(frozen=True, eq=False)
class ExponentialWindow(Updater):
    """An exponentially weighted mean: each row counts `decay` times as much as the next one.

    `w = (1 - d) d^(k - j)` for the j-th of the k rows of a class in a batch, which is what
    feeding the rows one at a time to `c <- d c + (1 - d) x` comes to.

    Args:
      decay: d, a Python float or a scalar float tensor or variable (a schedule), in [0, 1]; with
        `debias` in [0, 1).
      debias: divides by `1 - d^(N + k)` after N earlier rows of the class, so that the initial
        value has no weight (Kingma and Ba, "Adam", ICLR 2015, section 3). Needs counts. Assumes
        a decay that stays the same.
      duplicates: "sequential" as above, or "sum": `w = 1 - d` for every row, the recipe as it
        circulates. It overshoots on repeated labels and diverges where `k (1 - d) > 2`; it is
        there for parity with an old run only.

    Raises:
      ValueError: a decay out of its range or of another kind, an unknown `duplicates`, or
        `debias` together with "sum".

    Example:
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
        if self.duplicates not in ("sequential", "sum"):
            raise ValueError(
                f"{caller}: duplicates must be 'sequential' or 'sum', got {self.duplicates!r}"
            )
        try:
            arguments.check_bool(caller, "debias", self.debias)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if self.debias and self.duplicates == "sum":
            raise ValueError(f"{caller}: debias=True cannot go with duplicates='sum'")
        arguments.check_rate(caller, "decay", self.decay, below_one=self.debias)

    @property
    def needs_counts(self) -> bool:  # type: ignore[override]
        return self.debias

    @property
    def orders_rows(self) -> bool:  # type: ignore[override]
        return self.duplicates == "sequential"

    def row_weights(self, rows: Rows) -> tf.Tensor:
        decay = _as_weight(self.decay)
        if self.duplicates == "sum":
            return tf.fill(tf.shape(rows.sizes), 1.0 - decay)
        # Powers as exponentials, which are several times faster; 0 to the power of 0 stays 1.
        rate = tf.log(tf.maximum(decay, _TINY))
        weights = (1.0 - decay) * tf.exp(rate * tf.cast(rows.later, _WEIGHT_DTYPE))
        if self.debias:
            weights /= -tf.math.expm1(rate * _total(rows))
        return weights

    def prepare(self, checks: Checks) -> Updater:
        decay = _read_rate(checks, "decay", self.decay, below_one=self.debias)
        return dataclasses.replace(self, decay=decay)


@dataclass(frozen=True, eq=False)
class WenUpdate(Updater):
    """The paper's own rule: a class moves by `alpha` times the mean of its differences, damped.

    `w = alpha / (1 + k)`, eq. (4) of Wen et al., "A Discriminative Feature Learning Approach for
    Deep Face Recognition", ECCV 2016.

    Args:
      alpha: a Python float or a scalar float tensor or variable, in [0, 1].

    Raises:
      ValueError: an alpha out of its range or of another kind.

    Example:
      >>> centers = create_embed_centers(num_classes=3, num_dims=1)
      >>> rows = get_embed_centers([[3.0], [6.0]], [2, 2], WenUpdate(0.5), centers)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(rows)[:, 0]
      array([1.5, 1.5], dtype=float32)
    """

    alpha: Any = 0.5
    orders_rows = False

    def __post_init__(self) -> None:
        arguments.check_rate("WenUpdate", "alpha", self.alpha)

    def row_weights(self, rows: Rows) -> tf.Tensor:
        return _as_weight(self.alpha) / (1.0 + tf.cast(rows.sizes, _WEIGHT_DTYPE))

    def prepare(self, checks: Checks) -> Updater:
        return dataclasses.replace(self, alpha=_read_rate(checks, "alpha", self.alpha))


def _total(rows: Rows) -> tf.Tensor:
    return tf.cast(rows.seen, _WEIGHT_DTYPE) + tf.cast(rows.sizes, _WEIGHT_DTYPE)


def _read_rate(checks: Checks, name: str, rate: Any, below_one: bool = False) -> Any:
    if not tf.is_tensor(rate) and not isinstance(rate, Variable):
        return rate
    # A copy: what is checked is what is used, whoever assigns a variable meanwhile.
    rate = tf.identity(tf.cast(rate, _WEIGHT_DTYPE))
    checks.require(
        lambda: tf.logical_and(rate >= 0, rate < 1 if below_one else rate <= 1),
        f"{name} in [0, 1{')' if below_one else ']'}, found",
        rate,
    )
    return rate


def _as_weight(rate: Any) -> tf.Tensor:
    # tf.cast would round a Python float to float32 on its way to float64.
    return rate if tf.is_tensor(rate) else tf.constant(float(rate), _WEIGHT_DTYPE)
