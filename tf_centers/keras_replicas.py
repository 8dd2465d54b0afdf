"""The Keras layer on several replicas.

Keras 3 keeps one list of losses for all replicas of a process. A gather inside `call` lets replicas
take turns in the middle of a step, which mixes up these losses. So there each replica only reads
the centers and leaves its rows, and the last one updates every copy with the rows of all.
"""

from typing import Any, Dict, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import distribute

from tf_centers import replicas
from tf_centers.batch import Batch
from tf_centers.checks import Checks
from tf_centers.keras_arguments import VERSION
from tf_centers.row_weights import Updater
from tf_centers.sharding import update_table
from tf_centers.tables import Table

# The version of Keras 3, such as [3, 8]; empty in Keras 2.
_KERAS3 = [int(part) for part in VERSION.split(".")[:2]]
_KERAS3 = _KERAS3 if _KERAS3 >= [3] else []


class Turns:
    """Updates by replicas that run one after another in this process."""

    def __init__(self) -> None:
        self._left: Dict[int, Tuple[Any, Any, Batch]] = {}

    def update(self, checks: Checks, table: Table, updater: Updater, batch: Batch) -> None:
        """Leaves the rows of this replica; on the last one, updates every copy with all rows."""
        context = distribute.get_replica_context()
        graph = None if tf.executing_eagerly() else tf.get_default_graph()
        place = replicas.own_place(len(table.copies))
        if place in self._left:
            if self._left[place][0] is context:
                raise ValueError(
                    f"{checks.caller}: expected one call of the layer in each step on "
                    f"{table.replicas} replicas, found two; call it once on the rows of both"
                )
            self._left.clear()  # by a step that failed
        self._left[place] = context, graph, batch
        if len(self._left) < table.replicas:
            return
        left = [self._left[place] for place in range(table.replicas)]
        self._left.clear()
        if any(other is not graph for _, other, _ in left):
            raise ValueError(
                f"{checks.caller}: on {table.replicas} replicas, call the layer directly in the "
                "function that strategy.run calls, not in a tf.function or tf.cond inside it"
            )
        embeds, labels = (
            tf.concat([getattr(own, field) for _, _, own in left], axis=0)
            for field in ("embeds", "labels")
        )
        joined = batch._replace(embeds=embeds, labels=labels)
        for copy in table.copies:
            with tf.device(copy[0].ctrs.device):
                own = table._replace(copies=(copy,), replicas=1)
                update_table(checks, own, updater, joined, "before", False)


def takes_turns(checks: Checks, table: Table, training: Any) -> bool:
    """Whether an update of this table on several replicas has to go through `Turns`.

    Raises:
      ValueError: several replicas, on which Keras would make another model than one process.
    """
    if table.replicas == 1 or not _KERAS3:
        return False
    if _KERAS3 < [3, 10]:
        raise ValueError(
            f"{checks.caller}: expected Keras 3.10 or later on {table.replicas} replicas, found "
            f"{VERSION}, which makes other losses of replicas than of one process"
        )
    if len(table.copies) == 1:
        return False
    if len(table.copies) < table.replicas:
        raise ValueError(
            f"{checks.caller}: expected one replica on each machine, found {len(table.copies)} "
            "here, whose losses Keras 3 would mix up; start a worker for each replica, use Keras 2 "
            "(tf_keras), or get_embed_centers in a training loop of your own"
        )
    if tf.is_tensor(training):
        raise ValueError(
            f"{checks.caller}: training must be a Python bool on {table.replicas} replicas, got "
            f"{training!r}"
        )
    return True


def mean(distances: tf.Tensor, mask: Optional[tf.Tensor], caller: str) -> tf.Tensor:
    """The mean of the unmasked distances.

    Keras weighs the mean of each replica by its number of rows to report a loss, but not to train.
    So on several replicas, the gradient is that of the mean of all rows.
    """
    several = replicas.count_here()
    size = tf.size(distances) if mask is None else tf.math.count_nonzero(mask)
    num_rows = tf.cast(size, distances.dtype)
    if several > 1 and mask is not None:
        raise ValueError(
            f"{caller}: expected no mask on {several} replicas, found one; Keras weighs the mean "
            "of each replica by its rows, masked or not. Drop masked rows before the layer, or use "
            "get_embed_centers in a training loop of your own"
        )

    def mean_of(total: tf.Tensor) -> tf.Tensor:
        return total / tf.maximum(num_rows, 1)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def mean_of_replicas(total: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            sizes = replicas.gather(tf.reshape(num_rows, [1]))
            return several * upstream / tf.maximum(tf.reduce_sum(sizes), 1)

        return mean_of(total), gradient

    return (mean_of if several == 1 else mean_of_replicas)(tf.reduce_sum(distances))
