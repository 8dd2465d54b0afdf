"""The script's data: folders of IDX files, the sample, the batches."""

import gzip
import os
import sys

import numpy as np
import pytest

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_data  # noqa: E402
from idx_files import idx_bytes, write_folder  # noqa: E402
from mnist_run import InputError  # noqa: E402


def _write(folder, name, content, zipped=False):
    path = os.path.join(str(folder), name)
    with gzip.open(path, "wb") if zipped else open(path, "wb") as file:
        file.write(content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_folder(zipped, tmp_path):
    write_folder(str(tmp_path), num_train=7, num_test=3, size=(6, 9), classes=4, zipped=zipped)
    digits = mnist_data.load_folder(str(tmp_path))
    assert digits.train_images.shape == (7, 6, 9) and digits.test_images.shape == (3, 6, 9)
    assert digits.num_classes == 4 and digits.train_labels.dtype == np.int64


def test_folder_errors(tmp_path):
    folder = str(tmp_path / "data")
    with pytest.raises(InputError, match="--data_dir=.*found nothing there"):
        mnist_data.load_folder(folder)
    os.mkdir(folder)
    with pytest.raises(InputError, match="expected a file train-images-idx3-ubyte or"):
        mnist_data.load_folder(folder)
    write_folder(folder)
    labels = os.path.join(folder, "t10k-labels-idx1-ubyte")
    os.remove(labels)
    with pytest.raises(InputError, match="expected a file t10k-labels-idx1-ubyte or"):
        mnist_data.load_folder(folder)
    _write(folder, "t10k-labels-idx1-ubyte", idx_bytes(np.arange(5, dtype=np.uint8)))
    with pytest.raises(InputError, match="t10k-labels.*expected 6 labels.*found 5"):
        mnist_data.load_folder(folder)
    _write(folder, "t10k-labels-idx1-ubyte", idx_bytes(np.arange(6, dtype=np.uint8)))
    _write(folder, "t10k-images-idx3-ubyte", idx_bytes(np.zeros([6, 2, 2], np.uint8)))
    with pytest.raises(InputError, match="expected test images of .* pixels.*found 2x2"):
        mnist_data.load_folder(folder)
    with pytest.raises(InputError, match="expected a folder of IDX files, found a file"):
        mnist_data.load_folder(labels)


def _relabel(folder, labels, name="train-labels-idx1-ubyte", zipped=False):
    """Replaces the training labels of a folder that `write_folder` has filled."""
    os.remove(os.path.join(folder, "train-labels-idx1-ubyte"))
    return _write(folder, name, idx_bytes(labels), zipped)


@pytest.mark.parametrize(
    "dtype, largest",
    [("uint8", 255), ("int8", 127), ("int16", 32767), ("int32", 32768), ("int32", 65535)],
)
# What is in a file counts, whatever its suffix.
@pytest.mark.parametrize("suffix", ["-idx1-ubyte", "-idx1-byte", "-idx1-short", ".idx1-int"])
@pytest.mark.parametrize("zipped", [False, True])
def test_label_types(dtype, largest, suffix, zipped, tmp_path):
    write_folder(str(tmp_path), num_train=4)
    labels = np.array([3, largest, 0, 5], dtype)
    _relabel(str(tmp_path), labels, f"train-labels{suffix}" + (".gz" if zipped else ""), zipped)
    digits = mnist_data.load_folder(str(tmp_path))
    assert digits.train_labels.dtype == np.int64 and digits.train_labels.tolist() == labels.tolist()
    assert digits.num_classes == largest + 1


@pytest.mark.parametrize(
    "labels, found",
    [
        (np.array([3, 0, -2, -1], np.int8), "-2 at index 2"),
        (np.array([-3, 0, 0, 1], np.int16), "-3 at index 0"),
        (np.array([0, 1, 2, -(2**31)], np.int32), "-2147483648 at index 3"),
        (np.array([0, 65536, 1, 2], np.int32), "65536 at index 1"),
    ],
)
def test_labels_out_of_range(labels, found, tmp_path):
    write_folder(str(tmp_path), num_train=4)
    path = _relabel(str(tmp_path), labels)
    with pytest.raises(InputError) as error:
        mnist_data.load_folder(str(tmp_path))
    assert str(error.value) == (
        f"{path}: expected labels in [0, 65535], for at most 65536 classes, found {found}, "
        "counted from 0"
    )


def test_labels_under_two_names_are_refused(tmp_path):
    write_folder(str(tmp_path))
    _write(tmp_path, "train-labels-idx1-int.gz", idx_bytes(np.arange(40, dtype=np.int32)), True)
    with pytest.raises(InputError, match="train-labels-idx1-ubyte and train-labels-idx1-int.gz$"):
        mnist_data.load_folder(str(tmp_path))
    # The same file unpacked and packed is one file.
    os.remove(str(tmp_path / "train-labels-idx1-ubyte"))
    _write(tmp_path, "train-labels-idx1-int", idx_bytes(np.arange(40, dtype=np.int32)))
    assert mnist_data.load_folder(str(tmp_path)).num_classes == 40


def test_more_labels_than_images_are_not_read(tmp_path):
    write_folder(str(tmp_path))
    # A header that asks for four billion labels, and nothing behind it to read.
    header = idx_bytes(np.arange(3, dtype=np.uint8))[:4] + b"\xff\xff\xff\xff"
    _write(tmp_path, "train-labels-idx1-ubyte", header)
    with pytest.raises(InputError, match="expected 40 labels, .*-idx3-ubyte, found 42949"):
        mnist_data.load_folder(str(tmp_path))


def test_images_are_unsigned_bytes(tmp_path):
    write_folder(str(tmp_path))
    _write(tmp_path, "train-images-idx3-ubyte", idx_bytes(np.ones([40, 8, 7], np.int16)))
    with pytest.raises(InputError, match=r"images.*type unsigned byte \(0x08\), found 16-bit"):
        mnist_data.load_folder(str(tmp_path))


def test_sample():
    digits = mnist_data.load_sample()
    assert digits.train_images.shape == (4000, 28, 28) and digits.test_images.shape[0] == 1000
    assert np.bincount(digits.train_labels).tolist() == [400] * 10
    assert np.bincount(digits.test_labels).tolist() == [100] * 10
    assert len(np.unique(digits.train_labels[:40])) > 5  # shuffled
    assert digits.crc32() == mnist_data.load_sample().crc32()
    train = {image.tobytes() for image in digits.train_images}
    shared = sum(image.tobytes() in train for image in digits.test_images)
    assert shared == 0


def _batches(seed=1, max_shift=0):
    images = np.arange(10 * 4 * 4, dtype=np.uint8).reshape(10, 4, 4)
    return mnist_data.Batches(images, np.arange(10), 3, seed, max_shift)


def test_batch_is_a_function_of_seed_and_step():
    forward, backward = _batches(max_shift=1), _batches(max_shift=1)
    first = [forward.at(step) for step in range(9)]
    again = [backward.at(step) for step in reversed(range(9))][::-1]
    for (images, labels), (others, other_labels) in zip(first, again):
        np.testing.assert_array_equal(images, others)
        np.testing.assert_array_equal(labels, other_labels)
    other_seed = [_batches(2).at(step)[1].tolist() for step in range(9)]
    assert [labels.tolist() for _, labels in first] != other_seed


def test_every_worker_has_an_order_of_its_own():
    images, labels = np.zeros([10, 4, 4], np.uint8), np.arange(10)
    orders = [
        [
            mnist_data.Batches(images, labels, 3, 1, 0, worker).at(step)[1].tolist()
            for step in range(9)
        ]
        for worker in range(3)
    ]
    assert orders[0] == [_batches().at(step)[1].tolist() for step in range(9)]
    # Nor does another seed give a worker the order of its neighbour.
    orders.append([_batches(2).at(step)[1].tolist() for step in range(9)])
    for place in range(9):
        assert len({tuple(order[place]) for order in orders}) == 4


def test_every_epoch_has_every_row_once():
    batches = _batches()
    for epoch in range(3):
        labels = np.concatenate([batches.at(3 * epoch + place)[1] for place in range(3)])
        assert len(set(labels)) == 9
        images = batches.at(3 * epoch)[0]
        np.testing.assert_array_equal(images[:, 0, 0] // 16, batches.at(3 * epoch)[1])


def test_shift_moves_zeros_in():
    images = np.full([1, 3, 3], 7, np.uint8)
    batches = mnist_data.Batches(images, np.zeros(1, int), 1, 0, max_shift=1)
    sums = {int(batches.at(step)[0].sum()) // 7 for step in range(40)}
    # Not shifted, shifted one way, shifted both ways.
    assert sums == {9, 6, 4}
