"""Checks of shapes and values, when building where the static shapes tell, else at run time.

A check that needs values becomes an `Assert` op or a `CheckNumerics` op. `tf.raw_ops.Assert`
rather than `tf.Assert`, which builds a `tf.cond` around it, and rather than `tf.debugging`, which
raises while the graph is built where its inputs happen to be constant.
"""

from typing import Any, List, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import Variable

Named = Tuple[str, tf.Tensor]


def assert_rate(caller: str, name: str, value: Any, below_one: bool = False) -> List[Any]:
    """The run-time half of `arguments.check_rate`, for a rate that is a tensor."""
    if not tf.is_tensor(value) and not isinstance(value, Variable):
        return []
    rate = tf.convert_to_tensor(value)
    inside = tf.logical_and(rate >= 0, rate < 1 if below_one else rate <= 1)
    allowed = f"in [0, 1{')' if below_one else ']'}"
    return [_require(inside, f"{caller}: expected {name} {allowed}, found", rate)]


def batch_rows(
    caller: str,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    mask: Optional[tf.Tensor],
    num_dims: int,
    validate: bool,
) -> Tuple[tf.Tensor, tf.Tensor, Optional[tf.Tensor]]:
    """Checks that embeddings `[B, D]`, labels `[B]` or `[B, 1]` and a mask `[B]` fit.

    What the static shapes tell is checked now, the rest by ops that the results depend on.

    Returns:
      The embeddings `[B, D]`, the labels `[B]` and the mask `[B]` or None, with B known
      statically where any of them told it.
    """
    embeds = matrix(caller, "embed_batch", embeds, num_dims, validate)
    labels = label_vector(caller, labels, validate)
    others = [("label_batch", labels)]
    if mask is not None:
        mask = _of_rank(caller, "mask", mask, 1, validate)
        others.append(("mask", mask))
    checked = [_same_length(caller, embeds, other, validate) for other in others]
    sizes = [t.shape.as_list()[0] for t in [embeds] + checked]
    known = next((size for size in sizes if size is not None), None)
    embeds = _after([], embeds, [known, num_dims])
    return embeds, checked[0], (checked[1] if mask is not None else None)


def matrix(caller: str, name: str, value: tf.Tensor, num_dims: int, validate: bool) -> tf.Tensor:
    """Checks that a tensor is `[B, num_dims]`."""
    value = _of_rank(caller, name, value, 2, validate)
    columns = value.shape.as_list()[1]
    if columns is None:
        ok = _require_if(
            validate,
            lambda: tf.equal(tf.shape(value)[1], num_dims),
            f"{caller}: expected {name} of shape [B, {num_dims}], found shape",
            value,
        )
        return _after(ok, value, [None, num_dims])
    if columns != num_dims:
        raise ValueError(f"{caller}: {name} must have shape [B, {num_dims}], got {value.shape}")
    return value


def label_vector(caller: str, labels: tf.Tensor, validate: bool) -> tf.Tensor:
    """Checks that labels are `[B]` or `[B, 1]`, and makes them `[B]`."""
    shape = labels.shape
    columns = shape.as_list()[1] if shape.ndims == 2 else None
    if shape.ndims not in (None, 1, 2) or columns not in (None, 1):
        raise ValueError(f"{caller}: label_batch must have shape [B] or [B, 1], got {shape}")
    if shape.ndims == 1:
        return labels
    expected = f"{caller}: expected label_batch of shape [B] or [B, 1], found shape"
    if shape.ndims is None:
        rank = tf.rank(labels)
        one_or_two = tf.logical_or(tf.equal(rank, 1), tf.equal(rank, 2))
        labels = _after(_require_if(validate, lambda: one_or_two, expected, labels), labels)
    if columns is None:
        one_each = _require_if(
            validate, lambda: tf.equal(tf.size(labels), tf.shape(labels)[0]), expected, labels
        )
        labels = _after(one_each, labels)
    return _after([], tf.reshape(labels, [-1]), shape[:1])


def in_range(caller: str, labels: tf.Tensor, num_classes: int, validate: bool) -> tf.Tensor:
    """Returns labels `[B]` that depend on a check that each lies in [0, num_classes)."""
    if not validate:
        return labels
    # An empty batch has the largest possible minimum and the smallest possible maximum.
    lowest, highest = tf.reduce_min(labels), tf.reduce_max(labels)
    inside = tf.logical_and(lowest >= 0, highest < num_classes)
    message = f"{caller}: expected every label in [0, {num_classes}), found labels from"
    return _after([_require(inside, message, lowest, "to", highest)], labels)


def assert_finite(caller: str, embeds: tf.Tensor) -> tf.Tensor:
    """An op that fails where embeddings `[B, D]` hold a NaN or an Inf."""
    # A NaN or an Inf survives a product with a positive vector, and a small one keeps finite
    # values from overflowing: one pass over [B, D], and a check of [B].
    dtype = tf.float64 if embeds.dtype == tf.float64 else tf.float32
    tiny = tf.fill([embeds.shape.as_list()[1], 1], tf.constant(1e-30, dtype))
    message = (
        f"{caller}: expected finite values of {embeds.dtype.name} in every unmasked row of "
        "embed_batch, found one that is not"
    )
    return tf.debugging.check_numerics(tf.matmul(tf.cast(embeds, dtype), tiny), message)


def same_shape(caller: str, one: Named, other: Named) -> Tuple[tf.Tensor, tf.Tensor]:
    """Checks that two tensors have the same shape `[B, D]`."""
    (name, x), (other_name, y) = one, other
    x = _of_rank(caller, name, x, 2, True)
    y = _of_rank(caller, other_name, y, 2, True)
    if not x.shape.is_compatible_with(y.shape):
        raise ValueError(
            f"{caller}: {name} and {other_name} must have the same shape, got {x.shape} and "
            f"{y.shape}"
        )
    if not (x.shape.is_fully_defined() and y.shape.is_fully_defined()):
        same = tf.reduce_all(tf.equal(tf.shape(x), tf.shape(y)))
        message = f"{caller}: expected {name} and {other_name} of the same shape, found"
        ok = [_require(same, message, tf.shape(x), "and", tf.shape(y))]
        shape = x.shape.merge_with(y.shape)
        x, y = _after(ok, x, shape), _after(ok, y, shape)
    return x, y


def _of_rank(caller: str, name: str, value: tf.Tensor, rank: int, validate: bool) -> tf.Tensor:
    form = "[B]" if rank == 1 else "[B, D]"
    if value.shape.ndims is None:
        ok = _require_if(
            validate,
            lambda: tf.equal(tf.rank(value), rank),
            f"{caller}: expected {name} of shape {form}, found shape",
            value,
        )
        return _after(ok, value, [None] * rank)
    if value.shape.ndims != rank:
        raise ValueError(f"{caller}: {name} must have shape {form}, got {value.shape}")
    return value


def _same_length(caller: str, embeds: tf.Tensor, other: Named, validate: bool) -> tf.Tensor:
    name, value = other
    rows, length = embeds.shape.as_list()[0], value.shape.as_list()[0]
    if rows is not None and length is not None:
        if rows != length:
            raise ValueError(
                f"{caller}: embed_batch and {name} must have the same number of rows, got {rows} "
                f"and {length}"
            )
        return value
    expected = f"{caller}: expected {name} to have as many rows as embed_batch"
    if not validate:
        return value
    rows_found, length_found = tf.shape(embeds)[0], tf.size(value)
    same = tf.equal(rows_found, length_found)
    message = f"{expected}, found"
    return _after([_require(same, message, length_found, "and", rows_found)], value, [rows])


def _require_if(validate: bool, condition: Any, message: str, tensor: tf.Tensor) -> List[Any]:
    return [_require(condition(), message, tf.shape(tensor))] if validate else []


def _require(condition: tf.Tensor, message: str, *found: Any) -> Any:
    return tf.raw_ops.Assert(condition=condition, data=[message] + list(found), summarize=8)


def _after(ops: List[Any], tensor: tf.Tensor, shape: Any = None) -> tf.Tensor:
    if ops or shape is not None:
        with tf.control_dependencies(ops):
            tensor = tf.identity(tensor)
    if shape is not None and not tf.executing_eagerly():
        tensor.set_shape(shape)
    return tensor
