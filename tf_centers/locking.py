"""One lock for each shard, shared by the threads of a session and by the workers of a cluster."""

import weakref
from typing import Any, Callable, Dict

import tensorflow.compat.v1 as tf

from tf_centers.rows import colocated, outside_graphs

# The locks of a graph by the names of their variables. Not in a collection of the graph, which
# would have to be written into every exported one.
_locks: Any = weakref.WeakKeyDictionary()


def locked(variable: Any, body: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Runs the ops that `body` makes while no other caller has the lock of the variable.

    What the ops take from outside has to be on the machine of the variable before; the lock is
    then taken only once all of it is there.
    """
    # Sections over the counts of two tables, or over one variable in two graphs, are no mistake.
    return _lock_of(variable).execute(body, exclusive_resource_access=False)


def _lock_of(variable: Any) -> Any:
    with tf.init_scope():
        name = f"tf_centers/{variable.name.rsplit(':', 1)[0]}/lock"
        if outside_graphs():
            # Two eager variables of one name share a lock: slower, and as exact.
            with tf.device(variable.device):
                return tf.CriticalSection(name=name.replace("/", "_"), shared_name=name)
        locks: Dict[str, Any] = _locks.setdefault(tf.get_default_graph(), {})
        if name not in locks:
            with colocated(variable), tf.name_scope(None):
                locks[name] = tf.CriticalSection(name=name, shared_name=name)
        return locks[name]
