"""Checks of shapes and values: from static shapes while building, otherwise at run time.

A check that needs values becomes an `Assert` op or a `CheckNumerics` op. `tf.raw_ops.Assert`
rather than `tf.Assert`, which builds a `tf.cond` around it, and rather than `tf.debugging`, which
raises while the graph is built where its inputs happen to be constant.
"""

import functools
from typing import Any, Callable, List, Optional, Tuple

import tensorflow.compat.v1 as tf

from tf_centers import replicas

Named = Tuple[str, tf.Tensor]


class Checks:
    """The checks of one call. Its reads and writes have to wait for all of them."""

    def __init__(self, caller: str, validate: bool = True) -> None:
        """Takes the name for messages, and whether to check at run time."""
        self.caller = caller
        self.ops: List[Any] = []
        self.validate = validate
        # Whether what is checked next may differ among replicas, all of which are to fail then:
        # where one fails alone, the others wait for its rows.
        self.on_every_replica = False
        self._conditions: List[tf.Tensor] = []

    def require(self, condition: Callable[[], tf.Tensor], expected: str, *found: Any) -> None:
        """Adds a check at run time.

        Args:
          condition: builds the scalar bool that must hold; not called if there are no checks at run
            time. None of its ops may fail, whatever the other checks find.
          expected: what the message says, followed by the values of `found`.
        """
        if self.validate:
            parts = [f"{self.caller}: expected {expected}"] + list(found)
            holds = condition()
            if self.on_every_replica:
                passed = self.gather(holds)
                parts += ["here; it must hold on each replica, and does by their ids:", passed]
                holds = tf.reduce_all(passed)
            with on_host():
                data = [tf.constant(part) if isinstance(part, str) else part for part in parts]
            self._conditions.append(holds)
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
        with tf.control_dependencies(self.ops):
            if tensor.shape.ndims is None and shape.ndims and shape[1:].is_fully_defined():
                # TensorFlow's optimizer would drop an identity here, along with the checks. From
                # tf.ensure_shape it would conclude that they pass.
                tensor = tf.reshape(tensor, [-1] + shape.as_list()[1:])
            else:
                tensor = tf.identity(tensor)
        if not tf.executing_eagerly():
            tensor.set_shape(shape)
        return tensor

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        """A scalar of each replica, `[replicas]`, once the checks so far have passed.

        A check that fails while its replica still gathers would cut off the others.
        """
        return replicas.gather(self.guard(tf.reshape(value, [1])))

    def nan_unless_passed(self, rows: tf.Tensor) -> tf.Tensor:
        """The rows, or NaN if a check fails in a function, where XLA drops the Assert."""
        if not self._conditions or not tf.get_default_graph().building_function:
            return rows
        passed = functools.reduce(tf.logical_and, self._conditions)
        # Computed, since a debugger would report a NaN constant.
        one_or_nan = tf.cast(tf.sqrt(tf.where(passed, 1.0, -1.0)), rows.dtype)
        return tf.where(passed, rows, rows * one_or_nan)


def on_host() -> Any:
    """A context whose ops run on the CPU of their machine: for labels and texts.

    Not every op has a GPU kernel for their dtypes. Use it for nothing larger, not even to read its
    shape.
    """
    return tf.device("/device:CPU:0")


def batch_rows(
    checks: Checks,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    mask: Optional[tf.Tensor],
    num_dims: int,
) -> Tuple[tf.Tensor, tf.Tensor, Optional[tf.Tensor]]:
    """Checks that embeddings `[B, D]`, labels `[B]` or `[B, 1]` and a mask `[B]` fit.

    Returns:
      The embeddings `[B, D]`, the labels `[B]` and the mask `[B]` or None. Each depends on every
      check, and has a static B if any of them has.
    """
    sizes = [_check_matrix(checks, "embed_batch", embeds, num_dims)]
    if embeds.shape.ndims is None or embeds.shape.as_list()[1] is None:
        embeds = checks.guard(embeds, [None, num_dims])
    flat = _flatten_labels(checks, labels)
    others = [("label_batch", flat)]
    if mask is not None:
        _check_rank(checks, "mask", mask, 1, "[B]")
        others.append(("mask", mask))
    for name, other in others:
        sizes.append(_static_size(other))
        _check_length(checks, name, other, embeds, sizes)
    known = next((size for size in sizes if size is not None), None)
    return (
        checks.guard(embeds, [known, num_dims]),
        checks.guard(flat, [known]),
        None if mask is None else checks.guard(mask, [known]),
    )


def matrix(checks: Checks, name: str, value: tf.Tensor, num_dims: int) -> tf.Tensor:
    """Checks that a tensor is `[B, num_dims]`."""
    size = _check_matrix(checks, name, value, num_dims)
    return checks.guard(value, [size, num_dims])


def scalar(checks: Checks, name: str, value: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor is a scalar, and the same one on all replicas that make this update."""
    if value.shape.ndims is None:
        shape = tf.shape(value)
        checks.require(
            lambda: tf.equal(tf.size(shape), 0), f"{name} to be a scalar, found shape", shape
        )
        # The first element where there are several, so that no op fails before the check does.
        value = tf.reshape(tf.reshape(value, [-1])[:1], [])
    if replicas.count_here() > 1:
        found = checks.gather(value)
        checks.require(
            lambda: tf.reduce_all(tf.equal(found, found[0])),
            f"{name} to be the same on every replica, found",
            found,
        )
        value = found[0]
    return value


def label_vector(checks: Checks, labels: tf.Tensor) -> tf.Tensor:
    """Checks that labels are `[B]` or `[B, 1]`, and makes them `[B]`."""
    return checks.guard(_flatten_labels(checks, labels))


def in_range(
    checks: Checks,
    labels: tf.Tensor,
    num_classes: int,
    given: tf.DType,
    present: Optional[tf.Tensor] = None,
) -> tf.Tensor:
    """Checks that each of the labels `[B]` lies in [0, num_classes).

    Args:
      checks: where the check is added.
      labels: int32 or int64 `[B]`.
      num_classes: C, by the static shape of the table.
      given: the dtype in which the caller passed the labels.
      present: the number of rows at run time, which replaces `num_classes`.
    """
    # With its sign bit flipped, a negative label becomes huge, so one pass finds both kinds. Not
    # every version can take the maximum of unsigned integers.
    with on_host():
        lowest = tf.constant(labels.dtype.min, labels.dtype)
        highest = tf.reduce_max(tf.bitwise.bitwise_xor(labels, lowest))
        found: List[Any] = [tf.bitwise.bitwise_xor(highest, lowest)]
        if given == tf.uint64:
            found = [tf.bitcast(found[0], given)]
    if present is not None:
        found += ["in a table that has at run time", present, "classes"]

    def fits() -> tf.Tensor:
        with on_host():
            return tf.less(highest, (num_classes if present is None else present) + lowest)

    checks.require(fits, f"every label in [0, {num_classes}), found", *found)
    return checks.guard(labels)


def same_shape(checks: Checks, one: Named, other: Named) -> Tuple[tf.Tensor, tf.Tensor]:
    """Checks that two tensors have the same shape `[B, D]`."""
    (name, x), (other_name, y) = one, other
    _check_rank(checks, name, x, 2, "[B, D]")
    _check_rank(checks, other_name, y, 2, "[B, D]")
    if not x.shape.is_compatible_with(y.shape):
        raise ValueError(
            f"{checks.caller}: {name} and {other_name} must have the same shape, got {x.shape} and "
            f"{y.shape}"
        )
    if not (x.shape.is_fully_defined() and y.shape.is_fully_defined()):
        checks.require(
            lambda: tf.reduce_all(tf.equal(tf.shape(x), tf.shape(y))),
            f"{name} and {other_name} of the same shape, found",
            tf.shape(x),
            "and",
            tf.shape(y),
        )
    shape = x.shape.merge_with(y.shape).merge_with([None, None])
    return checks.guard(x, shape), checks.guard(y, shape)


def _check_matrix(checks: Checks, name: str, value: tf.Tensor, num_dims: int) -> Optional[int]:
    """Checks that a tensor is `[B, num_dims]`; returns B if it is static."""
    form = f"[B, {num_dims}]"
    if not value.shape.is_compatible_with([None, num_dims]):
        raise ValueError(f"{checks.caller}: {name} must have shape {form}, got {value.shape}")
    rows, columns = (None, None) if value.shape.ndims is None else value.shape.as_list()
    if columns is None:
        shape = tf.shape(value)
        checks.require(
            # Of any rank, so that no other op fails before this one says why.
            lambda: tf.logical_and(
                tf.equal(tf.size(shape), 2), tf.equal(tf.reduce_prod(shape[1:]), num_dims)
            ),
            f"{name} of shape {form}, found shape",
            shape,
        )
    return rows


def _check_rank(checks: Checks, name: str, value: tf.Tensor, rank: int, form: str) -> None:
    if value.shape.ndims not in (None, rank):
        raise ValueError(f"{checks.caller}: {name} must have shape {form}, got {value.shape}")
    if value.shape.ndims is None:
        checks.require(
            lambda: tf.equal(tf.rank(value), rank),
            f"{name} of shape {form}, found shape",
            tf.shape(value),
        )


def _flatten_labels(checks: Checks, labels: tf.Tensor) -> tf.Tensor:
    shape = labels.shape
    columns = shape.as_list()[1] if shape.ndims == 2 else None
    if shape.ndims not in (None, 1, 2) or columns not in (None, 1):
        hint = "; for one-hot labels, pass tf.argmax(label_batch, axis=1)"
        raise ValueError(
            f"{checks.caller}: label_batch must have shape [B] or [B, 1], got {shape}"
            f"{hint if shape.ndims == 2 else ''}"
        )
    if shape.ndims == 1:
        return labels
    expected = "label_batch of shape [B] or [B, 1], found shape"
    if shape.ndims is None:
        checks.require(
            lambda: tf.logical_or(tf.equal(tf.rank(labels), 1), tf.equal(tf.rank(labels), 2)),
            expected,
            tf.shape(labels),
        )
    if columns is None:
        checks.require(
            lambda: tf.equal(tf.reduce_prod(tf.shape(labels)[1:]), 1), expected, tf.shape(labels)
        )
    with tf.control_dependencies(checks.ops):
        flat = tf.reshape(labels, [-1])
    if shape.ndims == 2 and not tf.executing_eagerly():
        flat.set_shape(shape[:1])
    return flat


def _check_length(
    checks: Checks, name: str, value: tf.Tensor, embeds: tf.Tensor, sizes: List[Optional[int]]
) -> None:
    rows, length = sizes[0], sizes[-1]
    if rows is None or length is None:
        found = tf.size(value, out_type=tf.int64)
        num_dims = embeds.shape.as_list()[1]
        checks.require(
            lambda: tf.equal(num_dims * found, tf.size(embeds, out_type=tf.int64)),
            f"{name} to have as many rows as embed_batch, found",
            found,
            "and embed_batch of shape",
            tf.shape(embeds),
        )
    elif rows != length:
        raise ValueError(
            f"{checks.caller}: embed_batch and {name} must have the same number of rows, got "
            f"{rows} and {length}"
        )


def _static_size(vector: tf.Tensor) -> Optional[int]:
    size = vector.shape.as_list()[0] if vector.shape.ndims == 1 else None
    return None if size is None else int(size)
