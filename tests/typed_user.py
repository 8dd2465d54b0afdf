"""What a type checker sees of the installed package; .ci/run checks this, and nothing runs it.

Each line with a comment `type: ignore` is a mistake. Where types got lost mypy would miss it, and
complain of a comment that is of no use.
"""

from typing import List, Tuple

import tf_centers
from tf_centers.keras import ComputeCenter

centers: tf_centers.EmbedCenters = tf_centers.create_embed_centers(3, num_dims=2)
updater = tf_centers.ExponentialWindow(0.9, debias=True)
duplicates: str = updater.duplicates
rows = tf_centers.get_embed_centers([[1.0, 2.0]], [0], updater, centers, read="before")
nearest: tf_centers.NearestCenters = tf_centers.nearest_centers([[1.0, 2.0]], centers, k=2)
layer: ComputeCenter = ComputeCenter(3, tf_centers.WenUpdate(), weight=0.5, name="centers")
version: str = tf_centers.__version__

tf_centers.create_embed_centers("3", 2)  # type: ignore[arg-type]
tf_centers.create_embed_centers(3)  # type: ignore[call-arg]
tf_centers.get_embed_centers([[1.0]], [0], updater="mean")  # type: ignore[arg-type]
tf_centers.update_embed_centers([[1.0]], [0], use_locking="no")  # type: ignore[arg-type]
tf_centers.lookup_embed_centers([0], centres="embed")  # type: ignore[call-arg]
tf_centers.center_loss([[1.0]])  # type: ignore[call-arg]
tf_centers.center_distances([[1.0]], name=3)  # type: ignore[arg-type]
tf_centers.nearest_centers([[1.0]], k="2")  # type: ignore[arg-type]
tf_centers.summarize_centers(name=3)  # type: ignore[arg-type]
tf_centers.ExponentialWindow(0.9, debias="yes")  # type: ignore[arg-type]
tf_centers.CumulativeMean(0.9)  # type: ignore[call-arg]
rate: float = tf_centers.WenUpdate(0.5).decay  # type: ignore[attr-defined]
ComputeCenter("3")  # type: ignore[arg-type]
wrong: List[int] = tf_centers.create_embed_centers(3, 2)  # type: ignore[assignment]
pair: Tuple[str, str] = nearest.label  # type: ignore[attr-defined]
