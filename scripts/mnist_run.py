"""A run: its settings, its folder, and the one error a user may see."""

import contextlib
import json
import os
from typing import Any, Dict, Iterator, NamedTuple, Optional

from absl import logging

SETTINGS_FILE = "settings.json"
UPDATERS = ("exponential", "cumulative", "wen", "none")
NETWORKS = ("light", "lenet_pp")

# May differ between two calls on one folder: they say how far to train, what to report
# and on which machines.
_FREE_SETTINGS = (
    "data_dir",
    "train_steps",
    "eval_every",
    "model_dir",
    "compare",
    "ps_hosts",
    "worker_hosts",
    "job_name",
    "task_index",
)


class InputError(Exception):
    """Something the user can put right. The message is one line and names the flag or the file."""


class Settings(NamedTuple):
    """One value per flag; ranges and meanings are in the help texts of `train_mnist.py`.

    A flag that changes training and was added later has a default: what was done without it. An
    earlier run, whose settings file does not name it, was made with that.
    """

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
    compare: bool = False
    ps_hosts: str = ""
    worker_hosts: str = ""
    job_name: Optional[str] = None
    task_index: int = 0


def check_model_dir(model_dir: str) -> None:
    """Raises `InputError` unless `model_dir` is, or can be made, a folder to write in."""
    flag = f"--model_dir={model_dir}"
    if not model_dir:
        raise InputError("flag --model_dir=: expected the path of a folder, found nothing")
    if os.path.lexists(model_dir) and not os.path.isdir(model_dir):
        raise InputError(f"flag {flag}: expected a folder, found a file")
    nearest = os.path.abspath(model_dir)
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        raise InputError(f"flag {flag}: expected a folder, but {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"flag {flag}: expected a folder to write in, but {nearest} is read-only")


def identity(settings: Settings, data_crc32: int) -> Dict[str, Any]:
    """What two calls must share to train one and the same model, ready for JSON."""
    same = {k: v for k, v in settings._asdict().items() if k not in _FREE_SETTINGS}
    # Only the updater in use makes a difference.
    if settings.updater != "exponential":
        del same["decay"]
    if settings.updater != "wen":
        del same["alpha"]
    same["data_crc32"] = data_crc32
    return same


def check_identity(model_dir: str, wanted: Dict[str, Any]) -> None:
    """Raises `InputError` where the run already in `model_dir` was made with other settings.

    A folder without a settings file is accepted; that is said.
    """
    path = os.path.join(model_dir, SETTINGS_FILE)
    if not os.path.exists(path):
        logging.warning("%s: expected beside the checkpoints, found none; goes on as asked", path)
        return
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected an earlier run's settings, found: {one_line(error)}; remove this "
            "file to go on with the flags given now, or pass another --model_dir"
        ) from error
    # The updater first: another one also brings or takes a flag of its own.
    for name in sorted(set(wanted) | set(found), key=lambda name: (name != "updater", name)):
        if name not in found and name in Settings._field_defaults:
            found[name] = Settings._field_defaults[name]
        if name in wanted and name in found and wanted[name] == found[name]:
            continue
        if name == "data_crc32":
            raise InputError(
                f"flag --model_dir={model_dir}: holds a run on other data; pass that data or "
                "another folder"
            )
        theirs, ours = (
            f"--{name}={values[name]}" if name in values else f"no --{name}"
            for values in (found, wanted)
        )
        raise InputError(
            f"flag --model_dir={model_dir}: holds a run with {theirs}, this one has {ours}; pass "
            "the same value or another folder"
        )


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a path beside `path` to write to; moves it over `path` when the block ends well.

    Raises:
      InputError: it cannot be written. `path` is as it was.
    """
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())  # Or a loss of power could leave a new name on no content.
        os.replace(beside, path)
    except OSError as error:
        raise InputError(f"{path}: expected to write it, found: {one_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)


def one_line(error: Exception) -> str:
    """What an error of Python or of TensorFlow says, without the graph that TensorFlow adds."""
    message = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    lines = str(message).partition("[[")[0].strip().splitlines() or [type(error).__name__]
    # Newer versions tell first where the graph was built.
    return " ".join(lines[-1 if lines[0].startswith("Graph execution error") else 0].split())


def write_json(path: str, values: Dict[str, Any]) -> None:
    """Writes `values` to `path`: a reader sees the old file or the new one, never half of one.

    Raises:
      InputError: it cannot be written. `path` is as it was.
    """
    with replacing(path) as beside:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, allow_nan=False)
            file.write("\n")
