# pyright: standard, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers see of the installed package, in `nox -s packages pyright`; nothing runs it.

Each line with a comment `type: ignore` is a mistake. Where types got lost, mypy and pyright would
miss it, and complain of a comment that is of no use.
"""

from typing import Any, List, Optional, Tuple

import numpy as np

import tf_centers
from tf_centers.keras import ComputeCenter
from tf_centers.typing import CentersLike, Rate, Read, TensorLike

centers: tf_centers.EmbedCenters = tf_centers.create_embed_centers(3, num_dims=2)
updater = tf_centers.ExponentialWindow(0.9, debias=True)
duplicates: str = updater.duplicates
rows = tf_centers.get_embed_centers([[1.0, 2.0]], [0], updater, centers, read="before")
tf_centers.get_embed_centers(np.ones([1, 2]), np.zeros(1, int), None, centers.ctrs, mask=[True])
tf_centers.update_embed_centers(rows, (0, 1), tf_centers.FadingMean(rows[0, 0]), "embed")
nearest: tf_centers.NearestCenters = tf_centers.nearest_centers([[1.0, 2.0]], centers, k=2)
layer: ComputeCenter = ComputeCenter(3, tf_centers.WenUpdate(), weight=0.5, name="centers")
version: str = tf_centers.__version__


def measure(embeds: TensorLike, labels: TensorLike, table: CentersLike, when: Read) -> None:
    rows = tf_centers.get_embed_centers(embeds, labels, None, table, read=when)
    tf_centers.center_loss(embeds, rows)


class Halfway(tf_centers.Updater):
    count_decay: Optional[Rate] = 0.5

    def row_weights(self, rows: tf_centers.Rows) -> Any:
        return 0.5 / rows.sizes + rows.rate("decay", 0.9)


tf_centers.create_embed_centers("3", 2)  # type: ignore[arg-type]
tf_centers.create_embed_centers(3)  # type: ignore[call-arg]
tf_centers.create_embed_centers(3, 2, initial_counts="1")  # type: ignore[arg-type]
tf_centers.create_embed_centers(3, 2, constraint=0.5)  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], [0], updater="mean")  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], [0], read="befor")  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], [0], is_training="no")  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], [0], mask="0")  # type: ignore[arg-type]
tf_centers.get_embed_centers("embeds", [0])  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], None)  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], [0], centers=3)  # type: ignore[arg-type]
tf_centers.get_embed_centers([[1.0]], [0], centers=np.ones([3, 1]))  # type: ignore[arg-type]
tf_centers.update_embed_centers([[1.0]], [0], use_locking="no")  # type: ignore[arg-type]
tf_centers.lookup_embed_centers([0], centres="embed")  # type: ignore[call-arg]
tf_centers.center_loss([[1.0]])  # type: ignore[call-arg]
tf_centers.center_distances([[1.0]], name=3)  # type: ignore[arg-type]
tf_centers.nearest_centers([[1.0]], k="2")  # type: ignore[arg-type]
tf_centers.summarize_centers(name=3)  # type: ignore[arg-type]
tf_centers.warm_start_embed_centers(3)  # type: ignore[arg-type]
tf_centers.ExponentialWindow("0.9")  # type: ignore[arg-type]
tf_centers.ExponentialWindow(0.9, debias="yes")  # type: ignore[arg-type]
tf_centers.ExponentialWindow(0.9, duplicates="last")  # type: ignore[arg-type]
tf_centers.CumulativeMean(0.9)  # type: ignore[call-arg]
tf_centers.FadingMean(None)  # type: ignore[arg-type]
rate: float = tf_centers.WenUpdate(0.5).decay  # type: ignore[attr-defined]
ComputeCenter("3")  # type: ignore[arg-type]
ComputeCenter(3, weight="0.5")  # type: ignore[arg-type]
ComputeCenter(3, initializer=0.5)  # type: ignore[arg-type]
wrong: List[int] = tf_centers.create_embed_centers(3, 2)  # type: ignore[assignment]
pair: Tuple[str, str] = nearest.label  # type: ignore[attr-defined]


class Wrong(tf_centers.Updater):
    def row_weights(self, rows: int) -> Any:  # type: ignore[override]
        return rows


class WrongToo(tf_centers.Updater):
    def row_weights(self, rows: tf_centers.Rows) -> Any:
        return rows.size  # type: ignore[attr-defined]
