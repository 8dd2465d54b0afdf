"""The variables of a caller, found by name; counts, created where there are none."""

import contextlib
import re
from typing import Any, Dict, List

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow import Variable  # compat.v1's Variable leaves out TF2's resource variables

from tf_centers.access import in_tf2_code, is_ref, notes
from tf_centers.tables import EmbedCenters, Table, add_counts, as_table
from tf_centers.typing import CentersLike


def find_table(caller: str, centers: CentersLike, counts: Any = "existing") -> Table:
    """Turns what a caller passed as `centers` into a checked table.

    `counts` is "ignore", "existing" for those that there are, or a dtype to create them beside the
    centers if there are none; counts that exist may be of another, but not where float64 is needed.
    """
    given = centers if isinstance(centers, EmbedCenters) else EmbedCenters(centers)
    if isinstance(given.ctrs, str):
        given = given._replace(ctrs=_find_by_scope(caller, given.ctrs))
    held = given.ctrs
    given = EmbedCenters(*map(unwrap, given))
    table = as_table(caller, given.ctrs)
    if held is not given.ctrs:  # The variables of Keras 3 keep their constraint to themselves.
        table = table._replace(constraint=held.constraint)
    if counts == "ignore":
        return table
    found = find_counts(table.name) if given.counts is None else given.counts
    if found is None and counts != "existing":
        if in_tf2_code():
            raise ValueError(
                f"{caller}: this updater needs counts, and outside of a graph they are not found "
                f"by name; pass centers=EmbedCenters(ctrs, counts) with counts a {counts.name} "
                f"variable of shape [{table.shape[0]}]"
            )
        found = make_counts(caller, table, counts)
    if found is not None:
        table = add_counts(caller, table, found)
        if counts == tf.float64 != table.shards[0].counts.dtype.base_dtype:
            raise ValueError(
                f"{caller}: this updater needs counts that can fade, got int64 in "
                f"{counts_name(table.name)}; create them with count_dtype=tf.float64"
            )
        return table
    notes("no counts").setdefault(table.name, set()).add(caller)  # to warn of counts made later
    return table


def unwrap(variable: Any) -> Any:
    """The TensorFlow variable that a variable of Keras 3 holds; anything else as it is."""
    held = getattr(variable, "value", None)
    return held if isinstance(held, Variable) else variable


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
    return None if in_tf2_code() else find_variable(counts_name(name))


def counts_name(name: str) -> str:
    return f"{name}_count"


def make_counts(caller: str, table: Table, dtype: tf.DType, initial: Any = 0) -> Any:
    """Creates the counts of a table, split and placed as its centers are."""
    full_name = counts_name(table.name)
    scope, _, name = full_name.rpartition("/")
    ctrs = [shard.ctrs for shard in table.shards]

    def initialize(shape: Any, dtype: Any = dtype, partition_info: Any = None) -> tf.Tensor:
        start = partition_info.var_offset[0] if partition_info is not None else 0
        rows = initial if np.ndim(initial) == 0 else initial[start : start + shape[0]]
        return zeros(shape, dtype) + rows

    def beside(op: tf.Operation) -> str:
        part = re.match(re.escape(full_name) + r"(?:/part_(\d+))?$", op.name)
        return str(ctrs[int(part.group(1) or 0)].device if part else op.device)

    # In a new scope, so that neither `reuse` nor a custom getter of the caller's scope applies;
    # init_scope leaves any control flow or function that the caller is in.
    with contextlib.ExitStack() as stack:
        stack.enter_context(tf.init_scope())
        if not tf.executing_eagerly():
            operations = tf.get_default_graph().get_operations()
            if any(op.name == full_name for op in operations):
                raise ValueError(
                    f"{caller}: the count of {table.name} would be {full_name}, but an op that is "
                    "no variable of this graph has that name; pass EmbedCenters(ctrs, counts)"
                )
            earlier = notes("no counts").pop(table.name, None)
            if earlier is not None:
                tf.logging.warning(
                    f"{caller}: {' and '.join(sorted(earlier))}, built before the counts of "
                    f"{table.name}, will ignore them; build {caller} first, or make the centers "
                    "with create_embed_centers"
                )
            # The devices and the colocation in force are the caller's.
            stack.enter_context(tf.get_default_graph().colocate_with(None, ignore_existing=True))
            stack.enter_context(tf.device(beside))
        how: Dict[str, Any] = {"trainable": False, "use_resource": not is_ref(ctrs[0])}
        if table.partitioned:  # evenly, as tf.get_variable has split the centers
            how["partitioner"] = lambda **_: [len(ctrs)]
        new_scope = tf.VariableScope(reuse=False, name=scope)
        stack.enter_context(tf.variable_scope(new_scope, auxiliary_name_scope=False))
        return tf.get_variable(name, table.shape[:1], dtype, initialize, **how)


def make_counts_on_servers(table: Table, dtype: tf.DType, initial: Any) -> List[Any]:
    """As `make_counts`, for each shard on the parameter servers of TF2 code."""
    counts = []
    for part, shard in enumerate(table.shards):
        start, stop = table.starts[part : part + 2]
        rows = initial if np.ndim(initial) == 0 else initial[start:stop]
        name = counts_name(table.name) + (f"/part_{part}" if table.partitioned else "")
        with tf.distribute.get_strategy().extended.colocate_vars_with(shard.ctrs):
            counts.append(Variable(zeros([stop - start], dtype) + rows, False, name=name))
    return counts


def zeros(shape: Any, dtype: Any = tf.float32, partition_info: Any = None) -> tf.Tensor:
    """Zeros that take memory only once."""
    # Not tf.zeros, whose constant the graph would keep, and a variable would share until its first
    # update: a second table in memory for as long as the session lives.
    del partition_info
    # TensorFlow 1.15 has no such op for bfloat16 where a ref variable asks for it.
    empty = tf.float32 if dtype == tf.bfloat16 else dtype
    return tf.cast(tf.raw_ops.Empty(shape=shape, dtype=empty, init=True), dtype)


def _find_by_scope(caller: str, scope: str) -> Any:
    absolute = join(scope, "ctrs")
    names = [join(tf.get_variable_scope().name, absolute), absolute]
    for name in names:
        found = find_variable(name)
        if found is not None:
            return found
    if in_tf2_code():
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
        "tf.get_variable('ctrs', [num_classes, num_dims], initializer=tf.zeros_initializer(), "
        f"trainable=False) under tf.variable_scope({scope!r}); a table of another name is passed "
        "as the variable itself"
    )


def _find_scopes() -> List[str]:
    """The scopes of all centers in the graph, by the names of variables."""
    variables = tf.local_variables() + tf.global_variables()
    found = [re.match(r"((.*/)?)ctrs(/part_\d+)?:0$", v.name) for v in variables]
    return sorted({match.group(1).rstrip("/") for match in found if match})


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
