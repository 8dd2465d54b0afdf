"""The updaters: what weight each row of a batch moves its center with. Pure: no state, no writes.

All of them move the centers by one recipe, `ctrs[label] -= w * (ctrs[label] - embed)` for every
row, and differ in the row weights `w` alone: a function of the k rows that its class has in the
batch, of those among them that come later, and of the N rows before. What the rows of a class
weigh together has a closed form, which spares adding them up. Weights are computed in float64,
since `1 - decay` and `N + k` lose their last digits in float32.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import Variable

from tf_centers import arguments
from tf_centers.checks import Checks

_WEIGHT_DTYPE = tf.float64
# In the place of a decay of 0: its first power is already lost beside 1.
_TINY = 1e-300


class Classes(NamedTuple):
    """What the weights of rows may depend on, for U classes.

    Attributes:
      sizes: int32 or float64 `[U]`, the rows k that each class has in the batch, at least 1.
      seen: int64 `[U]`, the rows N that it had before, or None where no counts are kept (never so
        for an updater that `needs_counts`).
    """

    sizes: tf.Tensor
    seen: Optional[tf.Tensor]


class Updater:
    """What the updaters have in common; `get_embed_centers` takes any of them."""

    needs_counts = False
    # Whether the rows of a class weigh differently, by the order in which they come.
    orders_rows = False

    def class_weights(self, classes: Classes) -> tf.Tensor:
        """What the rows of each class weigh together, float64 `[U]`."""
        raise NotImplementedError

    def weigh(
        self, classes: Classes, index: tf.Tensor, later: Optional[tf.Tensor]
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        """Weighs R rows; all rows of a class weigh the same, unless an updater `orders_rows`.

        Args:
          classes: those of the rows, and maybe more.
          index: int `[R]`, the place of each row's class among them.
          later: int32 or float64 `[R]`, the rows of the class that come after the row: `k - j` for
            the j-th. None for an updater that does not set `orders_rows`.

        Returns:
          What the rows of each class weigh together, float64 `[U]`, and what each row weighs,
          float64 `[R]`.
        """
        del later
        together = self.class_weights(classes)
        return together, tf.gather(together / tf.cast(classes.sizes, _WEIGHT_DTYPE), index)

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

    def class_weights(self, classes: Classes) -> tf.Tensor:
        return tf.cast(classes.sizes, _WEIGHT_DTYPE) / _rows_so_far(classes)


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

    def class_weights(self, classes: Classes) -> tf.Tensor:
        sizes = tf.cast(classes.sizes, _WEIGHT_DTYPE)
        if self.duplicates == "sum":
            return (1.0 - _as_weight(self.decay)) * sizes
        weights = -tf.math.expm1(self._rate() * sizes)
        return weights / self._known_share(classes) if self.debias else weights

    def weigh(
        self, classes: Classes, index: tf.Tensor, later: Optional[tf.Tensor]
    ) -> Tuple[tf.Tensor, tf.Tensor]:
        if not self.orders_rows:
            return super().weigh(classes, index, None)
        powers = tf.exp(self._rate() * tf.cast(later, _WEIGHT_DTYPE))
        weights = (1.0 - _as_weight(self.decay)) * powers
        if self.debias:
            weights /= tf.gather(self._known_share(classes), index)
        return self.class_weights(classes), weights

    def _rate(self) -> tf.Tensor:
        # Powers as exponentials, which are several times faster; 0 to the power of 0 stays 1.
        if tf.is_tensor(self.decay):
            return tf.log(tf.maximum(self.decay, _TINY))
        return _as_weight(math.log(max(float(self.decay), _TINY)))

    def _known_share(self, classes: Classes) -> tf.Tensor:
        """What is left of each center without the share of its initial value: `1 - d^(N + k)`."""
        return -tf.math.expm1(self._rate() * _rows_so_far(classes))

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

    def __post_init__(self) -> None:
        arguments.check_rate("WenUpdate", "alpha", self.alpha)

    def class_weights(self, classes: Classes) -> tf.Tensor:
        sizes = tf.cast(classes.sizes, _WEIGHT_DTYPE)
        return _as_weight(self.alpha) * sizes / (1.0 + sizes)

    def prepare(self, checks: Checks) -> Updater:
        return dataclasses.replace(self, alpha=_read_rate(checks, "alpha", self.alpha))


def _rows_so_far(classes: Classes) -> tf.Tensor:
    return tf.cast(classes.seen, _WEIGHT_DTYPE) + tf.cast(classes.sizes, _WEIGHT_DTYPE)


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
