"""The script's data: the IDX reader against every kind of damage, the sample, the batches."""

import gzip
import os
import struct
import sys

import numpy as np
import pytest

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_data  # noqa: E402
import mnist_idx  # noqa: E402
from idx_files import idx_bytes, write_folder  # noqa: E402
from mnist_run import InputError  # noqa: E402

IMAGES = np.arange(4 * 3 * 5, dtype=np.uint8).reshape(4, 3, 5)


def _write(folder, name, content, zipped=False):
    path = os.path.join(str(folder), name)
    with gzip.open(path, "wb") if zipped else open(path, "wb") as file:
        file.write(content)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("array", [IMAGES, IMAGES[0], IMAGES[0, 0]], ids=["3", "2", "1"])
def test_round_trip(name, array, tmp_path):
    path = _write(tmp_path, name, idx_bytes(array), name.endswith(".gz"))
    found = mnist_idx.read_idx(path, array.ndim)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


def test_layout_by_hand(tmp_path):
    # Two rows of three: zeros, unsigned byte, two dimensions; 2; 3; the elements.
    path = _write(tmp_path, "x", b"\0\0\x08\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + b"abcdef")
    assert mnist_idx.read_idx(path, 2).tolist() == [[97, 98, 99], [100, 101, 102]]


GOOD = idx_bytes(IMAGES)
DAMAGED = {
    "empty": (b"", "expected an IDX header, found 0 bytes"),
    "three bytes": (GOOD[:3], "expected an IDX header, found 3 bytes"),
    "another magic number": (b"\x89PNG" + GOOD[4:], "two zero bytes, found 89504e47"),
    "floats": (b"\0\0\x0d\x03" + GOOD[4:], "unsigned byte .*found 32-bit float"),
    "no element type": (b"\0\0\x77\x03" + GOOD[4:], "unsigned byte .*found unknown"),
    "two dimensions": (b"\0\0\x08\x02" + GOOD[4:], "expected 3 dimensions, found 2"),
    "header cut": (GOOD[:10], "expected 3 sizes in the header"),
    "one byte short": (GOOD[:-1], "expected 60 bytes after a header of 4x3x5, found 59"),
    "one byte long": (GOOD + b"x", "expected 60 bytes after a header of 4x3x5, found more"),
    "no images": (GOOD[:4] + struct.pack(">3I", 0, 3, 5), "sizes of at least 1, found 0x3x5"),
    "a lying header": (
        GOOD[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + GOOD[16:],
        "after a header of 4294967295x4294967295x4294967295, found 60",
    ),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_damaged_file(damage, zipped, tmp_path):
    content, message = DAMAGED[damage]
    path = _write(tmp_path, "images.gz" if zipped else "images", content, zipped)
    with pytest.raises(InputError, match="images.*" + message):
        mnist_idx.read_idx(path, 3)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data[: len(data) // 2], "truncated|damage"),
        (lambda data: data[:-4], "truncated"),
        (lambda data: GOOD, "expected a readable file, found: Not a gzipped file"),
        (lambda data: data[:-6] + b"xx" + data[-4:], "CRC check failed"),
        (lambda data: data[:12] + bytes([data[12] ^ 255]) + data[13:], "found"),
    ],
    ids=["half", "no length", "not gzip", "checksum", "flipped"],
)
def test_damaged_gzip(change, message, tmp_path):
    path = _write(tmp_path, "images.gz", change(gzip.compress(GOOD)))
    with pytest.raises(InputError, match=message):
        mnist_idx.read_idx(path, 3)


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
