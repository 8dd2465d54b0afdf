"""A run: its settings, its folder, and the one error a user may see."""

import contextlib
import json
import os
from typing import Any, Dict, Iterator, NamedTuple, Optional

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
    """One value per flag; ranges and meanings are in the help texts of `train_mnist.py`."""

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

    A folder without a settings file is accepted.
    """
    path = os.path.join(model_dir, SETTINGS_FILE)
    if not os.path.exists(path):
        return
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected an earlier run's settings, found: {error}") from error
    # The updater first: another one also brings or takes a flag of its own.
    for name in sorted(set(wanted) | set(found), key=lambda name: (name != "updater", name)):
        if wanted.get(name) == found.get(name):
            continue
        if name == "data_crc32":
            raise InputError(
                f"flag --model_dir={model_dir}: holds a run on other data; pass that data or "
                "another folder"
            )
        raise InputError(
            f"flag --model_dir={model_dir}: holds a run with --{name}={found.get(name)}, "
            f"this one has --{name}={wanted.get(name)}; pass the same value or another folder"
        )


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a path beside `path` to write to; moves it over `path` when the block ends well."""
    beside = f"{path}.tmp"
    try:
        yield beside
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def write_json(path: str, values: Dict[str, Any]) -> None:
    """Writes `values` to `path`: a reader sees the old file or the new one, never half of one."""
    with replacing(path) as beside:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, allow_nan=False)
            file.write("\n")
