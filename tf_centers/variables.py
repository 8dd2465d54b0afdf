"""The only module that creates variables, or looks up those of a caller."""

import contextlib
import re
import weakref
from typing import Any, Dict, List, Union

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow import Variable  # compat.v1's Variable leaves out TF2's resource variables

from tf_centers import arguments
from tf_centers.access import colocated, is_ref, outside_graphs
from tf_centers.arguments import as_written
from tf_centers.centers import (
    FLOAT_DTYPES,
    EmbedCenters,
    Table,
    as_table,
    check_replicas,
    counts_name,
    find_counts,
    find_variable,
    join,
)

CentersLike = Union[str, EmbedCenters, Variable]

_NONE_SEEN = np.zeros([], np.int64)
# For each graph, the tables without counts whose counts a call would have used, and that call.
_uncounted: Any = weakref.WeakKeyDictionary()


@as_written
def create_embed_centers(
    num_classes: int,
    num_dims: int,
    scope: str = "embed",
    dtype: Any = tf.float32,
    initializer: Any = None,
    initial_counts: Any = 0,
) -> EmbedCenters:
    """Creates the variables `<scope>/ctrs` and `<scope>/ctrs_count`.

    Neither is trainable. Both are in the global collection, so that `tf.train.Saver` saves them. A
    scope that reuses variables returns existing ones. Under a partitioner
    (`tf.fixed_size_partitioner`) both are `PartitionedVariable`s, split by rows into shards. In the
    scope of a `tf.distribute` strategy, every replica gets a copy, from TensorFlow 2.4 on.

    Args:
      num_classes: Python integer C, at least 1.
      num_dims: Python integer D, at least 1.
      scope: name of the variable scope, below the current one.
      dtype: floating dtype of the centers; the counts are int64.
      initializer: initializer, tensor or array `[C, D]` for the centers; None is zeros.
      initial_counts: how many rows the initial value of each class stands for, an integer that is
        at least 0 or integers `[C]`. A class with 1 or more counts as seen.

    Returns:
      `EmbedCenters(ctrs [C, D], counts [C])`.

    Raises:
      ValueError: a size below 1; a count below 0; not one count per class; `ctrs` already exists,
        and the scope does not reuse it or it has another shape or dtype; a partitioner that splits
        columns; a distribution strategy with several replicas before TensorFlow 2.4.
      TypeError: a size or count that is not an integer, a scope that is not a string, a dtype that
        is not floating.
    """
    caller = "create_embed_centers"
    num_classes = arguments.as_size(caller, "num_classes", num_classes)
    num_dims = arguments.as_size(caller, "num_dims", num_dims)
    if not isinstance(scope, str):
        raise TypeError(f"{caller}: scope must be a string, got {scope!r}")
    dtype = _as_float_dtype(caller, dtype)
    initial = arguments.as_row_counts(caller, "initial_counts", initial_counts, num_classes)
    check_replicas(caller, tf.distribute.get_strategy().num_replicas_in_sync)
    shape = [num_classes, num_dims]
    name = join(tf.get_variable_scope().name, scope, "ctrs")
    ctrs = find_variable(name)
    if ctrs is None:
        ctrs = _make_ctrs(caller, scope, shape, dtype, initializer)
    elif not tf.get_variable_scope().reuse:
        raise ValueError(
            f"{caller}: {name} already exists; pass it as centers to the other calls, or create it "
            "in a scope with reuse=tf.AUTO_REUSE"
        )
    table = as_table(caller, ctrs)
    if table.shape != shape or table.dtype != dtype:
        raise ValueError(
            f"{caller}: expected {name} of shape {shape} and {dtype.name}, found shape "
            f"{table.shape} and {table.dtype.name}"
        )
    counts = find_counts(table.name)
    if counts is None:
        counts = _make_counts(caller, table, initial)
    as_table(caller, ctrs, counts)
    return EmbedCenters(ctrs, counts)


def find_table(
    caller: str, centers: CentersLike, needs_counts: bool = False, with_counts: bool = True
) -> Table:
    """Turns what a caller passed as `centers` into a checked table.

    Existing counts are always found, unless `with_counts` is False. If there are none and
    `needs_counts` is True, they are created beside the centers.
    """
    given = centers if isinstance(centers, EmbedCenters) else EmbedCenters(centers)
    if isinstance(given.ctrs, str):
        given = given._replace(ctrs=_find_by_scope(caller, given.ctrs))
    table = as_table(caller, given.ctrs)
    if not with_counts:
        return table
    counts = given.counts
    if counts is None:
        counts = find_counts(table.name)
    if counts is None and needs_counts:
        if outside_graphs():
            raise ValueError(
                f"{caller}: this updater needs counts, and outside of a graph they are not found "
                "by name; pass centers=EmbedCenters(ctrs, counts) with counts an int64 variable "
                f"of shape [{table.shape[0]}]"
            )
        counts = _make_counts(caller, table)
    return as_table(caller, given.ctrs, counts)


def note_counts(caller: str, table: Table) -> None:
    """Remembers a call that uses counts only if they exist, to warn if they are created later."""
    if not table.has_counts and not outside_graphs():
        with tf.init_scope():
            _uncounted.setdefault(tf.get_default_graph(), {})[table.name] = caller


def _as_float_dtype(caller: str, dtype: Any) -> tf.DType:
    try:
        converted = tf.as_dtype(dtype)
    except TypeError as error:
        raise TypeError(f"{caller}: dtype must be a floating dtype, got {dtype!r}") from error
    if converted not in FLOAT_DTYPES:
        raise TypeError(f"{caller}: dtype must be a floating dtype, got {converted.name}")
    return converted


def _find_by_scope(caller: str, scope: str) -> Any:
    absolute = join(scope, "ctrs")
    names = [join(tf.get_variable_scope().name, absolute), absolute]
    for name in names:
        found = find_variable(name)
        if found is not None:
            return found
    if outside_graphs():
        raise ValueError(
            f"{caller}: centers={scope!r} names a variable scope of a graph; called eagerly or "
            "inside a tf.function, pass centers=EmbedCenters(ctrs, counts) with the variables"
        )
    missing = f"{caller}: no variable {' or '.join(sorted(set(names), key=names.index))}"
    others = _find_scopes()
    if others:
        raise ValueError(
            f"{missing} in this graph, but {', '.join(join(other, 'ctrs') for other in others)}; "
            f"pass centers={others[0]!r}, or the variable itself"
        )
    raise ValueError(
        f"{missing} in this graph; make it first with "
        f"tf_centers.create_embed_centers(num_classes, num_dims, scope={scope!r}), or with "
        f"tf.get_variable('ctrs', [num_classes, num_dims]) under tf.variable_scope({scope!r}); "
        "a table of another name is passed as the variable itself"
    )


def _find_scopes() -> List[str]:
    """The scopes of all centers in the graph, by the names of variables."""
    variables = tf.local_variables() + tf.global_variables()
    found = [re.match(r"((.*/)?)ctrs(/part_\d+)?:0$", v.name) for v in variables]
    return sorted({match.group(1).rstrip("/") for match in found if match})


def _make_ctrs(caller: str, scope: str, shape: List[int], dtype: tf.DType, init: Any) -> Any:
    partitioner = tf.get_variable_scope().partitioner
    if partitioner is not None:
        split = partitioner(shape=tf.TensorShape(shape), dtype=dtype)
        if list(split[1:]) != [1]:
            raise ValueError(
                f"{caller}: the partitioner of the variable scope must split centers of shape "
                f"{shape} by rows alone, got parts {list(split)}"
            )
    try:
        if init is None:
            init = _zeros
        elif not callable(init):
            init = tf.cast(tf.convert_to_tensor(init), dtype)
            if init.shape.as_list() != shape:
                raise ValueError(f"initializer must have shape {shape}, got {init.shape}")
        with tf.variable_scope(scope) as here:
            here.set_regularizer(None)
            if callable(init):
                return tf.get_variable("ctrs", shape, dtype, init, trainable=False)
            return tf.get_variable("ctrs", initializer=init, trainable=False)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{caller}: {error}") from error


def _zeros(shape: Any, dtype: Any = tf.float32, partition_info: Any = None) -> tf.Tensor:
    # Not tf.zeros, whose constant the graph would keep, and a variable would share until its first
    # update: a second table in memory for as long as the session lives.
    del partition_info
    # TensorFlow 1.15 has no such op for bfloat16 where a ref variable asks for it.
    empty = tf.float32 if dtype == tf.bfloat16 else dtype
    return tf.cast(tf.raw_ops.Empty(shape=shape, dtype=empty, init=True), dtype)


def _make_counts(caller: str, table: Table, initial: np.ndarray = _NONE_SEEN) -> Any:
    def initialize(shape: Any, dtype: Any = tf.int64, partition_info: Any = None) -> tf.Tensor:
        start = partition_info.var_offset[0] if partition_info is not None else 0
        rows = initial if initial.ndim == 0 else initial[start : start + shape[0]]
        return _zeros(shape, dtype) + rows

    full_name = counts_name(table.name)
    scope, _, name = full_name.rpartition("/")
    ctrs = [shard.ctrs for shard in table.shards]
    # In a new scope, so that neither `reuse` nor a custom getter of the caller's scope applies;
    # init_scope leaves any control flow or function that the caller is in.
    with tf.init_scope():
        graph = tf.get_default_graph()
        if not tf.executing_eagerly():
            if ctrs[0].graph is not graph:
                raise ValueError(f"{caller}: {ctrs[0].name} belongs to another graph")
            if any(op.name == full_name for op in graph.get_operations()):
                raise ValueError(
                    f"{caller}: the count of {table.name} would be {full_name}, but an op that is "
                    "no variable of this graph has that name; pass EmbedCenters(ctrs, counts)"
                )
        earlier = _uncounted.get(graph, {}).pop(table.name, None)
        if earlier is not None:
            tf.logging.warning(
                f"{caller}: made counts of {table.name}, which {earlier}, built before, does not "
                "use; build it after the first call that counts rows, or make the centers with "
                "create_embed_centers"
            )
        how: Dict[str, Any] = {"trainable": False, "use_resource": not is_ref(ctrs[0])}
        if table.partitioned:
            # Split evenly, as tf.get_variable has split the centers.
            how["partitioner"] = lambda **_: [len(ctrs)]
            place = contextlib.ExitStack()
            place.enter_context(tf.device(None))  # the devices in force are the caller's
            place.enter_context(tf.device(_place_beside(ctrs, full_name)))
        elif table.replicas > 1:
            place = contextlib.ExitStack()  # The strategy puts each copy beside that of ctrs.
        else:
            place = colocated(ctrs[0])
        with place, tf.variable_scope(
            tf.VariableScope(reuse=False, name=scope), auxiliary_name_scope=False
        ):
            return tf.get_variable(name, table.shape[:1], tf.int64, initialize, **how)


def _place_beside(ctrs: List[Any], name: str) -> Any:
    """A device function that places each shard of the counts beside that of the centers."""

    def place(op: tf.Operation) -> str:
        part = re.match(re.escape(name) + r"/part_(\d+)", op.name)
        return str(ctrs[int(part.group(1))].device if part else op.device)

    return place
