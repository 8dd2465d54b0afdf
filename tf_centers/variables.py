"""Where the state lives: the only module that makes variables, or looks up those of a caller."""

import contextlib
import re
import weakref
from typing import Any, Dict, List, Union

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
    counts_name,
    find_counts,
    find_variable,
    join,
    refuse_replicas,
)

CentersLike = Union[str, EmbedCenters, Variable]

# For each graph, the names of tables that were searched when they had no counts.
_searched: Any = weakref.WeakKeyDictionary()


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
    In a scope that reuses variables, the ones that are there are returned. Under a partitioner
    (`tf.fixed_size_partitioner`) both are `PartitionedVariable`s, split by rows into shards.

    Args:
      num_classes: Python integer C, at least 1.
      num_dims: Python integer D, at least 1.
      scope: name of the variable scope, below the current one.
      dtype: floating dtype of the centers; the counts are int64.
      initializer: initializer, tensor or array `[C, D]` for the centers; None is zeros.

    Returns:
      `EmbedCenters(ctrs [C, D], counts [C])`.

    Raises:
      ValueError: a size below 1; `ctrs` exists already in a scope that does not reuse it, or has
        another shape or dtype there; a partitioner that splits columns; a distribution strategy
        that copies variables to replicas.
      TypeError: a size that is no integer, a scope that is no string, a dtype that is no float.
    """
    caller = "create_embed_centers"
    num_classes = arguments.as_size(caller, "num_classes", num_classes)
    num_dims = arguments.as_size(caller, "num_dims", num_dims)
    if not isinstance(scope, str):
        raise TypeError(f"{caller}: scope must be a string, got {scope!r}")
    dtype = _as_float_dtype(caller, dtype)
    refuse_replicas(caller)
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
        counts = _make_counts(caller, table)
    as_table(caller, ctrs, counts)
    return EmbedCenters(ctrs, counts)


def find_table(
    caller: str, centers: CentersLike, needs_counts: bool = False, with_counts: bool = True
) -> Table:
    """Turns what a caller passed as `centers` into a checked table.

    Counts that exist are always found, unless `with_counts` is not set; where there are none and
    `needs_counts` is set, they are made beside the centers.
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


def note_search(table: Table) -> None:
    """Remembers a search without counts, so that counts made later are warned of."""
    if not table.has_counts and not outside_graphs():
        with tf.init_scope():
            _searched.setdefault(tf.get_default_graph(), set()).add(table.name)


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
    raise ValueError(
        f"{caller}: no variable {' or '.join(sorted(set(names), key=names.index))} in this graph; "
        "make it first with tf_centers.create_embed_centers(num_classes, num_dims, "
        f"scope={scope!r}), or with tf.get_variable('ctrs', [num_classes, num_dims]) under "
        f"tf.variable_scope({scope!r})"
    )


def _make_ctrs(caller: str, scope: str, shape: List[int], dtype: tf.DType, init: Any) -> Any:
    partitioner = tf.get_variable_scope().partitioner
    if partitioner is not None:
        split = partitioner(shape=tf.TensorShape(shape), dtype=dtype)
        if list(split[1:]) != [1]:
            raise ValueError(
                f"{caller}: the partitioner of the variable scope must split centers of shape "
                f"{shape} by rows alone, got parts {list(split)}"
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
    # TensorFlow 1.15 has no such op for bfloat16 where a ref variable asks for it.
    empty = tf.float32 if dtype == tf.bfloat16 else dtype
    return tf.cast(tf.raw_ops.Empty(shape=shape, dtype=empty, init=True), dtype)


def _make_counts(caller: str, table: Table) -> Any:
    full_name = counts_name(table.name)
    scope, _, name = full_name.rpartition("/")
    ctrs = [shard.ctrs for shard in table.shards]
    # The scope is made afresh, so that neither `reuse` nor a custom getter of the caller's scope
    # applies; init_scope leaves any control flow or function the caller is in.
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
        if table.name in _searched.get(graph, ()):
            tf.logging.warning(
                f"{caller}: made counts of {table.name} after nearest_centers was built, which "
                "takes classes never seen for candidates; build it after the first call that "
                "counts, or make the centers with create_embed_centers"
            )
        how: Dict[str, Any] = {"trainable": False, "use_resource": not is_ref(ctrs[0])}
        if table.partitioned:
            # Split evenly, as tf.get_variable has split the centers.
            how["partitioner"] = lambda **_: [len(ctrs)]
            place = contextlib.ExitStack()
            place.enter_context(tf.device(None))  # the devices in force are the caller's
            place.enter_context(tf.device(_place_beside(ctrs, full_name)))
        else:
            place = colocated(ctrs[0])
        with place, tf.variable_scope(
            tf.VariableScope(reuse=False, name=scope), auxiliary_name_scope=False
        ):
            return tf.get_variable(name, table.shape[:1], tf.int64, _zeros, **how)


def _place_beside(ctrs: List[Any], name: str) -> Any:
    """A device function that puts the i-th shard of the counts where that of the centers is."""

    def place(op: tf.Operation) -> str:
        part = re.match(re.escape(name) + r"/part_(\d+)", op.name)
        return str(ctrs[int(part.group(1))].device if part else op.device)

    return place
