"""Tensors as callers pass them: their conversion, and the checks of their shapes and values.

What is known while building is checked there. The rest becomes an `Assert` or a `CheckNumerics` op.
`tf.raw_ops.Assert` rather than `tf.Assert`, which builds a `tf.cond` around it, and rather than
`tf.debugging`, which raises while the graph is built where its inputs happen to be constant.
"""

import functools
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from tf_centers.access import on_host

ONE_HOT = "; for one-hot labels, pass tf.argmax(label_batch, axis=1)"


class Checks:
    """The checks of one call. Its reads and writes have to wait for all of them."""

    # What a caller whose updates may overwrite each other can do.
    lock_advice = "pass use_locking=True to each of them"

    def __init__(self, caller: str, validate: bool = True) -> None:
        """Takes the name for messages, and whether to check at run time."""
        self.caller, self.validate = caller, validate
        self.ops: List[Any] = []
        self._conditions: List[tf.Tensor] = []

    def require(self, condition: Callable[[], tf.Tensor], expected: str, *found: Any) -> None:
        """Adds a check at run time, whose message ends with the values of `found`.

        `condition` builds the scalar bool that must hold. None of its ops may fail, whatever the
        other checks find.
        """
        if self.validate:
            holds, data = condition(), [f"{self.caller}: expected {expected}", *found]
            self._conditions.append(holds)
            with on_host():  # for the texts
                self.ops.append(tf.raw_ops.Assert(condition=holds, data=data, summarize=8))

    def require_finite(self, embeds: tf.Tensor) -> None:
        """Adds a check that embeddings `[B, D]` hold neither NaN nor Inf."""
        # A NaN or an Inf survives a product with a positive vector, and a tiny vector keeps finite
        # values from overflowing. So one pass over [B, D] leaves only [B] to check.
        if self.validate:
            dtype = tf.float64 if embeds.dtype == tf.float64 else tf.float32
            tiny = tf.constant(1e-30, dtype, [embeds.shape.as_list()[1], 1])
            message = (
                f"{self.caller}: expected finite values of {embeds.dtype.name} in every unmasked "
                "row of embed_batch, found one that is not"
            )
            sums = tf.matmul(tf.cast(embeds, dtype), tiny)
            self.ops.append(tf.debugging.check_numerics(sums, message))

    def guard(self, tensor: tf.Tensor, shape: Any = None) -> tf.Tensor:
        """The tensor after all checks so far have passed, with its shape set as far as known."""
        shape = tf.TensorShape(shape)
        if not self.validate:
            # TensorFlow's own check, so that no row is cut anew.
            merged = tensor.shape.merge_with(shape)
            same = merged.ndims == tensor.shape.ndims and merged.as_list() == tensor.shape.as_list()
            return tensor if merged.ndims is None or same else tf.ensure_shape(tensor, merged)
        with tf.control_dependencies(self.ops):
            known = shape.ndims is not None and shape[1:].is_fully_defined()
            if tensor.shape.ndims is None and known:
                # TensorFlow's optimizer would drop an identity here, along with the checks. From
                # tf.ensure_shape it would conclude that they pass.
                tensor = tf.reshape(tensor, [-1] * min(shape.ndims, 1) + shape.as_list()[1:])
            else:
                tensor = tf.identity(tensor)
        if not tf.executing_eagerly():
            tensor.set_shape(shape)
        return tensor

    def nan_unless_passed(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows, or NaN if a check fails in a function, where XLA drops the Assert."""
        if not self._conditions or not tf.get_default_graph().building_function:
            return rows
        passed = functools.reduce(tf.logical_and, self._conditions)
        # Computed, since a debugger would report a NaN constant.
        one_or_nan = tf.cast(tf.sqrt(tf.where(passed, 1.0, -1.0)), rows.dtype)
        # Not a product with it, in which XLA flushes denormals to zero even of rows that passed.
        return tf.where_v2(passed, rows, one_or_nan)


class Shaped(NamedTuple):
    """A tensor and the shape that it must have.

    `axes` has a letter for each axis, such as "BD"; one letter is one size in all tensors. Where
    `column` is True, a last axis of size 1 may follow; `wide` is what to tell who has a wider one.
    """

    name: str
    value: Any
    axes: str
    column: bool = False
    wide: str = ONE_HOT


def known_sizes(caller: str, tensors: List[Shaped], given: Dict[str, int]) -> Dict[str, int]:
    """Checks static shapes against each other; returns the sizes that are known, by letters."""
    sizes = dict(given)
    for name, value, axes, column, wide in tensors:
        if value.shape.ndims is None:
            continue
        found = value.shape.as_list()
        rest = found[len(axes) :]
        fits = len(found) >= len(axes) and (not rest or (column and rest in ([1], [None])))
        if not fits or any(s not in (None, sizes.get(a, s)) for a, s in zip(axes, found)):
            raise ValueError(
                f"{caller}: {name} must have shape {_form(axes, column, given)}"
                f"{_where(axes, sizes, given)}, got {value.shape}"
                f"{wide if column and len(rest) == 1 and rest != [1] else ''}"
            )
        sizes.update({axis: size for axis, size in zip(axes, found) if size is not None})
    return sizes


def check_shapes(
    checks: Checks,
    tensors: List[Shaped],
    given: Optional[Dict[str, int]] = None,
    agree: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
) -> List[tf.Tensor]:
    """Checks tensors against each other: while building as far as possible, else at run time.

    Args:
      given: the sizes that are known beforehand, by their letters.
      agree: turns a condition into those on all replicas, `[replicas]`; None if there is only one.
        With it the check at run time is always made: static shapes may differ among replicas, and
        if one did not check, the others would wait for it.

    Returns:
      The tensors after the check, without the extra column, and with what is known of their shapes.
    """
    given = given or {}
    sizes = known_sizes(checks.caller, tensors, given)
    unknown = not all(tensor.value.shape.is_fully_defined() for tensor in tensors)
    if checks.validate and (unknown or agree is not None):
        holds = _fit(tensors, sizes)
        found_shapes: List[Any] = [tf.shape(tensor.value) for tensor in tensors]
        if agree is not None:
            passed = agree(holds)
            found_shapes += ["on this replica; per replica:", passed]
            holds = tf.reduce_all(passed)
        forms = [f"{t.name} of shape {_form(t.axes, t.column, given)}" for t in tensors]
        letters = "".join(tensor.axes for tensor in tensors)
        expected = f"{' and '.join(forms)}{_where(letters, sizes, given)}, found shapes"
        checks.require(lambda: holds, expected, *found_shapes)
    results = []
    for _, value, axes, column, _ in tensors:
        if column and value.shape.ndims != len(axes):
            with tf.control_dependencies(checks.ops):
                value = tf.reshape(value, [-1])
        results.append(checks.guard(value, [sizes.get(axis) for axis in axes]))
    return results


def _fit(tensors: List[Shaped], sizes: Dict[str, int]) -> tf.Tensor:
    """Whether the shapes are right at run time; no op fails, whatever they are."""
    conditions = []
    sizes = dict(sizes)
    for _, value, axes, column, _ in tensors:
        shape, ndims = tf.shape(value), value.shape.ndims
        known = [None] * len(axes) if ndims is None else value.shape.as_list()
        if ndims is None:
            rank = tf.size(shape)
            fits = tf.equal(rank, len(axes))
            if column:
                fits = tf.logical_or(fits, tf.equal(rank, len(axes) + 1))
            conditions.append(fits)
        if column and None in known[len(axes) :] + [ndims]:
            conditions.append(tf.equal(tf.reduce_prod(shape[len(axes) :]), 1))
        for place, axis in enumerate(axes):
            size = known[place]
            if size is None:
                # An axis that is not there has a product of 1.
                size = shape[place] if ndims else tf.reduce_prod(shape[place : place + 1])
                if axis in sizes:
                    conditions.append(tf.equal(size, sizes[axis]))
            sizes.setdefault(axis, size)
    return functools.reduce(tf.logical_and, conditions or [tf.constant(True)])


def _form(axes: str, column: bool, given: Dict[str, int]) -> str:
    form = ", ".join(str(given.get(axis, axis)) for axis in axes)
    return f"[{form}] or [{form}, 1]" if column else f"[{form}]"


def _where(axes: str, sizes: Dict[str, int], given: Dict[str, int]) -> str:
    known = [f"{a} = {sizes[a]}" for a in sorted(set(axes)) if a in sizes and a not in given]
    return f" with {' and '.join(known)}" if known else ""


def as_floats(caller: str, name: str, value: Any) -> tf.Tensor:
    """Converts `value` to a tensor of a floating dtype."""
    tensor = _as_tensor(caller, name, value)
    if not tensor.dtype.is_floating:
        raise TypeError(f"{caller}: {name} must have a floating dtype, got {tensor.dtype.name}")
    return tensor


def as_labels(caller: str, name: str, value: Any) -> tf.Tensor:
    """Converts `value` to int32 or int64; labels of uint64 from 2^63 on become negative."""
    tensor = _as_tensor(caller, name, value)
    if not tensor.dtype.is_integer:
        one_hot = tensor.shape.ndims == 2 and tensor.shape.as_list()[1] != 1
        advice = ONE_HOT if one_hot else f"; for whole numbers, pass tf.cast({name}, tf.int64)"
        raise TypeError(
            f"{caller}: {name} must hold class labels of an integer dtype, got "
            f"{tensor.dtype.name} of shape {tensor.shape}{advice}"
        )
    # Never to a narrower dtype than their own, in which a label could become another.
    return tensor if tensor.dtype in (tf.int32, tf.int64) else tf.cast(tensor, tf.int64)


def as_mask(caller: str, name: str, value: Any) -> tf.Tensor:
    """Converts `value` to a bool tensor."""
    tensor = _as_tensor(caller, name, value)
    if tensor.dtype != tf.bool:
        raise TypeError(f"{caller}: {name} must be bool, got {tensor.dtype.name}")
    return tensor


def _as_tensor(caller: str, name: str, value: Any) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{caller}: {name} must be a dense tensor, got {value!r}") from error
    # An assignment to a ref variable returns a tensor of a ref dtype.
    return tensor if tensor.dtype == tensor.dtype.base_dtype else tf.identity(tensor)
