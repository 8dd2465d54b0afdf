"""Running averages of labeled embeddings as TensorFlow graph ops.

`get_embed_centers` mirrors the gather / scatter_sub recipe of center loss (Wen et al., "A
Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016) and returns one
center per row of a batch; an updater says what weight each row has.
"""

from tf_centers.centers import EmbedCenters
from tf_centers.distances import NearestCenters, center_distances, nearest_centers
from tf_centers.losses import center_loss
from tf_centers.ops import get_embed_centers, lookup_embed_centers, update_embed_centers
from tf_centers.summaries import summarize_centers
from tf_centers.updaters import CumulativeMean, ExponentialWindow, Updater, WenUpdate
from tf_centers.variables import create_embed_centers
from tf_centers.version import __version__ as __version__

__all__ = [
    "CumulativeMean",
    "EmbedCenters",
    "ExponentialWindow",
    "NearestCenters",
    "Updater",
    "WenUpdate",
    "center_distances",
    "center_loss",
    "create_embed_centers",
    "get_embed_centers",
    "lookup_embed_centers",
    "nearest_centers",
    "summarize_centers",
    "update_embed_centers",
]
