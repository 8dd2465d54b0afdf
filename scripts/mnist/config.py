"""The settings of a run, its folder, and the one error that a user sees."""

import collections
import contextlib
import json
import os
import pathlib
import re
import tempfile
from typing import Any, Dict, Iterator, Set

import filelock

UPDATERS = ("exponential", "cumulative", "wen", "none")
NETWORKS = ("light", "lenet_pp")

# What a run writes, but for events: a fresh folder must not hold it.
_OUTPUT = re.compile(
    r"checkpoint|graph\.pbtxt|model\.ckpt-\d+\..*|metrics\.json|embeddings\.png|projector_.*"
)
# May change when a run is resumed.
_FREE_SETTINGS = {"data_dir", "model_dir", "train_steps", "eval_every"}


class InputError(Exception):
    """Something the user can fix. The message is one line and names the flag or the file."""


_NAMES = (
    "data_dir network updater decay alpha center_loss_weight embed_dims batch_size train_steps "
    "learning_rate seed eval_every model_dir"
)


class Settings(collections.namedtuple("Settings", _NAMES)):
    """The flags of `train_mnist.py` that describe a run."""

    def unused(self) -> Set[str]:
        """The flags that do nothing with this updater."""
        used = {"exponential": "decay", "wen": "alpha"}.get(self.updater)
        return {"decay", "alpha"} - {used}

    def identity(self, data_crc32: int) -> Dict[str, Any]:
        """What two calls must share to train the same model, ready for JSON."""
        same = {k: v for k, v in self._asdict().items() if k not in _FREE_SETTINGS | self.unused()}
        return dict(same, data_crc32=data_crc32)


@contextlib.contextmanager
def locked(model_dir: str) -> Iterator[None]:
    """Makes the folder if needed, and keeps other processes out of it within the block."""
    try:
        os.makedirs(model_dir, exist_ok=True)
        lock = filelock.FileLock(os.path.join(model_dir, ".train_mnist.lock")).acquire(timeout=0)
    except OSError as error:
        line = f"flag --model_dir={model_dir}: expected a folder that no other process uses"
        raise InputError(f"{line}, to write in, found: {one_line(error)}") from error
    with lock:
        yield


def claim(model_dir: str, wanted: Dict[str, Any]) -> None:
    """Writes the identity of a run into its folder, unless it is there.

    Raises `InputError` for a run of another identity, and for files that are not of a run.
    """
    path, flag = os.path.join(model_dir, "settings.json"), f"flag --model_dir={model_dir}:"
    if not os.path.lexists(path):
        if any(map(_OUTPUT.fullmatch, os.listdir(model_dir))):
            raise InputError(f"{flag} holds files that are of no run; pass another folder")
        return write_json(path, wanted)
    found = None
    with contextlib.suppress(OSError, RecursionError, ValueError):
        # Reading a pipe would wait for ever.
        found = os.path.isfile(path) and json.loads(pathlib.Path(path).read_text("utf-8"))
    if not isinstance(found, dict) or "data_crc32" not in found:
        raise InputError(f"{path}: expected the settings of the run; pass another --model_dir")
    # The updater first, since decay and alpha depend on it.
    for name in ("updater", *sorted({*wanted, *found})):
        if wanted.get(name) != found.get(name):
            held = f"with --{name}={found.get(name)}, this one has --{name}={wanted.get(name)}"
            held = "on other data than --data_dir now has" if name == "data_crc32" else held
            raise InputError(f"{flag} holds a run {held}; pass the same or another folder")


def write_json(path: str, values: Dict[str, Any]) -> None:
    """Writes `values` to `path`: a reader sees the old file or the new one, never half of one."""
    with tempfile.TemporaryDirectory(".tmp", ".", os.path.dirname(path)) as folder:
        beside = os.path.join(folder, os.path.basename(path))
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, allow_nan=False)
            file.write("\n")
        os.replace(beside, path)


def one_line(error: Exception) -> str:
    """The message of an error of Python or TensorFlow, without the graph that TensorFlow adds."""
    message = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    lines = str(message).partition("[[")[0].strip().splitlines() or [type(error).__name__]
    # TensorFlow 2 first says where the graph was built.
    return " ".join(lines[-1 if lines[0].startswith("Graph execution error") else 0].split())
