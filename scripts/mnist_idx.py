"""Reads IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist/), gzipped or not.

An IDX file is a magic number (two zero bytes, a code for the element type, the number of
dimensions), one big-endian 32-bit size per dimension, and the elements, big-endian too, last
dimension fastest. All integers but the unsigned byte are signed.
"""

import contextlib
import gzip
import struct
import zlib
from typing import IO, Iterator, Tuple

import numpy as np
from mnist_run import InputError

UNSIGNED_BYTE = 0x08
INTEGERS = (UNSIGNED_BYTE, 0x09, 0x0B, 0x0C)

# A gzip file may hold a thousand times its own size, so that no size of the file bounds it. Eighty
# times the pixels of MNIST fit.
MAX_BYTES = 1 << 32

_TYPES = {
    0x08: ("unsigned byte", ">u1"),
    0x09: ("signed byte", ">i1"),
    0x0B: ("16-bit integer", ">i2"),
    0x0C: ("32-bit integer", ">i4"),
    0x0D: ("32-bit float", ">f4"),
    0x0E: ("64-bit float", ">f8"),
}
_CHUNK_BYTES = 1 << 16


class IdxFile:
    """An open file whose header has been checked; its elements are still to be read.

    Attributes:
      shape: the sizes in the header, all at least 1. Whether the elements are there is not known.
    """

    def __init__(self, file: IO[bytes], path: str, num_dims: int, types: Tuple[int, ...]) -> None:
        """Reads the header; arguments and errors are those of `open_idx`."""
        self._file, self._path = file, path
        self._dtype = _read_dtype(file, path, num_dims, types)
        self.shape = _read_sizes(file, path, num_dims)
        # Python integers: four billion cubed must not wrap around.
        self._num_bytes = self._dtype.itemsize
        for size in self.shape:
            self._num_bytes *= size
        if self._num_bytes > MAX_BYTES:
            raise InputError(
                f"{path}: expected a header of at most {MAX_BYTES >> 30} GiB in all, found "
                f"{_times(self.shape)}"
            )

    def read(self) -> np.ndarray:
        """The array, in the byte order of this machine.

        Raises:
          InputError: the file holds fewer or more elements than its header says.
        """
        # One byte more than expected tells a file that is too long, and makes gzip check its sum.
        found = _read_at_most(self._file, self._num_bytes + 1)
        if len(found) != self._num_bytes:
            more = "more" if len(found) > self._num_bytes else str(len(found))
            raise InputError(
                f"{self._path}: expected {self._num_bytes} bytes after a header of "
                f"{_times(self.shape)}, found {more}"
            )
        array = np.frombuffer(found, self._dtype).reshape(self.shape)
        return array.astype(self._dtype.newbyteorder("="), copy=False)


@contextlib.contextmanager
def open_idx(
    path: str, num_dims: int, types: Tuple[int, ...] = (UNSIGNED_BYTE,)
) -> Iterator[IdxFile]:
    """Opens an IDX file and checks its header.

    Args:
      path: the file; gzipped where its name ends in ".gz".
      num_dims: how many dimensions the array must have: 3 for images, 1 for labels.
      types: the codes of the element types it may have.

    Raises:
      InputError: the file cannot be read, or is not exactly such an array of at most `MAX_BYTES`;
        also for what is found out while it is open. Memory is taken for the bytes that are there,
        never for those that a header only promises.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield IdxFile(file, path, num_dims, types)
    except EOFError as error:
        raise InputError(f"{path}: expected a whole gzip file, found a truncated one") from error
    except zlib.error as error:
        raise InputError(f"{path}: expected gzip data, found damage ({error})") from error
    except OSError as error:
        # Python words a bad magic number, a bad checksum and a missing permission all as OSError.
        reason = error.strerror or error
        raise InputError(f"{path}: expected a readable file, found: {reason}") from error


def read_idx(path: str, num_dims: int, types: Tuple[int, ...] = (UNSIGNED_BYTE,)) -> np.ndarray:
    """The array in an IDX file, none of its `num_dims` dimensions empty; else as `open_idx`."""
    with open_idx(path, num_dims, types) as file:
        return file.read()


def _read_dtype(file: IO[bytes], path: str, num_dims: int, types: Tuple[int, ...]) -> np.dtype:
    magic = file.read(4)
    if len(magic) < 4:
        raise InputError(f"{path}: expected an IDX header, found {len(magic)} bytes")
    if magic[:2] != b"\0\0":
        raise InputError(
            f"{path}: expected an IDX file, which starts with two zero bytes, found {magic.hex()}"
        )
    code = magic[2]
    if code not in types:
        raise InputError(
            f"{path}: expected elements of type {' or '.join(map(_type_name, types))}, found "
            f"{_type_name(code)}"
        )
    if magic[3] != num_dims:
        raise InputError(f"{path}: expected {num_dims} dimensions, found {magic[3]}")
    return np.dtype(_TYPES[code][1])


def _read_sizes(file: IO[bytes], path: str, num_dims: int) -> Tuple[int, ...]:
    sizes = file.read(4 * num_dims)
    if len(sizes) < 4 * num_dims:
        raise InputError(f"{path}: expected {num_dims} sizes in the header, found its end")
    shape = struct.unpack(f">{num_dims}I", sizes)
    if 0 in shape:
        raise InputError(f"{path}: expected sizes of at least 1, found {_times(shape)}")
    return shape


def _read_at_most(file: IO[bytes], limit: int) -> bytearray:
    found = bytearray()
    while len(found) < limit:
        chunk = file.read(min(_CHUNK_BYTES, limit - len(found)))
        if not chunk:
            break
        found += chunk
    return found


def _type_name(code: int) -> str:
    name = _TYPES[code][0] if code in _TYPES else "unknown"
    return f"{name} (0x{code:02x})"


def _times(shape: Tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
