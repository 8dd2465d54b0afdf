"""Creates tables of centers."""

from typing import Any, Callable, List, Optional, Union

import tensorflow.compat.v1 as tf

from tf_centers import arguments
from tf_centers.access import in_tf2_code, on_tf2_server
from tf_centers.tables import (
    COUNT_DTYPES,
    FLOAT_DTYPES,
    EmbedCenters,
    add_counts,
    as_table,
    check_replicas,
)
from tf_centers.typing import TensorLike
from tf_centers.variables import (
    find_counts,
    find_variable,
    join,
    make_counts,
    make_counts_on_servers,
    zeros,
)


@arguments.no_autograph
def create_embed_centers(
    num_classes: int,
    num_dims: int,
    scope: str = "embed",
    dtype: tf.DType = tf.float32,
    initializer: Optional[Union[Callable[..., Any], TensorLike]] = None,
    initial_counts: TensorLike = 0,
    constraint: Optional[Callable[[tf.Tensor], tf.Tensor]] = None,
    count_dtype: tf.DType = tf.int64,
) -> EmbedCenters:
    """Creates the variables `<scope>/ctrs` and `<scope>/ctrs_count`.

    Neither is trainable, and `tf.train.Saver` saves both. A scope that reuses variables returns
    existing ones. A partitioner (`tf.fixed_size_partitioner`) splits both by rows into shards. In
    the scope of a `tf.distribute` strategy, from TensorFlow 2.4 on, every replica gets a copy.

    Args:
      num_classes: Python integer C, at least 1.
      num_dims: Python integer D, at least 1.
      scope: name of the variable scope, below the current one.
      dtype: floating dtype of the centers.
      initializer: initializer, tensor or array `[C, D]` for the centers; None is zeros.
      initial_counts: how many rows the initial value of each class stands for, an integer at least
        0 or integers `[C]`. A class with 1 or more counts as seen.
      constraint: None, or what every update applies to the centers that it writes: a function of
        float32 (float64 for float64 centers) `[U, D]` that acts on each row by itself, such as
        `lambda c: tf.nn.l2_normalize(c, axis=1)`. The initial values do not go through it.
      count_dtype: tf.int64, or tf.float64 for counts that fade.

    Returns:
      `EmbedCenters(ctrs [C, D], counts [C])`.

    Raises:
      TypeError: sizes or counts not integers, a scope not a string, a dtype of another kind, a
        constraint that cannot be called.
      ValueError: a size below 1, a count below 0, not one count per class; existing `ctrs` of
        another shape or dtype, without a constraint where one is given, or in a scope that does
        not reuse them; existing counts of another dtype; a partitioner that splits columns;
        several replicas before TensorFlow 2.4; a call inside a `tf.function`.
    """
    caller = "create_embed_centers"
    if in_tf2_code() and not tf.executing_eagerly():
        raise ValueError(
            f"{caller}: expected a call outside of any tf.function, since variables are created "
            "once, got one inside; create the centers before, and pass them as centers"
        )
    num_classes = arguments.as_size(caller, "num_classes", num_classes)
    num_dims = arguments.as_size(caller, "num_dims", num_dims)
    if not isinstance(scope, str):
        raise TypeError(f"{caller}: scope must be a string, got {scope!r}")
    dtype = arguments.as_dtype(caller, "dtype", dtype, FLOAT_DTYPES)
    count_dtype = arguments.as_dtype(caller, "count_dtype", count_dtype, COUNT_DTYPES)
    if constraint is not None and not callable(constraint):
        raise TypeError(f"{caller}: constraint must be a function or None, got {constraint!r}")
    initial = arguments.as_row_counts(caller, "initial_counts", initial_counts, num_classes)
    check_replicas(caller, tf.distribute.get_strategy().num_replicas_in_sync)
    shape = [num_classes, num_dims]
    name = join(tf.get_variable_scope().name, scope, "ctrs")
    ctrs = find_variable(name)
    if ctrs is None:
        ctrs = _make_ctrs(caller, scope, shape, dtype, initializer, constraint)
    elif not tf.get_variable_scope().reuse:
        raise ValueError(
            f"{caller}: {name} already exists; pass it as centers to the other calls, or create it "
            "in a scope with reuse=tf.AUTO_REUSE"
        )
    table = as_table(caller, ctrs)
    if table.shape != shape or table.dtype != dtype:
        found = f"found shape {table.shape} and {table.dtype.name}"
        raise ValueError(f"{caller}: expected {name} of shape {shape} and {dtype.name}, {found}")
    if constraint is not None and table.constraint is None:
        raise ValueError(f"{caller}: expected {name} with a constraint, found it without one")
    counts = find_counts(table.name)
    if counts is None and on_tf2_server(table.shards[0].ctrs):
        counts = make_counts_on_servers(table, count_dtype, initial)
        # The ShardedVariable of a strategy has no public name.
        counts = type(ctrs)(counts) if table.partitioned else counts[0]
    elif counts is None:
        counts = make_counts(caller, table, count_dtype, initial)
    found = add_counts(caller, table, counts).shards[0].counts.dtype.base_dtype
    if found != count_dtype:
        raise ValueError(
            f"{caller}: expected the counts of {name} of {count_dtype.name}, found {found.name}"
        )
    return EmbedCenters(ctrs, counts)


def _make_ctrs(
    caller: str, scope: str, shape: List[int], dtype: tf.DType, init: Any, constraint: Any
) -> Any:
    partitioner = tf.get_variable_scope().partitioner
    split = partitioner(shape=tf.TensorShape(shape), dtype=dtype) if partitioner else [1, 1]
    if list(split[1:]) != [1]:
        raise ValueError(
            f"{caller}: the partitioner of the variable scope must split centers of shape {shape} "
            f"by rows alone, got parts {list(split)}"
        )
    try:
        size = None  # A tensor brings its own.
        if init is None or callable(init):
            init, size = init or zeros, shape
        else:
            init = tf.cast(tf.convert_to_tensor(init), dtype)
            if init.shape.as_list() != shape:
                raise ValueError(f"initializer must have shape {shape}, got {init.shape}")
        with tf.variable_scope(scope) as here:
            here.set_regularizer(None)
            return tf.get_variable(
                "ctrs", size, dtype, init, trainable=False, constraint=constraint
            )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{caller}: {error}") from error
