"""Finds the checkpoint to resume from: the newest that can be read in full.

TensorFlow renames a finished checkpoint into place, the index last, then records it in the file
`checkpoint`. A kill or a full disk can leave that file stale and a checkpoint damaged.
"""

import glob
import os
import re
import shutil
from typing import List, NamedTuple, Optional

import tensorflow.compat.v1 as tf
from absl import logging

from mnist.config import InputError, one_line

_NAME = "model.ckpt"  # as `tf.train.CheckpointSaverHook` calls it
# Temporary files of a killed process, from TensorFlow and from `mnist.config.replacing`.
_LEFTOVERS = (f"{_NAME}-*_temp_*", "*.tempstate*", f"{_NAME}-*.tmp*", "checkpoint.tmp*", ".*.tmp")
# TensorFlow's own errors, and what its readers raise in Python.
_READ_ERRORS = (tf.errors.OpError, LookupError, OSError, RuntimeError, ValueError)


class Checkpoint(NamedTuple):
    path: str  # without .index and .data
    step: int


def find_newest(model_dir: str) -> Optional[Checkpoint]:
    """The newest checkpoint in `model_dir` that can be read; None if none was ever completed.

    Changes nothing. Raises `InputError` if there have been checkpoints, but none can be read.
    """
    line = f"{model_dir}: expected the checkpoints of an earlier run, found none"
    checkpoints = _list_all(model_dir)
    for path, step in reversed(checkpoints):
        try:
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # Verifies its checksum.
            return Checkpoint(path, step)
        except _READ_ERRORS as error:
            line = f"{path}: expected a whole checkpoint, found: {one_line(error)}"
            logging.warning("%s; looks for an older one", line)
    if os.path.exists(os.path.join(model_dir, "checkpoint")) or any(c.step for c in checkpoints):
        raise InputError(f"{line}; pass another --model_dir, or remove this one to start anew")
    return None  # Killed before the first checkpoint, at step 0, was complete.


def select(newest: Optional[Checkpoint], model_dir: str) -> None:
    """Makes `newest` the one that TensorFlow restores, and removes half-written files."""
    for pattern in _LEFTOVERS:
        for path in glob.glob(os.path.join(glob.escape(model_dir), pattern)):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    if newest is not None:
        paths = [path for path, step in _list_all(model_dir) if step <= newest.step]
        tf.train.update_checkpoint_state(model_dir, newest.path, paths)


def _list_all(model_dir: str) -> List[Checkpoint]:
    """All checkpoints in a folder, damaged or not, by rising step."""
    names = os.listdir(model_dir) if os.path.isdir(model_dir) else []
    found = (re.fullmatch(re.escape(_NAME) + r"-(\d+)\.index", name) for name in names)
    steps = sorted(int(match.group(1)) for match in found if match)
    return [Checkpoint(os.path.join(model_dir, f"{_NAME}-{step}"), step) for step in steps]
