"""Where the state lives: the only module that makes, finds, reads or writes a variable."""

import contextlib
from typing import Any, List, NamedTuple, Optional, Union

import tensorflow.compat.v1 as tf
from tensorflow import Variable  # compat.v1's Variable leaves out TF2's resource variables

from tf_centers import arguments
from tf_centers.autograph import as_written

_FLOAT_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)


class EmbedCenters(NamedTuple):
    """The state of a set of centers.

    Attributes:
      ctrs: variable `[C, D]` of a floating dtype, the center of each class.
      counts: int64 variable `[C]`, the rows each class has been updated with, or None.
    """

    ctrs: Any
    counts: Any = None


CentersLike = Union[str, EmbedCenters, Variable]


@as_written
def create_embed_centers(
    num_classes: int,
    num_dims: int,
    scope: str = "embed",
    dtype: Any = tf.float32,
    initializer: Any = None,
) -> EmbedCenters:
    """Makes the variables `<scope>/ctrs` and `<scope>/ctrs_count`.

    Both are in the global collection, so that `tf.train.Saver` saves them, and never trainable.
    In a scope that reuses variables, the ones that are there are returned.

    Args:
      num_classes: Python integer C, at least 1.
      num_dims: Python integer D, at least 1.
      scope: name of the variable scope, below the current one.
      dtype: floating dtype of the centers; the counts are int64.
      initializer: initializer, tensor or array `[C, D]` for the centers; None is zeros.

    Returns:
      `EmbedCenters(ctrs [C, D], counts [C])`.

    Raises:
      ValueError: a size below 1, or `ctrs` exists already in a scope that does not reuse it, or
        has another shape or dtype there.
      TypeError: a size that is no integer, a scope that is no string, a dtype that is no float.
    """
    caller = "create_embed_centers"
    num_classes = arguments.as_size(caller, "num_classes", num_classes)
    num_dims = arguments.as_size(caller, "num_dims", num_dims)
    if not isinstance(scope, str):
        raise TypeError(f"{caller}: scope must be a string, got {scope!r}")
    dtype = _as_float_dtype(caller, dtype)
    shape: Optional[List[int]] = [num_classes, num_dims]
    if initializer is None:
        initializer = tf.zeros_initializer()
    elif not callable(initializer):
        initializer = tf.convert_to_tensor(initializer, dtype)
        if not initializer.shape.is_compatible_with(shape):
            raise ValueError(
                f"{caller}: initializer must have shape {shape}, got {initializer.shape}"
            )
        shape = None  # get_variable takes it from the tensor
    if tf.get_variable_scope().partitioner is not None:
        raise NotImplementedError(
            f"{caller}: centers cannot be sharded yet, but the current variable scope has a "
            "partitioner"
        )
    try:
        with tf.variable_scope(scope):
            ctrs = tf.get_variable("ctrs", shape, dtype, initializer, trainable=False)
    except ValueError as error:
        raise ValueError(f"{caller}: {error}") from error
    counts = _find_counts(ctrs)
    if counts is None:
        counts = _make_counts(ctrs)
    _check_counts(caller, counts, ctrs)
    return EmbedCenters(ctrs, counts)


def find_centers(caller: str, centers: CentersLike, needs_counts: bool = False) -> EmbedCenters:
    """Turns what a caller passed as `centers` into checked variables.

    Counts that exist are always found; where there are none and `needs_counts` is set, they are
    made beside the centers.
    """
    counts = None
    if isinstance(centers, str):
        ctrs = _find_by_scope(caller, centers)
    elif isinstance(centers, EmbedCenters):
        ctrs, counts = centers
    else:
        ctrs = centers
    _check_ctrs(caller, ctrs)
    if counts is None:
        counts = _find_counts(ctrs)
    if counts is None and needs_counts:
        if _outside_graphs():
            raise ValueError(
                f"{caller}: this updater needs counts, and outside of a graph they are not found "
                "by name; pass centers=EmbedCenters(ctrs, counts) with counts an int64 variable "
                f"of shape [{ctrs.shape[0]}]"
            )
        counts = _make_counts(ctrs)
    if counts is not None:
        _check_counts(caller, counts, ctrs)
    return EmbedCenters(ctrs, counts)


def read_rows(variable: Any, rows: tf.Tensor) -> tf.Tensor:
    """Gathers rows of a variable, as they are after every control dependency in force."""
    if not _is_ref(variable):
        return tf.gather(variable, rows)
    # The tensor that a ref variable converts to was made with the variable, before any update.
    with _colocated(variable):
        return tf.gather(variable.read_value(), rows)


def write_rows(variable: Any, rows: tf.Tensor, values: tf.Tensor) -> Any:
    """Overwrites rows of a variable; what it returns is for control dependencies only."""
    return tf.scatter_update(variable, rows, values)


def _outside_graphs() -> bool:
    """Whether variables are eager ones here: in TF2 code, or a `tf.function` of such code."""
    with tf.init_scope():
        return bool(tf.executing_eagerly())


def _is_ref(variable: Any) -> bool:
    return bool(variable.dtype != variable.dtype.base_dtype)


def _colocated(variable: Any) -> Any:
    # An op that takes a resource follows it by itself; one that reads a ref variable's value
    # would otherwise have the whole table sent to its own device.
    if _outside_graphs():
        return contextlib.nullcontext()
    return tf.get_default_graph().colocate_with(variable.op)


def _as_float_dtype(caller: str, dtype: Any) -> tf.DType:
    try:
        converted = tf.as_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"{caller}: dtype must be a floating dtype, got {dtype!r}") from error
    if converted not in _FLOAT_DTYPES:
        raise TypeError(f"{caller}: dtype must be a floating dtype, got {converted.name}")
    return converted


def _join(*names: str) -> str:
    return "/".join(name.strip("/") for name in names if name.strip("/"))


def _find_variable(name: str) -> Any:
    return next((v for v in tf.global_variables() if v.name == f"{name}:0"), None)


def _find_by_scope(caller: str, scope: str) -> Any:
    absolute = _join(scope, "ctrs")
    names = [_join(tf.get_variable_scope().name, absolute), absolute]
    for name in names:
        found = _find_variable(name)
        if found is not None:
            return found
    for name in names:
        if _find_variable(f"{name}/part_0") is not None:
            raise NotImplementedError(f"{caller}: {name} is sharded, which is not supported yet")
    if _outside_graphs():
        raise ValueError(
            f"{caller}: centers={scope!r} names a variable scope of a graph; called eagerly or "
            "inside a tf.function, pass centers=EmbedCenters(ctrs, counts) with the variables"
        )
    raise ValueError(
        f"{caller}: no variable {' or '.join(sorted(set(names), key=names.index))} in this graph; "
        "make it first with tf_centers.create_embed_centers(num_classes, num_dims, "
        f"scope={scope!r}), or with tf.get_variable('ctrs', [num_classes, num_dims]) under "
        f"tf.variable_scope({scope!r})"
    )


def _counts_name(ctrs: Any) -> str:
    return f"{ctrs.name.rsplit(':', 1)[0]}_count"


def _find_counts(ctrs: Any) -> Any:
    if _outside_graphs():
        return None  # names of eager variables are not unique
    return _find_variable(_counts_name(ctrs))


def _make_counts(ctrs: Any) -> Any:
    scope, _, name = _counts_name(ctrs).rpartition("/")
    # The scope is made afresh, so that neither `reuse` nor a custom getter of the caller's scope
    # applies; init_scope leaves any control flow or function the caller is in.
    with tf.init_scope(), _colocated(ctrs):
        with tf.variable_scope(
            tf.VariableScope(reuse=False, name=scope), auxiliary_name_scope=False
        ):
            return tf.get_variable(
                name,
                [ctrs.shape.as_list()[0]],
                tf.int64,
                tf.zeros_initializer(),
                trainable=False,
                use_resource=not _is_ref(ctrs),
            )


def _check_ctrs(caller: str, ctrs: Any) -> None:
    if not isinstance(ctrs, Variable):
        raise TypeError(
            f"{caller}: centers must be a scope name, an EmbedCenters or a variable, got {ctrs!r}"
        )
    if ctrs.dtype.base_dtype not in _FLOAT_DTYPES:
        raise TypeError(
            f"{caller}: centers must have a floating dtype, got {ctrs.dtype.base_dtype.name} "
            f"in {ctrs.name}"
        )
    if ctrs.shape.ndims != 2 or not ctrs.shape.is_fully_defined():
        raise ValueError(
            f"{caller}: centers must have a static shape [C, D], got {ctrs.shape} in {ctrs.name}"
        )


def _check_counts(caller: str, counts: Any, ctrs: Any) -> None:
    if not isinstance(counts, Variable):
        raise TypeError(f"{caller}: counts must be a variable or None, got {counts!r}")
    if counts.dtype.base_dtype != tf.int64:
        raise TypeError(
            f"{caller}: counts must be int64, got {counts.dtype.base_dtype.name} in {counts.name}"
        )
    expected = [ctrs.shape.as_list()[0]]
    if counts.shape.ndims is None or counts.shape.as_list() != expected:
        raise ValueError(
            f"{caller}: counts must have shape {expected}, got {counts.shape} in {counts.name}"
        )
