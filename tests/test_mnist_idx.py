"""The IDX reader: every element type, every kind of damage, and files mutated at random."""

import gzip
import os
import struct
import sys
import tempfile
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import Phase, Verbosity, given, settings
from hypothesis import strategies as st

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_idx  # noqa: E402
from idx_files import TYPES, idx_bytes  # noqa: E402
from mnist_run import InputError  # noqa: E402

IMAGES = np.arange(4 * 3 * 5, dtype=np.uint8).reshape(4, 3, 5)
# Of its own: what a gzip reader, a chunk and an error message may take, whatever the file.
OVERHEAD_BYTES = 1 << 20


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


@pytest.mark.parametrize(
    "code, element, value",
    [
        (0x08, b"\xfe", 254),
        (0x09, b"\xfe", -2),
        (0x0B, b"\x01\x02", 258),
        (0x0B, b"\xff\xfe", -2),
        (0x0C, b"\x00\x00\xff\xff", 65535),
        (0x0C, b"\xff\xff\xff\xfe", -2),
    ],
)
def test_integers_by_hand(code, element, value, tmp_path):
    path = _write(tmp_path, "x", bytes([0, 0, code, 1, 0, 0, 0, 2]) + 2 * element)
    found = mnist_idx.read_idx(path, 1, mnist_idx.INTEGERS)
    assert found.tolist() == [value, value]
    assert found.dtype.isnative and found.dtype.itemsize == len(element)
    if code != 0x08:
        with pytest.raises(InputError, match=f"x: expected .*unsigned byte .*0x{code:02x}"):
            mnist_idx.read_idx(path, 1)


GOOD = idx_bytes(IMAGES)
SIZE = 2**20
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
        GOOD[:4] + struct.pack(">3I", 1, 2**16, 2**16) + GOOD[16:],
        "expected 4294967296 bytes after a header of 1x65536x65536, found 60",
    ),
    "a header beyond any memory": (
        GOOD[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + GOOD[16:],
        "expected a header of at most 4 GiB in all, found 4294967295x4294967295x4294967295",
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


def _peak_bytes(read):
    """What `read` returns or the `InputError` it raises, and the most memory it held at once."""
    tracemalloc.start()
    try:
        outcome = read()
    except InputError as error:
        outcome = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return outcome, peak


def test_gzip_that_inflates_for_ever_is_left_at_the_size_of_its_header(tmp_path):
    path = _write(tmp_path, "images.gz", GOOD + bytes(32 * SIZE), zipped=True)
    outcome, peak = _peak_bytes(lambda: mnist_idx.read_idx(path, 3))
    assert "found more" in outcome and peak < OVERHEAD_BYTES


@pytest.mark.parametrize("zipped", [False, True])
def test_header_that_asks_for_a_terabyte_is_refused_unread(zipped, tmp_path):
    header = GOOD[:4] + struct.pack(">3I", 2**20, 2**10, 2**10)
    path = _write(tmp_path, "images.gz" if zipped else "images", header, zipped)
    with open(path, "ab") as file:
        file.write(b"no gzip")  # Who reads on stumbles over that.
    outcome, peak = _peak_bytes(lambda: mnist_idx.read_idx(path, 3))
    assert "at most 4 GiB in all, found 1048576x1024x1024" in outcome and peak < OVERHEAD_BYTES


def test_bound_counts_bytes(monkeypatch, tmp_path):
    labels = _write(tmp_path, "labels", idx_bytes(np.arange(5, dtype=np.int32)))
    monkeypatch.setattr(mnist_idx, "MAX_BYTES", 20)
    assert len(mnist_idx.read_idx(labels, 1, mnist_idx.INTEGERS)) == 5
    monkeypatch.setattr(mnist_idx, "MAX_BYTES", 19)
    with pytest.raises(InputError, match="labels: expected a header of at most"):
        mnist_idx.read_idx(labels, 1, mnist_idx.INTEGERS)


def _read_integers(path, num_dims):
    return mnist_idx.read_idx(path, num_dims, mnist_idx.INTEGERS)


def _decode(content, zipped, num_dims):
    """What a file holds, read slowly and by the letter; None where it is not such an array."""
    if zipped:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return None
    codes = {code: (name, letter) for name, (code, letter) in TYPES.items()}
    start = 4 + 4 * num_dims
    if len(content) < start or content[:2] != b"\0\0" or content[3] != num_dims:
        return None
    if content[2] not in codes:
        return None
    name, letter = codes[content[2]]
    shape = struct.unpack(f">{num_dims}I", content[4:start])
    count = 1
    for size in shape:
        count *= size
    if not count or len(content) - start != count * struct.calcsize(f">{letter}"):
        return None
    elements = struct.unpack(f">{count}{letter}", content[start:])
    return np.array(elements, name).reshape(shape)


@st.composite
def _mutated_files(draw):
    """A file's bytes, whether it is zipped, and how many dimensions its reader expects."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    name = draw(st.sampled_from(sorted(TYPES)))
    rng = np.random.RandomState(draw(st.integers(0, 99)))
    array = rng.randint(np.iinfo(name).min, np.iinfo(name).max + 1, shape).astype(name)
    content = bytearray(idx_bytes(array))
    zipped = draw(st.booleans())
    header = 4 + 4 * len(shape)
    sizes = st.sampled_from([0, 1, 2, 3, 2**16, 2**24, 2**31, 2**32 - 1])
    for _ in range(draw(st.integers(0, 2))):
        if draw(st.booleans()):
            content[draw(st.integers(0, header - 1))] = draw(st.integers(0, 255))
        else:
            place = 4 + 4 * draw(st.integers(0, len(shape) - 1))
            content[place : place + 4] = struct.pack(">I", draw(sizes))
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
    return bytes(content), zipped, len(shape)


def _read_mutated_files(**options):
    """Reads many mutated files: each is the right array, or an `InputError`, in little memory."""

    @settings(derandomize=True, database=None, deadline=None, max_examples=400, **options)
    @given(_mutated_files())
    def check(case):
        content, zipped, num_dims = case
        with tempfile.TemporaryDirectory() as folder:
            path = _write(folder, "x.gz" if zipped else "x", content)
            outcome, peak = _peak_bytes(
                lambda: mnist_idx.read_idx(path, num_dims, mnist_idx.INTEGERS)
            )
        expected = _decode(content, zipped, num_dims)
        if expected is None:
            assert isinstance(outcome, str) and path in outcome and "\n" not in outcome
        else:
            assert outcome.dtype == expected.dtype
            np.testing.assert_array_equal(outcome, expected)
        assert peak < OVERHEAD_BYTES + 8 * len(content)

    check()


def test_mutated_files():
    _read_mutated_files()


def _allocate_what_the_header_asks_for(file, limit):
    found = bytearray(limit)
    del found[file.readinto(found) :]
    return found


def _never_look_further(file, limit):
    return bytearray(file.read(limit - 1))


def _take_what_is_there(file, limit):
    return bytearray(file.read().ljust(limit - 1, b"\0")[: limit - 1])


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("_read_at_most", _allocate_what_the_header_asks_for),
        ("_read_at_most", _never_look_further),
        ("_read_at_most", _take_what_is_there),
        ("_TYPES", {code: (name, f"<{letter}") for name, (code, letter) in TYPES.items()}),
        ("zlib", struct),  # Catches struct.error where zlib.error should be.
        ("EOFError", KeyError),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_careless_reader_is_found_out(name, wrong, monkeypatch):
    monkeypatch.setattr(mnist_idx, name, wrong, raising=False)
    monkeypatch.setattr(mnist_idx, "MAX_BYTES", 1 << 26)  # For the one that asks for as much.
    with pytest.raises((AssertionError, EOFError, zlib.error)):
        _read_mutated_files(
            phases=[Phase.generate], report_multiple_bugs=False, verbosity=Verbosity.quiet
        )
