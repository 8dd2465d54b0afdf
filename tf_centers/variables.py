"""Where the state lives: the only module that makes or finds a variable."""

from typing import Any, List, NamedTuple, Union

import tensorflow.compat.v1 as tf
from tensorflow import Variable  # compat.v1's Variable leaves out TF2's resource variables

from tf_centers import arguments
from tf_centers.autograph import as_written
from tf_centers.rows import colocated, is_ref, outside_graphs

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
    shape = [num_classes, num_dims]
    name = _join(tf.get_variable_scope().name, scope, "ctrs")
    ctrs = _find_variable(name)
    if ctrs is None:
        ctrs = _make_ctrs(caller, scope, shape, dtype, initializer)
    elif not tf.get_variable_scope().reuse:
        raise ValueError(
            f"{caller}: {name} already exists; pass it as centers to the other calls, or create it "
            "in a scope with reuse=tf.AUTO_REUSE"
        )
    _check_ctrs(caller, ctrs)
    if ctrs.shape.as_list() != shape or ctrs.dtype.base_dtype != dtype:
        raise ValueError(
            f"{caller}: expected {name} of shape {shape} and {dtype.name}, found shape "
            f"{ctrs.shape.as_list()} and {ctrs.dtype.base_dtype.name}"
        )
    counts = _find_counts(ctrs)
    if counts is None:
        counts = _make_counts(caller, ctrs)
    _check_counts(caller, counts, ctrs)
    return EmbedCenters(ctrs, counts)


def find_ctrs(caller: str, centers: CentersLike) -> Any:
    """Turns what a caller passed as `centers` into the checked variable of the centers."""
    if isinstance(centers, str):
        ctrs = _find_by_scope(caller, centers)
    else:
        ctrs = centers.ctrs if isinstance(centers, EmbedCenters) else centers
    _check_ctrs(caller, ctrs)
    return ctrs


def find_centers(caller: str, centers: CentersLike, needs_counts: bool = False) -> EmbedCenters:
    """Turns what a caller passed as `centers` into checked variables.

    Counts that exist are always found; where there are none and `needs_counts` is set, they are
    made beside the centers.
    """
    ctrs = find_ctrs(caller, centers)
    counts = centers.counts if isinstance(centers, EmbedCenters) else None
    if counts is None:
        counts = _find_counts(ctrs)
    if counts is None and needs_counts:
        if outside_graphs():
            raise ValueError(
                f"{caller}: this updater needs counts, and outside of a graph they are not found "
                "by name; pass centers=EmbedCenters(ctrs, counts) with counts an int64 variable "
                f"of shape [{ctrs.shape[0]}]"
            )
        counts = _make_counts(caller, ctrs)
    if counts is not None:
        _check_counts(caller, counts, ctrs)
    return EmbedCenters(ctrs, counts)


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
    candidates = tf.global_variables() + tf.local_variables()
    return next((v for v in candidates if v.name == f"{name}:0"), None)


def _find_by_scope(caller: str, scope: str) -> Any:
    absolute = _join(scope, "ctrs")
    names = [_join(tf.get_variable_scope().name, absolute), absolute]
    for name in names:
        found = _find_variable(name)
        if found is not None:
            return found
        if _find_variable(f"{name}/part_0") is not None:
            raise NotImplementedError(f"{caller}: {name} is sharded, which is not supported yet")
    if outside_graphs():
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
    if outside_graphs():
        return None  # names of eager variables are not unique
    return _find_variable(_counts_name(ctrs))


def _make_ctrs(caller: str, scope: str, shape: List[int], dtype: tf.DType, init: Any) -> Any:
    if tf.get_variable_scope().partitioner is not None:
        raise NotImplementedError(
            f"{caller}: centers cannot be sharded yet, but the current variable scope has a "
            "partitioner"
        )
    how = {"trainable": False, "regularizer": tf.no_regularizer}
    try:
        if init is None:
            init = _zeros
        elif not callable(init):
            init = tf.cast(tf.convert_to_tensor(init), dtype)
            if init.shape.as_list() != shape:
                raise ValueError(f"initializer must have shape {shape}, got {init.shape}")
        with tf.variable_scope(scope):
            if callable(init):
                return tf.get_variable("ctrs", shape, dtype, init, **how)
            return tf.get_variable("ctrs", initializer=init, **how)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{caller}: {error}") from error


def _zeros(shape: Any, dtype: Any = tf.float32, partition_info: Any = None) -> tf.Tensor:
    # Unlike zeros, this is no constant, which the graph would keep, and a variable share until its
    # first update: a second table in memory for as long as the session lives.
    del partition_info
    return tf.raw_ops.Empty(shape=shape, dtype=dtype, init=True)


def _make_counts(caller: str, ctrs: Any) -> Any:
    full_name = _counts_name(ctrs)
    scope, _, name = full_name.rpartition("/")
    # The scope is made afresh, so that neither `reuse` nor a custom getter of the caller's scope
    # applies; init_scope leaves any control flow or function the caller is in.
    with tf.init_scope():
        graph = tf.get_default_graph()
        if not tf.executing_eagerly():
            if ctrs.graph is not graph:
                raise ValueError(f"{caller}: {ctrs.name} belongs to another graph")
            if any(op.name == full_name for op in graph.get_operations()):
                raise ValueError(
                    f"{caller}: the count of {ctrs.name} would be {full_name}, but an op that is "
                    "no variable of this graph has that name; pass EmbedCenters(ctrs, counts)"
                )
        with colocated(ctrs), tf.variable_scope(
            tf.VariableScope(reuse=False, name=scope), auxiliary_name_scope=False
        ):
            return tf.get_variable(
                name,
                [ctrs.shape.as_list()[0]],
                tf.int64,
                _zeros,
                trainable=False,
                use_resource=not is_ref(ctrs),
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
