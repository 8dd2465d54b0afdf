"""The data of the training script: IDX files and their damage, the sample, the batches."""

import gzip
import os
import struct

import numpy as np
import pytest
from idx_files import idx_bytes, write_folder
from mnist.config import InputError
from mnist.data import Batches, Digits, load_digits

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
GOOD = idx_bytes(np.arange(60, dtype=np.uint8).reshape(4, 3, 5))


@pytest.fixture
def folder(tmp_path):
    """A good data set of 4 images to train on."""
    write_folder(str(tmp_path), num_train=4, size=(3, 5))
    return tmp_path


@pytest.mark.parametrize("zipped", [False, True])
def test_folder(zipped, tmp_path):
    write_folder(str(tmp_path), num_train=7, num_test=3, size=(6, 9), classes=4, zipped=zipped)
    digits = load_digits(str(tmp_path))
    assert digits.train_images.shape == (7, 6, 9) and digits.test_images.shape == (3, 6, 9)
    assert digits.train_images.dtype == np.uint8 and digits.train_labels.dtype == np.int64
    assert digits.num_classes == 4 and digits.train_labels.tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_layout_by_hand(folder):
    header = b"\0\0\x08\x03" + b"\0\0\0\x04" + b"\0\0\0\x03" + b"\0\0\0\x05"
    (folder / IMAGES).write_bytes(header + bytes(range(60)))
    (folder / LABELS).write_bytes(b"\0\0\x08\x01" + b"\0\0\0\x04" + b"\x09\0\x07\x01")
    (folder / (LABELS + ".gz")).write_bytes(b"not looked at")
    (folder / "t10k-labels-idx1-ubyte").rename(folder / "t10k-labels.idx1-ubyte")
    digits = load_digits(str(folder))
    np.testing.assert_array_equal(digits.train_images, np.arange(60).reshape(4, 3, 5))
    assert digits.train_labels.tolist() == [9, 0, 7, 1] and digits.num_classes == 10


def test_what_does_not_fit_together(folder):
    with pytest.raises(InputError, match="--data_dir=.*nowhere: expected a folder"):
        load_digits(str(folder / "nowhere"))
    (folder / LABELS).write_bytes(idx_bytes(np.arange(5, dtype=np.uint8)))
    with pytest.raises(InputError, match="train-labels.*expected a label per image, 4, found 5"):
        load_digits(str(folder))
    (folder / LABELS).write_bytes(idx_bytes(np.arange(4, dtype=np.uint8)))
    test_images = folder / "t10k-images-idx3-ubyte"
    test_images.write_bytes(idx_bytes(np.zeros([6, 2, 2], np.uint8)))
    with pytest.raises(InputError, match=r"one size, found \(3, 5\) and \(2, 2\)"):
        load_digits(str(folder))
    test_images.unlink()
    with pytest.raises(InputError, match="expected a file t10k-images-idx3-ubyte .*found none"):
        load_digits(str(folder))


ZIPPED = gzip.compress(GOOD)
DAMAGES = {
    "empty": ("", b"", "found nothing"),
    "header cut": ("", GOOD[:10], "expected an IDX header"),
    "another file": ("", b"\x89PNG" + GOOD[4:], "begins with 00000803, found 89504e47"),
    "floats": ("", b"\0\0\x0d\x03" + GOOD[4:], "begins with 00000803, found 00000d03"),
    "one byte short": ("", GOOD[:-1], r"expected an array of \(4, 3, 5\), found 59 bytes"),
    "one byte long": (".gz", gzip.compress(GOOD + b"x"), r"of \(4, 3, 5\), found 61 bytes"),
    "no images": ("", GOOD[:4] + struct.pack(">3I", 0, 3, 5), r"of \(0, 3, 5\), found 0 bytes"),
    "beyond any memory": ("", GOOD[:4] + b"\xff" * 12 + GOOD[16:], "found 60 bytes"),
    "half of gzip": (".gz", ZIPPED[: len(ZIPPED) // 2], "expected .*found"),
    "not gzip": (".gz", GOOD, "expected .*found"),
    "checksum": (".gz", ZIPPED[:-6] + b"xx" + ZIPPED[-4:], "expected .*found"),
    "flipped": (".gz", ZIPPED[:12] + bytes([ZIPPED[12] ^ 255]) + ZIPPED[13:], "expected .*found"),
}


@pytest.mark.parametrize("end, content, message", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_file(end, content, message, folder):
    (folder / IMAGES).unlink()
    (folder / (IMAGES + end)).write_bytes(content)
    with pytest.raises(InputError, match=f"{IMAGES}{end}: .*{message}") as error:
        load_digits(str(folder))
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(folder):
    (folder / LABELS).unlink()
    os.mkfifo(str(folder / LABELS))
    with pytest.raises(InputError, match=f"{LABELS}: expected a file"):
        load_digits(str(folder))


def test_sample():
    digits = load_digits("")
    assert digits.train_images.shape == (4000, 28, 28) and digits.test_images.shape[0] == 1000
    assert np.bincount(digits.train_labels).tolist() == [400] * 10
    assert np.bincount(digits.test_labels).tolist() == [100] * 10
    train = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train for image in digits.test_images)


def test_every_pixel_and_label_is_part_of_the_checksum(folder):
    digits = load_digits(str(folder))
    assert digits.crc32() == load_digits(str(folder)).crc32()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(digits, name).copy()
        changed.flat[-1] ^= 1
        assert digits._replace(**{name: changed}).crc32() != digits.crc32()


def make_batches(seed=1, size=4, worker=0):
    """Batches of 3 of 10 images, each of one brightness, and shifted if they are large."""
    labels = np.arange(10)
    images = np.ones([10, size, size], np.uint8) * (9 + 16 * labels[:, None, None]).astype("uint8")
    return Batches(Digits("", images, labels, images, labels, 10), 3, seed, worker)


def test_batches_are_a_function_of_seed_worker_and_step():
    first, other = make_batches(size=28), make_batches(size=28)
    found = {step: first.at(step) for step in (0, 7, 3, 100, 2)}
    for step in reversed(list(found)):
        for one, two in zip(found[step], other.at(step)):
            np.testing.assert_array_equal(one, two)
    sets = make_batches(), make_batches(seed=2), make_batches(worker=1)
    orders = {tuple(np.concatenate([batches.at(step)[1] for step in range(6)])) for batches in sets}
    assert len(orders) == 3


def test_an_epoch_holds_no_row_twice():
    batches = make_batches()
    for epoch in range(4):
        labels = np.concatenate([batches.at(3 * epoch + step)[1] for step in range(3)])
        assert len(set(labels.tolist())) == 9
    images, labels = batches.at(1)
    np.testing.assert_array_equal(images[:, 0, 0], 9 + 16 * labels)


def test_shifts_move_zeros_in():
    batches, seen = make_batches(size=28), set()
    for step in range(40):
        for image, label in zip(*batches.at(step)):
            rows, columns = image.any(axis=1), image.any(axis=0)
            assert (image[np.ix_(rows, columns)] == 9 + 16 * label).all()
            seen.add((rows[0], rows[-1], columns[0], columns[-1]))
            assert rows.sum() >= 27 and columns.sum() >= 27
    assert len(seen) == 9
