"""Tables of centers as the calls work on them: whole, in shards or in copies."""

import itertools
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import Variable, distribute  # compat.v1 leaves out some of TF2's

from tf_centers import replicas
from tf_centers.access import in_tf2_code, on_tf2_server, outermost_graph

FLOAT_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
COUNT_DTYPES = (tf.int64, tf.float64)


class EmbedCenters(NamedTuple):
    """The state of a set of centers; either may be a `PartitionedVariable`, split by rows.

    Attributes:
      ctrs: variable `[C, D]` of a floating dtype, the center of each class.
      counts: int64 variable `[C]`, the number of rows that updated each class, or None; float64
        where they fade.
    """

    ctrs: Any
    counts: Any = None


class Table(NamedTuple):
    """Centers as the calls work on them.

    Attributes:
      name: of the variable, for messages and for the name of its counts.
      shape: `[C, D]`.
      partitioned: whether it is a `PartitionedVariable`, even with one shard.
      copies: the shards of each copy on this machine, in the order of their classes.
      replicas: how many replicas of a distribution strategy, on all machines, have a copy.
      constraint: what new centers go through before they are written, or None.
    """

    name: str
    shape: List[int]
    partitioned: bool
    copies: Tuple[Tuple[EmbedCenters, ...], ...]
    replicas: int
    constraint: Optional[Callable[[tf.Tensor], tf.Tensor]]

    @property
    def shards(self) -> Tuple[EmbedCenters, ...]:
        """The shards of the copy of this replica."""
        return self.copies[replicas.own_place(len(self.copies))]

    @property
    def dtype(self) -> tf.DType:
        return self.shards[0].ctrs.dtype.base_dtype

    @property
    def starts(self) -> List[int]:
        """The first class of each shard, and C."""
        sizes = [shard.ctrs.shape.as_list()[0] for shard in self.shards]
        return [0, *itertools.accumulate(sizes)]

    @property
    def has_counts(self) -> bool:
        return self.shards[0].counts is not None


def as_table(caller: str, ctrs: Any) -> Table:
    """Checks a variable, whole or partitioned, of centers."""
    expected = "a scope name, an EmbedCenters(ctrs, counts) or a variable"
    shards = _as_shards(caller, "centers", ctrs, expected)
    name, shape = _name_and_shape(ctrs)
    num_replicas = replicas.count_of(shards[0])
    check_replicas(caller, num_replicas)
    if on_tf2_server(shards[0]) and not hasattr(distribute, "ParameterServerStrategy"):
        raise ValueError(
            f"{caller}: expected TensorFlow 2.8 or later for centers on the parameter servers of a "
            f"tf.distribute strategy, got {tf.__version__}; use parameter servers in a graph "
            "(tf.train.replica_device_setter)"
        )
    dtype = shards[0].dtype.base_dtype
    if dtype not in FLOAT_DTYPES:
        raise TypeError(f"{caller}: centers must have a floating dtype, got {dtype.name} in {name}")
    if shape.ndims != 2 or not shape.is_fully_defined():
        raise ValueError(
            f"{caller}: centers must have a static shape [C, D], got {shape} in {name}"
        )
    for shard in shards:
        if shard.shape.as_list()[1] != shape.as_list()[1]:
            raise ValueError(
                f"{caller}: centers must be split by rows, with all {shape[1]} dims in each shard, "
                f"got a shard of shape {shard.shape} in {name}"
            )
    copies = tuple(zip(*[map(EmbedCenters, replicas.copies(shard)) for shard in shards]))
    # In TensorFlow 1.15 the variable of a strategy has none, but its copies do.
    constraint = getattr(copies[0][0].ctrs, "constraint", None)
    return Table(name, shape.as_list(), shards[0] is not ctrs, copies, num_replicas, constraint)


def add_counts(caller: str, table: Table, counts: Any) -> Table:
    """The table with counts, once they have been checked as `as_table` checks centers."""
    shards = _as_shards(caller, "counts", counts, "a variable or None")
    name = shards[0].name
    if replicas.count_of(shards[0]) != table.replicas:
        raise ValueError(
            f"{caller}: counts must be copied to as many replicas as centers, {table.replicas}, "
            f"got {name} on {replicas.count_of(shards[0])}; make both in one strategy's scope"
        )
    dtype = shards[0].dtype.base_dtype
    if dtype not in COUNT_DTYPES:
        raise TypeError(f"{caller}: counts must be int64 or float64, got {dtype.name} in {name}")
    expected = [shard.ctrs.shape.as_list()[:1] for shard in table.shards]
    found = [None if s.shape.ndims is None else s.shape.as_list() for s in shards]
    if found != expected:
        wanted = f"shape {expected[0]}" if len(expected) == 1 else f"shards of shapes {expected}"
        got = found[0] if len(found) == 1 else found
        advice = "" if len(expected) == 1 else "; create_embed_centers splits both alike"
        raise ValueError(f"{caller}: counts must have {wanted}, got {got} in {name}{advice}")
    rows = zip(*[replicas.copies(shard) for shard in shards])
    copies = tuple(
        tuple(shard._replace(counts=own) for shard, own in zip(copy, row))
        for copy, row in zip(table.copies, rows)
    )
    return table._replace(copies=copies)


def check_replicas(caller: str, count: int) -> None:
    """Refuses copies on several replicas where TensorFlow cannot gather their batches."""
    if count > 1 and not replicas.SUPPORTED:
        raise ValueError(
            f"{caller}: centers must be one variable before TensorFlow 2.4, got one with {count} "
            "copies for the replicas of a distribution strategy; use one replica, or towers in one "
            "graph or parameter servers (tf.train.replica_device_setter) with use_locking=True"
        )


def _as_shards(caller: str, what: str, variable: Any, expected: str) -> List[Any]:
    """The shards of a variable of this graph, one if it is not partitioned."""
    # In TensorFlow 1.15 a strategy makes something that is not a Variable, but its copies are.
    shards = [variable]
    if not isinstance(replicas.copies(variable)[0], Variable):
        # Neither the class that tf.get_variable returns under a partitioner nor the ShardedVariable
        # of parameter servers has a public name. A tuple of shards is what is left of the first
        # after tf.train.import_meta_graph.
        has_shards = hasattr(variable, "as_tensor") or hasattr(variable, "variables")
        partitioned = has_shards and hasattr(variable, "__iter__")
        shards = list(variable) if partitioned or isinstance(variable, tuple) else []
        are_variables = shards and all(isinstance(shard, Variable) for shard in shards)
        if not are_variables or not (partitioned or _slice_of(shards[0]).full_name):
            raise TypeError(f"{caller}: {what} must be {expected}, got {variable!r}")
    if not in_tf2_code() and replicas.copies(shards[0])[0].graph is not outermost_graph():
        raise ValueError(
            f"{caller}: {what} must be variables of the graph in which the call is built, got "
            f"{shards[0].name} of another graph"
        )
    return shards


def _name_and_shape(variable: Any) -> Tuple[str, tf.TensorShape]:
    if isinstance(variable, tuple):  # Each shard knows its whole.
        info = _slice_of(variable[0])
        return info.full_name, tf.TensorShape(list(info.full_shape))
    shape = variable.get_shape() if hasattr(variable, "get_shape") else variable.shape
    if hasattr(variable, "variables"):  # A ShardedVariable has no name of its own.
        return variable.variables[0].name.rsplit("/part_", 1)[0], tf.TensorShape(shape)
    return variable.name.rsplit(":", 1)[0], tf.TensorShape(shape)


def _slice_of(shard: Any) -> Any:
    """The whole that a shard belongs to, and its part in it; an eager variable has none."""
    whole = tf.VariableDef() if in_tf2_code() else shard.to_proto()
    return whole.save_slice_info_def
