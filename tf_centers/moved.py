"""What an update comes to, once it has been built."""

from typing import Any, List, NamedTuple, Optional

import tensorflow.compat.v1 as tf


class Moved(NamedTuple):
    """An update that has been built.

    Attributes:
      rows: `[B, D]`, the centers of the rows of the batch as the caller wants to read them: to be
        used after `writes`. None where nothing was to be read.
      writes: what has to run for the update to be done.
    """

    rows: Optional[tf.Tensor]
    writes: List[Any]
