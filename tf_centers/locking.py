"""One lock for each shard, shared by the threads of a session and by the workers of a cluster.

Also the warning for graphs that should use it.
"""

import weakref
from typing import Any, Callable, List

import tensorflow.compat.v1 as tf

from tf_centers.access import colocated, outside_graphs, read_rows
from tf_centers.centers import Table

# For each graph, the updates that each table has there: whether each of them locks.
_updates: Any = weakref.WeakKeyDictionary()


def warn_of_overlap(caller: str, table: Table, device: str, use_locking: bool) -> None:
    """Logs a warning, once per table, if updates of it may overwrite each other.

    Args:
      caller: the function to name.
      table: what is updated.
      device: that of the batch, which tells whether the table belongs to another job.
      use_locking: whether this update locks.
    """
    if outside_graphs():
        return  # TensorFlow runs the updates of one function in order.
    with tf.init_scope():
        graph = tf.get_default_graph()
    locks = _updates.setdefault(graph, {}).setdefault(table.shards[0].ctrs.name, [])
    warned = _may_overlap(locks)
    job = tf.DeviceSpec.from_string(table.shards[0].ctrs.device or "").job
    if job not in (None, "localhost", tf.DeviceSpec.from_string(device or "").job):
        locks.append(True)  # Other workers update it too.
    locks.append(use_locking)
    if _may_overlap(locks) and not warned:
        tf.logging.warning(
            f"{caller}: updates of {table.name} may run at the same time, from two calls in this "
            "graph or from several workers, and those without a lock may overwrite each other; "
            "pass use_locking=True to each of them"
        )


def _may_overlap(locks: List[bool]) -> bool:
    return len(locks) > 1 and not all(locks)


def locked(variable: Any, body: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Runs the ops that `body` makes while no other caller holds the lock of the variable.

    Bring the inputs of these ops to the machine of the variable before, so that the lock is not
    held while they arrive.
    """
    name = f"tf_centers/{variable.name.rsplit(':', 1)[0]}/lock"
    # The ops that tf.CriticalSection is made of, since a function with a tf.CriticalSection cannot
    # be exported. All ops of one name on one device share one lock, even for eager variables.
    with tf.device(variable.device) if outside_graphs() else colocated(variable):
        # In a function, TensorFlow lets this read wait for earlier calls that write the variable.
        # Without it, a later call could hold the lock and wait for what an earlier one writes.
        with tf.control_dependencies([read_rows(variable, tf.zeros([0], tf.int32))]):
            mutex = tf.raw_ops.MutexV2(shared_name=name)
            lock = tf.raw_ops.MutexLock(mutex=mutex)
    try:
        with tf.control_dependencies([lock]):
            result = body()
        with tf.control_dependencies([result]), colocated(variable):
            release = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
    finally:
        del lock  # In eager execution, a traceback that is kept would go on holding it.
    with tf.control_dependencies([] if release is None else [release]):
        return tf.identity(result)
