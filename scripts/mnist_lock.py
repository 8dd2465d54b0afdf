"""One process at a time on one folder: two would overwrite each other's checkpoints."""

import contextlib
import errno
import os
from typing import Iterator

from mnist_run import InputError

try:
    import fcntl
except ImportError:  # Not on every system; nobody is refused there.
    fcntl = None

# Stays behind, empty. Removing it would let a third process lock another file of that name.
_LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(model_dir: str) -> Iterator[None]:
    """Makes the folder where it is missing, and keeps other processes out of it within the block.

    The lock ends with its process, however that ends. Where the file system knows none, there is
    none.

    Raises:
      InputError: the folder cannot be made or written in, or another process has the lock.
    """
    try:
        os.makedirs(model_dir, exist_ok=True)
        file = open(os.path.join(model_dir, _LOCK_FILE), "ab")
    except OSError as error:
        raise InputError(
            f"flag --model_dir={model_dir}: expected a folder to write in, found: {error.strerror}"
        ) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise InputError(
                        f"flag --model_dir={model_dir}: expected a folder that no other process "
                        "trains in, found one at work; wait for its end or pass another folder"
                    ) from error
        yield
