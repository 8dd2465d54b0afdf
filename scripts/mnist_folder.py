"""Finds, reads and checks the images and labels of an MNIST-like folder."""

import os
from typing import Dict, Tuple

import numpy as np
from mnist_idx import INTEGERS, open_idx, read_idx
from mnist_run import InputError

MAX_CLASSES = 65536

_IMAGE_KINDS = ("idx3-ubyte",)
# The usual suffixes of the integer types; the file itself says which of them it holds.
_LABEL_KINDS = ("idx1-ubyte", "idx1-byte", "idx1-short", "idx1-int")


def read_part(data_dir: str, part: str) -> Tuple[np.ndarray, np.ndarray]:
    """The images and labels of one part of a data set.

    Args:
      data_dir: the folder.
      part: how the names of the two files begin: "train" or "t10k".

    Returns:
      images: uint8 [N, H, W].
      labels: int64 [N] in [0, MAX_CLASSES).

    Raises:
      InputError: one of the files is missing, is there under two names, or is not what it should
        be.
    """
    image_path = _find(data_dir, f"{part}-images", _IMAGE_KINDS)
    label_path = _find(data_dir, f"{part}-labels", _LABEL_KINDS)
    images = read_idx(image_path, num_dims=3)
    with open_idx(label_path, num_dims=1, types=INTEGERS) as file:
        # Before they are read: there may be many more labels than the images' size bounds.
        if file.shape != images.shape[:1]:
            raise InputError(
                f"{label_path}: expected {len(images)} labels, one for each image in "
                f"{os.path.basename(image_path)}, found {file.shape[0]}"
            )
        labels = file.read().astype(np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
    if len(outside):
        raise InputError(
            f"{label_path}: expected labels in [0, {MAX_CLASSES - 1}], for at most {MAX_CLASSES} "
            f"classes, found {labels[outside[0]]} at index {outside[0]}, counted from 0"
        )
    return images, labels


def _find(data_dir: str, stem: str, kinds: Tuple[str, ...]) -> str:
    found: Dict[str, str] = {}
    for kind in kinds:
        # Some unpackers turn the last dash into a dot.
        for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
            for path in (os.path.join(data_dir, name), os.path.join(data_dir, f"{name}.gz")):
                if os.path.isfile(path):
                    found.setdefault(kind, path)
    if not found:
        others = f" (or {', '.join(kinds[1:])})" if kinds[1:] else ""
        raise InputError(
            f"flag --data_dir={data_dir}: expected a file {stem}-{kinds[0]} or "
            f"{stem}-{kinds[0]}.gz{others}, found none"
        )
    if len(found) > 1:
        names = " and ".join(os.path.basename(path) for path in found.values())
        raise InputError(f"flag --data_dir={data_dir}: expected one file of {stem}, found {names}")
    return next(iter(found.values()))
