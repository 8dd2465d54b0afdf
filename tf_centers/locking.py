"""One lock for each shard, shared by the threads of a session and by the workers of a cluster.

Also the warning for graphs that should use it.
"""

from typing import Any, Dict, List, Sequence, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.access import control_flow, in_tf2_code, notes, on_device_of, read_rows
from tf_centers.checks import Checks
from tf_centers.tables import EmbedCenters, Table

# Where an update is: whether it locks, and what `access.control_flow` says.
_Place = Tuple[bool, bool, Dict[str, str]]


def warn_of_overlap(checks: Checks, table: Table, device: str, use_locking: bool) -> None:
    """Logs a warning, once per table, if updates of it may overwrite each other.

    `device` is that of the batch, which tells whether the table belongs to another job.
    """
    repeats, branches = control_flow()
    job = tf.DeviceSpec.from_string(table.shards[0].ctrs.device or "").job
    if in_tf2_code():
        repeats |= job == "ps"  # where the functions of several workers update it
        if use_locking or not repeats:
            return  # TensorFlow runs the updates of one function in order.
    elif job not in (None, "localhost", tf.DeviceSpec.from_string(device or "").job):
        repeats = True  # Other workers update it too.
    here, name = (use_locking, repeats, branches), table.shards[0].ctrs.name
    if name in notes("overlap"):
        return
    earlier = notes("updates").setdefault(name, [])
    earlier.append(here)
    if any(_may_overlap(here, other) for other in earlier):
        notes("overlap")[name] = here
        tf.logging.warning(
            f"{checks.caller}: updates of {table.name} may run at the same time, from two calls in "
            "this graph, from one in a loop or a function, or from several workers, and those "
            f"without a lock may overwrite each other; {checks.lock_advice}"
        )


def _may_overlap(one: _Place, other: _Place) -> bool:
    (one_locks, repeats, branches), (other_locks, _, other_branches) = one, other
    if one_locks and other_locks:
        return False
    if one is other:
        return repeats
    return all(other_branches.get(key, branch) == branch for key, branch in branches.items())


def take_locks(shards: Sequence[EmbedCenters]) -> List[Any]:
    """Takes the locks of all shards, in their order, after every control dependency in force."""
    locks: List[Any] = []
    for part, shard in enumerate(shards):
        variable = shard.ctrs
        # The shards of a ShardedVariable without a name are all called "Variable".
        name = f"tf_centers/{variable.name.rsplit(':', 1)[0]}/lock_{part}"
        # The ops that tf.CriticalSection is made of, since a function with a tf.CriticalSection
        # cannot be exported. All ops of one name on one device share one lock, even for eager
        # variables.
        with on_device_of(variable):
            # In a function, TensorFlow lets this read wait for earlier calls that write the
            # variable. Without it, a later call could hold the lock and wait for what an earlier
            # one writes.
            empty = [read_rows(v, tf.zeros([0], tf.int32)) for v in shard if v is not None]
            with tf.control_dependencies(empty + locks[-1:]):
                mutex = tf.raw_ops.MutexV2(shared_name=name)
                locks.append(tf.raw_ops.MutexLock(mutex=mutex))
    return locks


def release_locks(shards: Sequence[EmbedCenters], locks: List[Any]) -> List[Any]:
    """Releases the locks, after every control dependency in force; returns ops that must run."""
    releases = []
    while locks:
        # In eager execution, a traceback that is kept would go on holding a lock in this list.
        with on_device_of(shards[len(locks) - 1].ctrs):
            releases.append(tf.raw_ops.ConsumeMutexLock(mutex_lock=locks.pop()))
    return releases
