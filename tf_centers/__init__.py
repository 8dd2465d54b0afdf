"""Running averages of labeled embeddings as TensorFlow graph ops.

`get_embed_centers` updates the centers of center loss (Wen et al., "A Discriminative Feature
Learning Approach for Deep Face Recognition", ECCV 2016) and returns one center per row of a batch.
An updater decides how much each row weighs.
"""

import importlib.util

if importlib.util.find_spec("tensorflow") is None:
    raise ModuleNotFoundError(
        "tf_centers needs TensorFlow 1.15 or newer, in any of its builds, for example: "
        "pip install tensorflow"
    )

from tf_centers.create import create_embed_centers
from tf_centers.distances import NearestCenters, center_distances, center_loss, nearest_centers
from tf_centers.ops import get_embed_centers, lookup_embed_centers, update_embed_centers
from tf_centers.row_weights import Rows, Updater
from tf_centers.summaries import summarize_centers
from tf_centers.tables import EmbedCenters
from tf_centers.updaters import CumulativeMean, ExponentialWindow, FadingMean, WenUpdate
from tf_centers.version import __version__ as __version__
from tf_centers.warm_start import warm_start_embed_centers

__all__ = [
    "CumulativeMean",
    "EmbedCenters",
    "ExponentialWindow",
    "FadingMean",
    "NearestCenters",
    "Rows",
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
    "warm_start_embed_centers",
]
