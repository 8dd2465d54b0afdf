"""The test digits in TensorBoard's projector: their embeddings, classes and images."""

import math
import os

import numpy as np
from matplotlib import image

from mnist.config import replacing
from mnist.evaluation import Evaluation

# The projector takes no larger sprite, in pixels a side.
_SPRITE_PIXELS = 8192
# As text: newer TensorFlow comes without the protocol buffer of the projector.
_CONFIG = """\
embeddings {{
  tensor_name: "test embeddings" tensor_shape: {0} tensor_shape: {1}
  tensor_path: "projector_embeddings.tsv" metadata_path: "projector_metadata.tsv"
  sprite {{ image_path: "projector_sprite.png" single_image_dim: {2} single_image_dim: {3} }}
}}
"""


def write_projector(model_dir: str, images: np.ndarray, evaluation: Evaluation) -> None:
    """Writes what the projector reads. Each file is replaced as a whole, the configuration last.

    Of the test images [M, H, W] of an evaluation, the first that fit into a sprite are shown.
    """
    height, width = images.shape[1:]
    images = images[: max(1, _SPRITE_PIXELS // max(height, width)) ** 2]
    rows = len(images)
    missing = max(0, 3 - evaluation.embeddings.shape[1])  # The projector draws three dims.
    embeddings = np.pad(evaluation.embeddings[:rows], ((0, 0), (0, missing)), mode="constant")
    classes = np.column_stack([evaluation.labels, evaluation.predictions, evaluation.nearest])
    path = os.path.join(model_dir, "projector_")
    with replacing(f"{path}embeddings.tsv") as beside:
        np.savetxt(beside, embeddings, fmt="%.9g", delimiter="\t")
    with replacing(f"{path}metadata.tsv") as beside:
        header = "label\tsoftmax\tnearest_center"
        np.savetxt(beside, classes[:rows], "%d", "\t", header=header, comments="")
    with replacing(f"{path}sprite.png") as beside:
        image.imsave(beside, _tile(images), cmap="gray", vmin=0, vmax=255, format="png")
    with replacing(f"{path}config.pbtxt") as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(_CONFIG.format(rows, embeddings.shape[1], width, height))


def _tile(images: np.ndarray) -> np.ndarray:
    """Puts images [M, H, W] into one, row by row, dark on white: the projector tints the white.

    With as many rows as columns, even if some are empty: the projector takes one for the other.
    """
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1:]
    tiles = np.full([side * side, height, width], 255, np.uint8)
    tiles[: len(images)] -= images
    grid = tiles.reshape(side, side, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(side * height, side * width)
