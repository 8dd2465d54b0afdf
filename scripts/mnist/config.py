"""The settings of a run, its folder, and the one error that a user sees."""

import contextlib
import json
import os
from typing import Any, Dict, Iterator, NamedTuple

import filelock

UPDATERS = ("exponential", "cumulative", "wen", "none")
NETWORKS = ("light", "lenet_pp")

# May change when a run is resumed: where things are, how far to train, what to report.
_FREE_SETTINGS = {"data_dir", "model_dir", "train_steps", "eval_every"}


class InputError(Exception):
    """Something the user can fix. The message is one line and names the flag or the file."""


class Settings(NamedTuple):
    """The flags of `train_mnist.py` that describe a run; meanings and ranges are defined there."""

    data_dir: str
    network: str
    updater: str
    decay: float
    alpha: float
    center_loss_weight: float
    embed_dims: int
    batch_size: int
    train_steps: int
    learning_rate: float
    seed: int
    eval_every: int
    model_dir: str

    def identity(self, data_crc32: int) -> Dict[str, Any]:
        """What two calls must share to train the same model, ready for JSON."""
        unused = {"exponential": {"alpha"}, "wen": {"decay"}}.get(self.updater, {"alpha", "decay"})
        same = {k: v for k, v in self._asdict().items() if k not in _FREE_SETTINGS | unused}
        return dict(same, data_crc32=data_crc32)


@contextlib.contextmanager
def locked(model_dir: str) -> Iterator[None]:
    """Makes the folder if needed, and keeps other processes out of it within the block."""
    flag = f"flag --model_dir={model_dir}: expected a folder"
    lock = filelock.FileLock(os.path.join(model_dir, ".lock"))
    try:
        os.makedirs(model_dir, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"{flag} that no other process uses, found one that is in use") from error
    except OSError as error:
        raise InputError(f"{flag} to write in, found: {one_line(error)}") from error
    try:
        yield
    finally:
        lock.release()


def claim(model_dir: str, wanted: Dict[str, Any], is_resumed: bool) -> None:
    """Writes the identity of a run into its folder.

    Raises `InputError`, which names the difference, if the run to resume has another identity.
    """
    path = os.path.join(model_dir, "settings.json")
    found = wanted
    if is_resumed and os.path.exists(path):
        try:
            with open(path, encoding="utf-8") as file:
                found = dict(json.load(file))
        except (OSError, TypeError, ValueError) as error:
            message = f"{path}: expected the settings of the run in this folder, found damage"
            raise InputError(f"{message}; remove it to resume with these flags") from error
    # The updater first, since decay and alpha depend on it.
    for name in sorted({*wanted, *found}, key=lambda name: (name != "updater", name)):
        if wanted.get(name) != found.get(name):
            held = f"with --{name}={found.get(name)}, this one has --{name}={wanted.get(name)}"
            if name == "data_crc32":
                held = "on other data than --data_dir now has"
            raise InputError(
                f"flag --model_dir={model_dir}: holds a run {held}; pass the same or another folder"
            )
    write_json(path, wanted)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a path beside `path` to write to; moves it over `path` when the block ends well."""
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())  # Or a power failure could leave the new name on no content.
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{path}: expected to write it, found: {one_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)


def write_json(path: str, values: Dict[str, Any]) -> None:
    """Writes `values` to `path`: a reader sees the old file or the new one, never half of one."""
    with replacing(path) as beside, open(beside, "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, allow_nan=False)
        file.write("\n")


def one_line(error: Exception) -> str:
    """The message of an error of Python or TensorFlow, without the graph that TensorFlow adds."""
    message = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    lines = str(message).partition("[[")[0].strip().splitlines() or [type(error).__name__]
    # TensorFlow 2 first says where the graph was built.
    return " ".join(lines[-1 if lines[0].startswith("Graph execution error") else 0].split())
