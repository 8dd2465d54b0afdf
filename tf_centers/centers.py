"""Tables of centers, whole or in shards: finding and checking them."""

from typing import Any, List, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import Variable  # compat.v1's Variable leaves out TF2's resource variables

from tf_centers import replicas
from tf_centers.access import outside_graphs

FLOAT_DTYPES = (tf.float16, tf.bfloat16, tf.float32, tf.float64)


class EmbedCenters(NamedTuple):
    """The state of a set of centers; either may be a `PartitionedVariable`, split by rows.

    Attributes:
      ctrs: variable `[C, D]` of a floating dtype, the center of each class.
      counts: int64 variable `[C]`, the number of rows that updated each class, or None.
    """

    ctrs: Any
    counts: Any = None


class Table(NamedTuple):
    """Centers as the calls work on them.

    Attributes:
      name: of the variable, for messages and for the name of its counts.
      shards: the variables, in the order of their classes; one where the table is whole.
      shape: `[C, D]` of all of them together.
      dtype: of the centers.
      partitioned: whether it is a `PartitionedVariable`, even with one shard.
      copies: the shards of each copy on this machine, of which `shards` are those of this replica.
      replicas: how many replicas of a distribution strategy, on all machines, have a copy.
    """

    name: str
    shards: Tuple[EmbedCenters, ...]
    shape: List[int]
    dtype: tf.DType
    partitioned: bool
    copies: Tuple[Tuple[EmbedCenters, ...], ...]
    replicas: int

    @property
    def starts(self) -> List[int]:
        """The first class of each shard, and C."""
        starts = [0]
        for shard in self.shards:
            starts.append(starts[-1] + shard.ctrs.shape.as_list()[0])
        return starts

    @property
    def has_counts(self) -> bool:
        return self.shards[0].counts is not None


def join(*names: str) -> str:
    """The name of a variable below scopes, any of which may be empty."""
    return "/".join(name.strip("/") for name in names if name.strip("/"))


def find_variable(name: str) -> Any:
    """The variable of the graph that has this name, whole or a `PartitionedVariable`; or None."""
    shards: List[Any] = []
    candidates = {v.name: v for v in tf.local_variables() + tf.global_variables()}
    if f"{name}:0" in candidates:
        return candidates[f"{name}:0"]
    while f"{name}/part_{len(shards)}:0" in candidates:
        shards.append(candidates[f"{name}/part_{len(shards)}:0"])
    return _put_together(name, shards) if shards else None


def find_counts(name: str) -> Any:
    """The counts beside the centers of this name, or None."""
    # Names of eager variables are not unique.
    return None if outside_graphs() else find_variable(counts_name(name))


def counts_name(name: str) -> str:
    return f"{name}_count"


def as_table(caller: str, ctrs: Any, counts: Any = None) -> Table:
    """Checks a variable, whole or partitioned, of centers, and one of their counts if given.

    Raises:
      TypeError: something that is not a variable, or has another dtype.
      ValueError: another shape, shards by columns; copies on several replicas before TensorFlow
        2.4; counts without as many copies.
    """
    shards = _as_shards(ctrs)
    if shards is None:
        raise TypeError(
            f"{caller}: centers must be a scope name, an EmbedCenters or a variable, got {ctrs!r}"
        )
    name, shape = _name_and_shape(ctrs)
    check_replicas(caller, replicas.count_of(shards[0]))
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
    columns = [None] * len(shards) if counts is None else _check_counts(caller, counts, shards)
    copies = tuple(zip(*[_copies_of(*pair) for pair in zip(shards, columns)]))
    return Table(
        name=name,
        shards=copies[replicas.own_place(len(copies))],
        shape=shape.as_list(),
        dtype=dtype,
        partitioned=shards[0] is not ctrs,
        copies=copies,
        replicas=replicas.count_of(shards[0]),
    )


def _check_counts(caller: str, counts: Any, shards: List[Any]) -> List[Any]:
    found = _as_shards(counts)
    if found is None:
        raise TypeError(f"{caller}: counts must be a variable or None, got {counts!r}")
    copies = replicas.count_of(shards[0])
    if replicas.count_of(found[0]) != copies:
        raise ValueError(
            f"{caller}: counts must be copied to as many replicas as centers, {copies}, got "
            f"{found[0].name} on {replicas.count_of(found[0])}; make both in one strategy's scope"
        )
    expected = [shard.shape.as_list()[:1] for shard in shards]
    for variable in found:
        if variable.dtype.base_dtype != tf.int64:
            raise TypeError(
                f"{caller}: counts must be int64, got {variable.dtype.base_dtype.name} in "
                f"{variable.name}"
            )
    shapes = [variable.shape for variable in found]
    if [None if s.ndims is None else s.as_list() for s in shapes] != expected:
        wanted = f"shape {expected[0]}" if len(expected) == 1 else f"shards of shapes {expected}"
        got = shapes[0] if len(shapes) == 1 else [s.as_list() for s in shapes]
        raise ValueError(f"{caller}: counts must have {wanted}, got {got} in {found[0].name}")
    return found


def _as_shards(variable: Any) -> Optional[List[Any]]:
    """The shards of a variable, one if it is not partitioned; None for anything else."""
    # In TensorFlow 1.15 a strategy makes something that is not a Variable, but its copies are.
    if isinstance(replicas.copies(variable)[0], Variable):
        return [variable]
    # The class that tf.get_variable returns under a partitioner has no public name.
    partitioned = hasattr(variable, "as_tensor") and hasattr(variable, "__iter__")
    if partitioned or isinstance(variable, tuple):
        shards = list(variable)
        if shards and all(isinstance(shard, Variable) for shard in shards):
            return shards
    return None


def _copies_of(ctrs: Any, counts: Any) -> List[EmbedCenters]:
    copies = replicas.copies(ctrs)
    columns = [None] * len(copies) if counts is None else replicas.copies(counts)
    return [EmbedCenters(*pair) for pair in zip(copies, columns)]


def _name_and_shape(variable: Any) -> Tuple[str, tf.TensorShape]:
    if isinstance(variable, tuple):  # Each shard knows its whole.
        info = variable[0].to_proto().save_slice_info_def
        return info.full_name, tf.TensorShape(list(info.full_shape))
    shape = variable.get_shape() if hasattr(variable, "get_shape") else variable.shape
    return variable.name.rsplit(":", 1)[0], tf.TensorShape(shape)


def _put_together(name: str, shards: List[Any]) -> Any:
    """The `PartitionedVariable` of these shards; None if they are not shards of this name.

    After `tf.train.import_meta_graph` only the shards are left, which are returned as a tuple.
    """
    info = shards[0].to_proto().save_slice_info_def
    if info.full_name != name:
        return None
    shape, part = list(info.full_shape), list(info.var_shape)
    split = [len(shards) if part[axis] < shape[axis] else 1 for axis in range(len(shape))]
    scope, _, last = name.rpartition("/")
    with tf.variable_scope(tf.VariableScope(reuse=True, name=scope), auxiliary_name_scope=False):
        try:
            return tf.get_variable(
                last, shape, dtype=shards[0].dtype.base_dtype, partitioner=lambda **_: split
            )
        except ValueError:
            return tuple(shards)


def check_replicas(caller: str, count: int) -> None:
    """Refuses copies on several replicas where TensorFlow cannot gather their batches."""
    if count > 1 and not replicas.SUPPORTED:
        raise ValueError(
            f"{caller}: centers must be one variable before TensorFlow 2.4, got one with {count} "
            "copies for the replicas of a distribution strategy; use one replica, or towers in one "
            "graph or parameter servers (tf.train.replica_device_setter) with use_locking=True"
        )
