"""Row weights: what they may depend on, the class that defines them, and how an update asks it."""

from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

import tensorflow.compat.v1 as tf
from tensorflow import Variable

from tf_centers import arguments
from tf_centers.checks import Checks
from tf_centers.replicas import scalar
from tf_centers.typing import Rate

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Rows:
    """What the weight of a row may depend on, for R rows of a batch, sorted by class.

    All are `[R]` in the dtype of the weights: float64 for float64 centers, else float32.

    Examples:
      >>> class HalfWayToTheLastRow(Updater):
      ...     def row_weights(self, rows):
      ...         return 0.5 * tf.cast(tf.equal(rows.later, 0), rows.dtype)
    """

    def __init__(
        self, dtype: tf.DType, read_rate: Any, group: Any, sizes: Any, seen: Any = None
    ) -> None:
        """Takes the class of each row `[R]`, and the sizes and counts of the classes `[U]`."""
        self.dtype, self._read_rate = dtype, read_rate
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

    def rate(self, name: str, value: Rate, below_one: bool = False) -> tf.Tensor:
        """A parameter as a float64 scalar: a float, or a scalar float tensor or variable.

        It must be in [0, 1], or [0, 1) if `below_one`: a float while building, else at run time.
        """
        return self._read_rate(name, value, below_one)


class Updater:
    """Base class of all updaters, and of your own. A subclass defines `row_weights`.

    Attributes:
      needs_counts: whether the weights depend on `rows.seen`. If so, counts are created in a graph
        that has none.
      count_decay: None, or what every update multiplies the counts of all classes with before it
        counts its rows: a float, or a scalar float tensor or variable, in [0, 1]. With it, counts
        must be float64.

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
    count_decay: Optional[Rate] = None

    def row_weights(self, rows: Rows) -> tf.Tensor:
        """The weight w of each row.

        Args:
          rows: has `sizes` (k), `later` (k - j) and `seen` (N), each `[R]` of `rows.dtype`.
            An update that locks may call this twice.

        Returns:
          `[R]`, of `rows.dtype`, each weight at least 0.
        """
        raise NotImplementedError(f"{type(self).__name__} must define row_weights(rows)")


class Weigher:
    """The row weights of one update. Tensor parameters of its updater are read and checked once.

    Attributes:
      needs_counts: as the updater has it.
      count_decay: as the updater has it, but a float64 scalar, or None.
      batch_size: the number of rows in all shards.
    """

    def __init__(self, checks: Checks, updater: Updater, batch_size: tf.Tensor) -> None:
        self.needs_counts, self.count_decay = updater.needs_counts, None
        self.checks, self.batch_size, self._updater = checks, batch_size, updater
        self._rates: Dict[Tuple[str, bool, int], Tuple[Any, tf.Tensor]] = {}
        if updater.count_decay is not None:
            self.count_decay = self.read_rate("decay", updater.count_decay, False)

    def weigh(self, rows: Rows, check: bool) -> tf.Tensor:
        """The weight `[R]` of each row."""
        given, dtype = self._updater.row_weights(rows), rows.dtype
        if hasattr(self._updater.row_weights, "is_valid"):
            return given
        name = f"{type(self._updater).__name__}.row_weights"
        expected = f"{self.checks.caller}: {name} must return [R] weights of {dtype.name}"
        try:
            weights = tf.convert_to_tensor(given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}, got {given!r}") from error
        if weights.dtype != dtype or weights.shape.ndims not in (None, 1):
            raise ValueError(f"{expected}, got {weights.dtype.name} of shape {weights.shape}")
        if check:
            # No comparison with infinity, which a debugger would report.
            self.checks.require(
                lambda: (
                    tf.equal(tf.size(weights), tf.size(rows.sizes))
                    & tf.reduce_all((weights >= 0) & tf.is_finite(weights))
                ),
                f"{name} to return finite weights that are at least 0, found",
                weights,
            )
        return weights

    def read_rate(self, name: str, rate: Any, below_one: bool) -> tf.Tensor:
        """A parameter as `Rows.rate` returns it."""
        arguments.check_rate(self.checks.caller, name, rate, below_one)
        if not tf.is_tensor(rate) and not isinstance(rate, Variable):
            return tf.constant(rate, tf.float64)
        key = name, below_one, id(rate)
        if key not in self._rates:
            # In float64, where 1 - decay keeps its digits. Cast before the check: between a reshape
            # and a cast, TensorFlow's optimizer drops it.
            found = scalar(self.checks, name, tf.cast(rate, tf.float64))
            # A copy, since the value of a ref variable is its memory: so the value checked is the
            # value used, whoever assigns the variable meanwhile.
            found = tf.gather(tf.reshape(found, [1]), 0)
            self.checks.require(
                lambda: tf.logical_and(found >= 0, found < 1 if below_one else found <= 1),
                f"{name} in [0, 1{')' if below_one else ']'}, found",
                found,
            )
            self._rates[key] = rate, found  # A tensor that is gone would leave its id to another.
        return self._rates[key][1]


def valid(row_weights: _Method) -> _Method:
    """Marks row weights that are right by construction, and need no check at run time."""
    row_weights.is_valid = True  # type: ignore[attr-defined]
    return row_weights
