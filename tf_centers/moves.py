"""How the centers of a batch move, by one of three formulations of one recipe."""

from typing import Optional

import tensorflow.compat.v1 as tf

from tf_centers.by_class import move_by_class
from tf_centers.by_group import move_by_group
from tf_centers.by_row import move_by_row
from tf_centers.checks import Checks
from tf_centers.moved import Moved
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import Updater

# Up to so many classes, a batch is expected to repeat most of its own.
_FEW_CLASSES = 2048
# Up to so many, of so few dimensions, a row for every class there is costs less than grouping.
_VERY_FEW_CLASSES = 16
_FEW_DIMS = 16


def move_centers(
    checks: Checks,
    centers: EmbedCenters,
    updater: Updater,
    embeds: tf.Tensor,
    labels: tf.Tensor,
    read: Optional[str],
) -> Moved:
    """Moves the centers of checked `labels [B]` by `embeds [B, D]` of their dtype.

    Args:
      checks: the checks that have to pass before anything is written.
      centers: what to move.
      updater: gives the weights of the rows; prepared.
      embeds: `[B, D]`, not yet known to be finite.
      labels: `[B]`, each in [0, C).
      read: "after", "before" or None.
    """
    num_classes, num_dims = centers.ctrs.shape.as_list()
    if num_classes <= _VERY_FEW_CLASSES and num_dims <= _FEW_DIMS:
        move = move_by_class
    elif num_classes <= _FEW_CLASSES:
        move = move_by_group
    else:
        move = move_by_row
    return move(checks, centers, updater, embeds, labels, read)
