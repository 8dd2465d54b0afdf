"""One lock for each shard, shared by the threads of a session and by the workers of a cluster.

And the warning for graphs that should take it.
"""

import weakref
from typing import Any, Callable, Dict, List, Tuple

import tensorflow.compat.v1 as tf

from tf_centers.access import colocated, outside_graphs
from tf_centers.centers import Table

# The locks of each graph by the names of their variables; the graph itself keeps them alive.
_graph_locks: Any = weakref.WeakKeyDictionary()
# Those of eager variables by name and device. Two calls in one tf.function have to take the very
# same handle: TensorFlow orders ops by the handles they take, and would else let the second call
# hold the lock while it waits for what the first is to write.
_eager_locks: Dict[Tuple[str, str], Any] = {}

# For each graph, the updates that each table has there: whether each of them locks.
_updates: Any = weakref.WeakKeyDictionary()


def warn_of_overlap(caller: str, table: Table, device: str, use_locking: bool) -> None:
    """Logs a warning, once a table, where updates of it may overwrite each other.

    Args:
      caller: the function to name.
      table: what is updated.
      device: that of the batch, to tell whether the table is with another job.
      use_locking: whether this update locks.
    """
    if outside_graphs():
        return  # TensorFlow runs the updates of one function in their order.
    with tf.init_scope():
        graph = tf.get_default_graph()
    locks = _updates.setdefault(graph, {}).setdefault(table.name, [])
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
    """Runs the ops that `body` makes while no other caller has the lock of the variable.

    What the ops take from outside has to be on the machine of the variable before; the lock is
    then taken only once all of it is there.
    """
    errors: List[Exception] = []

    def leave_first() -> tf.Tensor:
        try:
            return body()
        except Exception as error:
            if not tf.executing_eagerly():
                raise
            # The frames of the traceback hold the lock, for as long as somebody keeps the error.
            errors.append(error.with_traceback(None))
            return tf.zeros([])

    # Sections over the counts of two tables, or over one variable in two graphs, are no mistake.
    result = _lock_of(variable).execute(leave_first, exclusive_resource_access=False)
    if errors:
        raise errors[0]
    return result


def _lock_of(variable: Any) -> Any:
    with tf.init_scope():
        name = f"tf_centers/{variable.name.rsplit(':', 1)[0]}/lock"
        if outside_graphs():
            # Two eager variables of one name share a lock: slower, and as exact.
            key = (name, variable.device)
            if key not in _eager_locks:
                with tf.device(variable.device):
                    lock = tf.CriticalSection(name=name.replace("/", "_"), shared_name=name)
                _eager_locks.setdefault(key, lock)
            return _eager_locks[key]
        locks = _graph_locks.setdefault(tf.get_default_graph(), weakref.WeakValueDictionary())
        lock = locks.get(name)
        if lock is None:
            with colocated(variable), tf.name_scope(None):
                locks[name] = lock = tf.CriticalSection(name=name, shared_name=name)
        return lock
