"""The data of the training script: IDX files of every kind and damage, the sample, the batches."""

import gzip
import os
import struct
import tempfile
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_files import TYPES, idx_bytes, write_folder
from mnist.config import InputError
from mnist.data import Batches, Digits, load_digits

# Of its own: the other files of the folder, a gzip reader, a chunk, an error message.
OVERHEAD_BYTES = 4 << 20
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def write(folder, name, content):
    path = os.path.join(str(folder), name)
    with gzip.open(path, "wb") if name.endswith(".gz") else open(path, "wb") as file:
        file.write(content)
    return path


@pytest.fixture
def folder(tmp_path):
    """A good data set of 4 images to train on."""
    write_folder(str(tmp_path), num_train=4, size=(3, 5))
    return tmp_path


def replace(folder, name, content):
    for path in folder.glob("-".join(name.replace(".idx", "-idx").split("-")[:2]) + "*"):
        path.unlink()
    return write(folder, name, content)


@pytest.mark.parametrize("zipped", [False, True])
def test_folder(zipped, tmp_path):
    write_folder(str(tmp_path), num_train=7, num_test=3, size=(6, 9), classes=4, zipped=zipped)
    digits = load_digits(str(tmp_path))
    assert digits.train_images.shape == (7, 6, 9) and digits.test_images.shape == (3, 6, 9)
    assert digits.train_images.dtype == np.uint8 and digits.train_labels.dtype == np.int64
    assert digits.num_classes == 4 and digits.train_labels.tolist() == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_layout_by_hand(end, folder):
    header = b"\0\0\x08\x03" + b"\0\0\0\x04" + b"\0\0\0\x03" + b"\0\0\0\x05"
    replace(folder, IMAGES + end, header + bytes(range(60)))
    # Two bytes to the element, big-endian.
    replace(folder, LABELS + end, b"\0\0\x0b\x01\0\0\0\x04" + b"\x01\x02\0\0\0\x07\0\x01")
    digits = load_digits(str(folder))
    np.testing.assert_array_equal(digits.train_images, np.arange(60).reshape(4, 3, 5))
    assert digits.train_labels.tolist() == [258, 0, 7, 1] and digits.num_classes == 259


@pytest.mark.parametrize(
    "dtype, largest",
    [("uint8", 255), ("int8", 127), ("int16", 32767), ("int32", 32768), ("int32", 65535)],
)
@pytest.mark.parametrize("name", ["-idx1-ubyte", "-idx1-short.gz", ".idx1-int"])
def test_label_types(dtype, largest, name, folder):
    labels = np.array([3, largest, 0, 5], dtype)
    replace(folder, "train-labels" + name, idx_bytes(labels))
    digits = load_digits(str(folder))
    assert digits.train_labels.tolist() == labels.tolist() and digits.num_classes == largest + 1


def test_an_unpacked_file_beside_its_gz(folder):
    write(folder, LABELS + ".gz", b"not looked at")
    assert load_digits(str(folder)).num_classes == 3


@pytest.mark.parametrize(
    "labels, found",
    [
        (np.array([3, 0, -2, -1], np.int8), "-2"),
        (np.array([0, 1, 2, -(2**31)], np.int32), "-2147483648"),
        (np.array([0, 65536, 1, 2], np.int32), "65536"),
    ],
)
def test_labels_out_of_range(labels, found, folder):
    path = replace(folder, LABELS, idx_bytes(labels))
    with pytest.raises(InputError) as error:
        load_digits(str(folder))
    assert str(error.value) == f"{path}: expected labels in [0, 65535], found {found}"


def test_what_does_not_fit_together(folder):
    with pytest.raises(InputError, match="--data_dir=.*nowhere: expected a folder"):
        load_digits(str(folder / "nowhere"))
    replace(folder, LABELS, idx_bytes(np.arange(5, dtype=np.uint8)))
    with pytest.raises(InputError, match="train-labels.*expected a label per image, 4, found 5"):
        load_digits(str(folder))
    replace(folder, LABELS, idx_bytes(np.arange(4, dtype=np.uint8)))
    replace(folder, "t10k-images-idx3-ubyte", idx_bytes(np.zeros([6, 2, 2], np.uint8)))
    with pytest.raises(InputError, match=r"one size, found \(3, 5\) and \(2, 2\)"):
        load_digits(str(folder))
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(InputError, match="expected a file t10k-images-idx3-ubyte .*found none"):
        load_digits(str(folder))


GOOD = idx_bytes(np.arange(60, dtype=np.uint8).reshape(4, 3, 5))
DAMAGED = {
    "empty": (b"", "found nothing"),
    "three bytes": (GOOD[:3], "found 000008"),
    "header cut": (GOOD[:10], "expected an IDX header"),
    "another file": (b"\x89PNG" + GOOD[4:], "begins with 00000803, found 89504e47"),
    "floats": (b"\0\0\x0d\x03" + GOOD[4:], "begins with 00000803, found 00000d03"),
    "two dimensions": (b"\0\0\x08\x02" + GOOD[4:], "begins with 00000803, found 00000802"),
    "one byte short": (GOOD[:-1], "expected 60 bytes after the header, found 59"),
    "one byte long": (GOOD + b"x", "expected 60 bytes after the header, found more"),
    "no images": (GOOD[:4] + struct.pack(">3I", 0, 3, 5), r"header of \(0, 3, 5\)"),
    "a lying header": (
        GOOD[:4] + struct.pack(">3I", 1, 2**16, 2**16) + GOOD[16:],
        "expected 4294967296 bytes after the header, found 60",
    ),
    "a header beyond any memory": (
        GOOD[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + GOOD[16:],
        "expected 1 to 4294967296 bytes, found a header of",
    ),
}


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("damage", sorted(DAMAGED))
def test_damaged_file(damage, end, folder):
    content, message = DAMAGED[damage]
    replace(folder, IMAGES + end, content)
    with pytest.raises(InputError, match=f"{IMAGES}.*{message}"):
        load_digits(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-4],
        lambda data: GOOD,
        lambda data: data[:-6] + b"xx" + data[-4:],
        lambda data: data[:12] + bytes([data[12] ^ 255]) + data[13:],
    ],
    ids=["half", "no length", "not gzip", "checksum", "flipped"],
)
def test_damaged_gzip(change, folder):
    path = replace(folder, IMAGES + ".gz", b"")
    with open(path, "wb") as file:
        file.write(change(gzip.compress(GOOD)))
    with pytest.raises(InputError, match=f"{IMAGES}.gz: expected .*found") as error:
        load_digits(str(folder))
    assert "\n" not in str(error.value)


def load_in_little_memory(folder, bound):
    """What `load_digits` returns, or the message of its `InputError`."""
    tracemalloc.start()
    try:
        outcome = load_digits(str(folder))
    except InputError as error:
        outcome = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < bound
    return outcome


def test_no_more_is_read_than_the_header_promises(folder):
    replace(folder, IMAGES + ".gz", GOOD + bytes(64 << 20))
    assert "found more" in load_in_little_memory(folder, OVERHEAD_BYTES)
    replace(folder, IMAGES, GOOD[:4] + struct.pack(">3I", 1, 2**16, 2**16))
    assert "found 0" in load_in_little_memory(folder, OVERHEAD_BYTES)


def decode_labels(content, zipped):
    """The labels of a file, read slowly and by the letter; None if it is not a good one."""
    if zipped:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return None
    letters = {code: letter for code, letter in TYPES.values()}
    if len(content) < 8 or content[:2] != b"\0\0" or content[3] != 1 or content[2] not in letters:
        return None
    (count,), letter = struct.unpack(">I", content[4:8]), letters[content[2]]
    if count != 4 or len(content) - 8 != count * struct.calcsize(f">{letter}"):
        return None
    labels = list(struct.unpack(f">{count}{letter}", content[8:]))
    return labels if 0 <= min(labels) and max(labels) < 65536 else None


@st.composite
def mutated_files(draw):
    """A label file's bytes, and whether it is zipped."""
    name = draw(st.sampled_from(sorted(TYPES)))
    content = bytearray(idx_bytes(np.array([3, 0, draw(st.integers(0, 127)), 1], name)))
    for _ in range(draw(st.integers(0, 2))):
        content[draw(st.integers(0, 7))] = draw(st.integers(0, 255))
    zipped = draw(st.booleans())
    if zipped:
        packer = zlib.compressobj(
            draw(st.sampled_from([0, 1, 9])), zlib.DEFLATED, 16 + zlib.MAX_WBITS
        )
        content = bytearray(packer.compress(bytes(content)) + packer.flush())
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        mutation = draw(st.sampled_from(["flip", "cut", "insert", "delete", "append"]))
        if mutation == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif mutation == "cut":
            del content[place:]
        elif mutation == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=6))
        elif mutation == "delete":
            del content[place : place + draw(st.integers(1, 6))]
        elif mutation == "append":
            content += draw(st.sampled_from([b"\0", b"\0" * 9, b"junk", bytes(content)]))
    return bytes(content), zipped


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(mutated_files())
def test_mutated_files(case):
    """Each is the right array, or an `InputError`, in little memory."""
    content, zipped = case
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, num_train=4, size=(3, 5))
        os.remove(os.path.join(folder, LABELS))
        path = os.path.join(folder, LABELS + (".gz" if zipped else ""))
        with open(path, "wb") as file:
            file.write(content)
        outcome = load_in_little_memory(folder, OVERHEAD_BYTES)
    expected = decode_labels(content, zipped)
    if expected is None:
        assert isinstance(outcome, str) and path in outcome and "\n" not in outcome
    else:
        assert outcome.train_labels.tolist() == expected


def test_sample():
    digits = load_digits("")
    assert digits.train_images.shape == (4000, 28, 28) and digits.test_images.shape[0] == 1000
    assert np.bincount(digits.train_labels).tolist() == [400] * 10
    assert np.bincount(digits.test_labels).tolist() == [100] * 10
    assert len(np.unique(digits.train_labels[:40])) > 5  # shuffled
    assert digits.crc32() == load_digits("").crc32()
    train = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train for image in digits.test_images)


def test_every_pixel_and_label_is_part_of_the_checksum(folder):
    digits = load_digits(str(folder))
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        changed = getattr(digits, name).copy()
        changed.flat[-1] ^= 1
        assert digits._replace(**{name: changed}).crc32() != digits.crc32()


def make_batches(seed=1, max_shift=0, worker=0):
    images = np.arange(10 * 4 * 4, dtype=np.uint8).reshape(10, 4, 4)
    digits = Digits("", images, np.arange(10), images, np.arange(10), 10)
    return Batches(digits, 3, seed, max_shift, worker)


def test_batches_are_a_function_of_seed_worker_and_step():
    first, other = make_batches(max_shift=1), make_batches(max_shift=1)
    steps = [0, 7, 3, 100, 7, 2]
    found = {step: first.at(step) for step in steps}
    for step in reversed(steps):
        for one, two in zip(found[step], other.at(step)):
            np.testing.assert_array_equal(one, two)
    labels = [
        [batches.at(step)[1].tolist() for step in range(6)]
        for batches in (make_batches(), make_batches(seed=2), make_batches(worker=1))
    ]
    assert labels[0] != labels[1] and labels[0] != labels[2] and labels[1] != labels[2]


def test_an_epoch_holds_no_row_twice():
    batches = make_batches()
    for epoch in range(4):
        labels = np.concatenate([batches.at(3 * epoch + step)[1] for step in range(3)])
        assert len(set(labels.tolist())) == 9
    images, labels = batches.at(1)
    np.testing.assert_array_equal(images[:, 0, 0], 16 * labels)


def test_shifts_move_zeros_in():
    batches, plain = make_batches(max_shift=1), make_batches()
    seen = set()
    for step in range(40):
        images, _ = batches.at(step)
        originals, _ = plain.at(step)
        for image, original in zip(images, originals):
            padded = np.pad(original, 1, mode="constant")
            shifts = [
                (down, right)
                for down in range(3)
                for right in range(3)
                if np.array_equal(padded[down : down + 4, right : right + 4], image)
            ]
            assert shifts
            seen.update(shifts)
    assert len(seen) == 9
