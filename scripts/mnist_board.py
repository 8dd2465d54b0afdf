"""What TensorBoard shows of a run: its summaries, and the test digits in the projector."""

import math
import os
from typing import Any, Dict

import numpy as np
import tensorflow.compat.v1 as tf
from mnist_checkpoints import writing_events
from mnist_evaluation import Evaluation
from mnist_run import replacing

# The projector takes no larger sprite, in pixels a side.
_SPRITE_PIXELS = 8192
# Of larger images every second or third pixel is enough, so that more of them fit.
_THUMBNAIL_PIXELS = 64
# The projector draws nothing in three dims where the third is missing.
_LEAST_DIMS = 3
_EMBEDDINGS, _METADATA, _SPRITE = (
    f"projector_{name}" for name in ("embeddings.tsv", "metadata.tsv", "sprite.png")
)
# Written by hand: newer TensorFlow comes without TensorBoard, and reads no file of its own.
_CONFIG = """\
embeddings {{
  tensor_name: "test embeddings"
  tensor_shape: {rows}
  tensor_shape: {dims}
  tensor_path: "{embeddings}"
  metadata_path: "{metadata}"
  sprite {{
    image_path: "{sprite}"
    single_image_dim: {width}
    single_image_dim: {height}
  }}
}}
"""


def add_scalars(model_dir: str, group: str, values: Dict[str, Any], step: int) -> None:
    """Adds one curve point for each value that is not None, under `<group>/<name>`.

    Raises:
      InputError: `model_dir` cannot be written.
    """
    summary = tf.Summary()
    for name, value in values.items():
        if value is not None:
            summary.value.add(tag=f"{group}/{name}", simple_value=value)
    with writing_events(model_dir) as writer:
        writer.add_summary(summary, step)


def write_projector(model_dir: str, images: np.ndarray, evaluation: Evaluation) -> None:
    """Writes what TensorBoard's projector reads: points, their classes, pictures, configuration.

    Of more images than a sprite of 8192 x 8192 pixels holds, the first that fit are shown. Each
    file is replaced as a whole, the configuration last.

    Args:
      model_dir: the folder that TensorBoard is called with.
      images: uint8 [M, H, W], the test images.
      evaluation: of the same images.
    """
    stride = -(-max(images.shape[1:]) // _THUMBNAIL_PIXELS)
    images = images[:, ::stride, ::stride]
    height, width = images.shape[1:]
    images = images[: (_SPRITE_PIXELS // max(height, width)) ** 2]
    rows = len(images)
    embeddings = evaluation.embeddings[:rows]
    missing = max(0, _LEAST_DIMS - embeddings.shape[1])
    embeddings = np.pad(embeddings, ((0, 0), (0, missing)), mode="constant")
    columns = (evaluation.labels, evaluation.predictions, evaluation.nearest)
    classes = np.column_stack([column[:rows] for column in columns])
    sprite = _encode_png(make_sprite(images))

    with replacing(os.path.join(model_dir, _EMBEDDINGS)) as beside:
        np.savetxt(beside, embeddings, fmt="%.9g", delimiter="\t")
    with replacing(os.path.join(model_dir, _METADATA)) as beside:
        header = "label\tsoftmax\tnearest_center"
        np.savetxt(beside, classes, fmt="%d", delimiter="\t", header=header, comments="")
    with replacing(os.path.join(model_dir, _SPRITE)) as beside:
        with open(beside, "wb") as file:
            file.write(sprite)
    config = _CONFIG.format(
        rows=rows,
        dims=embeddings.shape[1],
        embeddings=_EMBEDDINGS,
        metadata=_METADATA,
        sprite=_SPRITE,
        width=width,
        height=height,
    )
    with replacing(os.path.join(model_dir, "projector_config.pbtxt")) as beside:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(config)


def make_sprite(images: np.ndarray) -> np.ndarray:
    """Puts images [M, H, W] into one, row by row, dark on white: the projector tints the white.

    There are as many rows as columns, be some of them empty: the projector takes one for the other.
    """
    side = math.ceil(math.sqrt(len(images)))
    height, width = images.shape[1:]
    tiles = np.full([side * side, height, width], 255, np.uint8)
    tiles[: len(images)] -= images
    grid = tiles.reshape(side, side, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(side * height, side * width)


def _encode_png(image: np.ndarray) -> bytes:
    with tf.Graph().as_default(), tf.Session() as session:
        pixels = tf.placeholder(tf.uint8, [None, None, 1])
        return bytes(session.run(tf.image.encode_png(pixels), {pixels: image[:, :, np.newaxis]}))
