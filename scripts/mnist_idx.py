"""Reads IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist/), gzipped or not.

An IDX file is a magic number (two zero bytes, a code for the element type, the number of
dimensions), one big-endian 32-bit size per dimension, and the elements, last dimension fastest.
"""

import gzip
import struct
import zlib
from typing import IO, Tuple

import numpy as np
from mnist_run import InputError

_UNSIGNED_BYTE = 0x08
_TYPE_NAMES = {
    0x08: "unsigned byte",
    0x09: "signed byte",
    0x0B: "16-bit integer",
    0x0C: "32-bit integer",
    0x0D: "32-bit float",
    0x0E: "64-bit float",
}
_CHUNK_BYTES = 1 << 20


def read_idx(path: str, num_dims: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes.

    Args:
      path: the file; gzipped where its name ends in ".gz".
      num_dims: how many dimensions the array must have: 3 for images, 1 for labels.

    Returns:
      uint8 array with `num_dims` dimensions, none of them empty.

    Raises:
      InputError: the file cannot be read, or is not exactly such an array. Memory is taken for the
        bytes that are there, never for those that a header only promises.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            return _read_array(file, path, num_dims)
    except EOFError as error:
        raise InputError(f"{path}: expected a whole gzip file, found a truncated one") from error
    except zlib.error as error:
        raise InputError(f"{path}: expected gzip data, found damage ({error})") from error
    except OSError as error:
        # Python words a bad magic number, a bad checksum and a missing permission all as OSError.
        reason = error.strerror or error
        raise InputError(f"{path}: expected a readable file, found: {reason}") from error


def _read_array(file: IO[bytes], path: str, num_dims: int) -> np.ndarray:
    shape = _read_shape(file, path, num_dims)
    size = 1
    for length in shape:
        size *= length  # Python integers: four billion cubed must not wrap around.
    # One byte more than expected tells a file that is too long, and makes gzip check its sum.
    found = _read_at_most(file, size + 1)
    if len(found) != size:
        dims = "x".join(map(str, shape))
        more = "more" if len(found) > size else str(len(found))
        raise InputError(f"{path}: expected {size} bytes after a header of {dims}, found {more}")
    return np.frombuffer(found, np.uint8).reshape(shape)


def _read_shape(file: IO[bytes], path: str, num_dims: int) -> Tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4:
        raise InputError(f"{path}: expected an IDX header, found {len(magic)} bytes")
    if magic[:2] != b"\0\0":
        raise InputError(
            f"{path}: expected an IDX file, which starts with two zero bytes, found {magic.hex()}"
        )
    if magic[2] != _UNSIGNED_BYTE:
        found = _TYPE_NAMES.get(magic[2], "unknown")
        raise InputError(
            f"{path}: expected elements of type unsigned byte (0x08), found {found} "
            f"(0x{magic[2]:02x})"
        )
    if magic[3] != num_dims:
        raise InputError(f"{path}: expected {num_dims} dimensions, found {magic[3]}")
    sizes = file.read(4 * num_dims)
    if len(sizes) < 4 * num_dims:
        raise InputError(f"{path}: expected {num_dims} sizes in the header, found its end")
    shape = struct.unpack(f">{num_dims}I", sizes)
    if 0 in shape:
        raise InputError(f"{path}: expected sizes of at least 1, found {'x'.join(map(str, shape))}")
    return shape


def _read_at_most(file: IO[bytes], limit: int) -> bytes:
    found = bytearray()
    while len(found) < limit:
        chunk = file.read(min(_CHUNK_BYTES, limit - len(found)))
        if not chunk:
            break
        found += chunk
    return bytes(found)
