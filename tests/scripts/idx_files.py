"""Writes small folders of IDX files, as a stranger to the reader under test would."""

import gzip
import os
import struct

import numpy as np


def idx_bytes(array):
    """An array of unsigned bytes as an IDX file."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + bytes(array.ravel().tolist())


def write_folder(folder, num_train=40, num_test=6, size=(8, 7), classes=3, zipped=False):
    """A data set whose classes differ by their brightness."""
    rng = np.random.RandomState(0)
    for part, count in (("train", num_train), ("t10k", num_test)):
        labels = (np.arange(count) % classes).astype(np.uint8)
        noise = rng.randint(0, 40, (count,) + tuple(size))
        images = (noise + 60 * labels[:, None, None]).astype(np.uint8)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            path = os.path.join(folder, f"{part}-{kind}") + (".gz" if zipped else "")
            with gzip.open(path, "wb") if zipped else open(path, "wb") as file:
                file.write(idx_bytes(array))
