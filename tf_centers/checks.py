"""Checks of shapes and values, when building where the static shapes tell, else at run time.

A check that needs values becomes an `Assert` op or a `CheckNumerics` op. `tf.raw_ops.Assert`
rather than `tf.Assert`, which builds a `tf.cond` around it, and rather than `tf.debugging`, which
raises while the graph is built where its inputs happen to be constant.
"""

from typing import Any, Callable, List, Optional, Tuple

import tensorflow.compat.v1 as tf

Named = Tuple[str, tf.Tensor]


class Checks:
    """The checks of one call; its result has to depend on all of them, through `guard`."""

    def __init__(self, caller: str, validate: bool = True) -> None:
        """Takes the name for the messages, and whether checks at run time are wanted."""
        self.caller = caller
        self._validate = validate
        self._ops: List[Any] = []

    def require(self, condition: Callable[[], tf.Tensor], expected: str, *found: Any) -> None:
        """Adds a check at run time; it is made only after those before it have passed.

        Args:
          condition: builds the scalar bool that must hold; not called where no check is wanted.
          expected: what the message says, followed by the values of `found`.
        """
        if self._validate:
            parts = [f"{self.caller}: expected {expected}"] + list(found)
            with on_host():
                data = [tf.constant(part) if isinstance(part, str) else part for part in parts]
            with tf.control_dependencies(self._ops):
                ok = tf.raw_ops.Assert(condition=condition(), data=data, summarize=8)
            self._ops.append(ok)

    def require_finite(self, embeds: tf.Tensor) -> None:
        """Adds a check that embeddings `[B, D]` hold neither NaN nor Inf."""
        # A NaN or an Inf survives a product with a positive vector, and a small one keeps finite
        # values from overflowing: one pass over [B, D], and a check of [B].
        if self._validate:
            dtype = tf.float64 if embeds.dtype == tf.float64 else tf.float32
            tiny = tf.fill([embeds.shape.as_list()[1], 1], tf.constant(1e-30, dtype))
            self.require_finite_sums(tf.matmul(tf.cast(embeds, dtype), tiny), embeds.dtype)

    def require_finite_sums(self, sums: tf.Tensor, given: tf.DType) -> None:
        """Adds the same check of sums of embeddings of the dtype `given` that cannot overflow."""
        if self._validate:
            message = (
                f"{self.caller}: expected finite values of {given.name} in every unmasked row of "
                "embed_batch, found one that is not"
            )
            # After those before it: a rate that is NaN makes such sums too.
            with self.done():
                self._ops.append(tf.debugging.check_numerics(sums, message))

    def done(self) -> Any:
        """A context in which every op waits for the checks so far."""
        return tf.control_dependencies(self._ops)

    def guard(self, tensor: tf.Tensor, shape: Any = None) -> tf.Tensor:
        """The tensor, once the checks so far have passed, and with what is known of its shape."""
        with self.done():
            tensor = tf.identity(tensor)
        if shape is not None and not tf.executing_eagerly():
            tensor.set_shape(shape)
        return tensor


def on_host() -> Any:
    """A context whose ops run on the CPU of their machine: for labels and texts.

    Not every op has a GPU kernel for their dtypes. Nothing larger goes in here, not even to have
    its shape read.
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
      The embeddings `[B, D]`, the labels `[B]` and the mask `[B]` or None, each dependent on every
      check, and with B known statically where any of them told it.
    """
    sizes = [_check_matrix(checks, "embed_batch", embeds, num_dims)]
    flat = _flatten_labels(checks, labels)
    others = [("label_batch", flat)]
    if mask is not None:
        _check_rank(checks, "mask", mask, 1)
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


def label_vector(checks: Checks, labels: tf.Tensor) -> tf.Tensor:
    """Checks that labels are `[B]` or `[B, 1]`, and makes them `[B]`."""
    return checks.guard(_flatten_labels(checks, labels))


def in_range(checks: Checks, labels: tf.Tensor, num_classes: int, given: tf.DType) -> tf.Tensor:
    """Checks that each of the labels `[B]`, of the dtype `given` once, lies in [0, num_classes)."""
    # With its sign bit turned a negative label is a huge one: one pass finds both kinds. Not every
    # TensorFlow has a kernel to find the largest of unsigned ones.
    lowest = labels.dtype.min
    with on_host():
        highest = tf.reduce_max(tf.bitwise.bitwise_xor(labels, lowest))
        found = tf.bitwise.bitwise_xor(highest, lowest)
        if given == tf.uint64:
            found = tf.bitcast(found, given)

    def fits() -> tf.Tensor:
        with on_host():
            return tf.less(highest, num_classes + lowest)

    checks.require(fits, f"every label in [0, {num_classes}), found", found)
    return checks.guard(labels)


def same_shape(checks: Checks, one: Named, other: Named) -> Tuple[tf.Tensor, tf.Tensor]:
    """Checks that two tensors have the same shape `[B, D]`."""
    (name, x), (other_name, y) = one, other
    _check_rank(checks, name, x, 2)
    _check_rank(checks, other_name, y, 2)
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
    """Checks that a tensor is `[B, num_dims]`; returns B where it is static."""
    form = f"[B, {num_dims}]"
    _check_rank(checks, name, value, 2, form)
    rows, columns = (None, None) if value.shape.ndims is None else value.shape.as_list()
    if columns not in (None, num_dims):
        raise ValueError(f"{checks.caller}: {name} must have shape {form}, got {value.shape}")
    if columns is None:
        checks.require(
            lambda: tf.equal(tf.shape(value)[1], num_dims),
            f"{name} of shape {form}, found shape",
            tf.shape(value),
        )
    return rows


def _check_rank(
    checks: Checks, name: str, value: tf.Tensor, rank: int, form: Optional[str] = None
) -> None:
    form = form or ("[B]" if rank == 1 else "[B, D]")
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
        raise ValueError(f"{checks.caller}: label_batch must have shape [B] or [B, 1], got {shape}")
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
    flat = tf.reshape(labels, [-1])
    if shape.ndims == 2 and not tf.executing_eagerly():
        flat.set_shape(shape[:1])
    return flat


def _check_length(
    checks: Checks, name: str, value: tf.Tensor, embeds: tf.Tensor, sizes: List[Optional[int]]
) -> None:
    rows, length = sizes[0], sizes[-1]
    if rows is None or length is None:
        length_found = tf.size(value)
        with checks.done():  # The rank of the embeddings may be among the checks.
            rows_found = tf.shape(embeds)[0]
        checks.require(
            lambda: tf.equal(rows_found, length_found),
            f"{name} to have as many rows as embed_batch, found",
            length_found,
            "and",
            rows_found,
        )
    elif rows != length:
        raise ValueError(
            f"{checks.caller}: embed_batch and {name} must have the same number of rows, got "
            f"{rows} and {length}"
        )


def _static_size(vector: tf.Tensor) -> Optional[int]:
    size = vector.shape.as_list()[0] if vector.shape.ndims == 1 else None
    return None if size is None else int(size)
