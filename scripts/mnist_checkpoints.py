"""Checkpoints that survive whatever ends a run: written as a whole, read back, or said to be lost.

TensorFlow writes a checkpoint beside its place and moves it there, the index last, then names it in
the file `checkpoint`. That file may be lost, cut or older than the newest checkpoint, and its
absolute paths outlive a move of the folder. So the folder itself tells which checkpoints there are,
and the newest that can be read to its last byte counts.
"""

import contextlib
import os
import re
import shutil
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf
from absl import logging
from mnist_run import InputError, one_line

_NAME = "model.ckpt"
_STATE_FILE = "checkpoint"
_SAVE_EVERY = 200
_INDEX = re.compile(re.escape(_NAME) + r"-(\d+)\.index")

# What a process leaves that is killed while it writes: TensorFlow's temporary files, and ours.
_LEFTOVER = re.compile(
    r"model\.ckpt-\d+(_temp_.+|\..+\.tempstate\d+|\.meta\.tmp[0-9a-f]+)"
    r"|checkpoint\.tmp[0-9a-f]+|\..+\.\d+\.tmp"
)

# TensorFlow raises its own errors for bad files, or what it takes for their like in Python.
_ERRORS = (tf.errors.OpError, LookupError, MemoryError, OSError, RuntimeError, ValueError)


class Checkpoint(NamedTuple):
    """The newest checkpoint of a folder that can be read."""

    path: str  # without .index and .data
    step: int
    reader: tf.train.NewCheckpointReader
    older: Tuple[str, ...]  # paths of those before it, the oldest first, not looked into
    broken: Tuple[str, ...]  # why each newer one is passed over, the newest first


def open_checkpoint(model_dir: str) -> Optional[Checkpoint]:
    """The newest checkpoint in `model_dir` that can be read; None where none was ever completed.

    Reads every byte of it, changes nothing.

    Raises:
      InputError: there have been checkpoints, but none can be read.
    """
    state_file = os.path.join(model_dir, _STATE_FILE)
    steps = _steps(model_dir)
    broken: List[str] = []
    for place, step in reversed(list(enumerate(steps))):
        path = _path(model_dir, step)
        try:
            reader = tf.train.load_checkpoint(path)
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # Compares its checksum.
        except _ERRORS as error:
            broken.append(f"{path}: expected a readable checkpoint, found: {one_line(error)}")
            continue
        older = tuple(_path(model_dir, step) for step in steps[:place])
        return Checkpoint(path, step, reader, older, tuple(broken))
    if not os.path.lexists(state_file) and not any(steps):
        return None  # A run killed before its first checkpoint, that of step 0, was complete.
    found = broken[0] if broken else f"{state_file}: expected the checkpoints it names, found none"
    raise InputError(f"{found}; pass another --model_dir, or remove this one to begin at step 0")


def adopt(checkpoint: Optional[Checkpoint], model_dir: str) -> None:
    """Makes `checkpoint` the one that TensorFlow takes for the newest of `model_dir`.

    Tells which were passed over, and removes what a killed process has left half written.

    Raises:
      InputError: `model_dir` cannot be written.
    """
    remove_leftovers(model_dir)
    if checkpoint is None:
        return
    for line in checkpoint.broken:
        logging.warning("%s; goes on from step %d", line, checkpoint.step)
    if _is_named_newest(model_dir, checkpoint.path):
        return
    try:
        tf.train.update_checkpoint_state(
            model_dir, checkpoint.path, [*checkpoint.older, checkpoint.path]
        )
    except _ERRORS as error:
        raise _cannot_write(os.path.join(model_dir, _STATE_FILE), error) from error


def check_fits(checkpoint: Checkpoint, model_dir: str) -> None:
    """Raises `InputError` unless a checkpoint holds every variable of the default graph."""
    found = checkpoint.reader.get_variable_to_shape_map()
    for variable in tf.global_variables():
        name, wanted = variable.op.name, variable.shape.as_list()
        if found.get(name) != wanted:
            held = f"of shape {found[name]}" if name in found else "missing"
            raise InputError(
                f"flag --model_dir={model_dir}: expected a checkpoint with {name} of shape "
                f"{wanted}, found it {held}; pass the flags of that run or another folder"
            )


def remove_leftovers(model_dir: str) -> None:
    """Removes temporary files that no living process writes any more; needs the folder's lock."""
    for name in os.listdir(model_dir):
        if _LEFTOVER.fullmatch(name):
            path = os.path.join(model_dir, name)
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # Or is a folder, and gone by now.
                os.remove(path)


@contextlib.contextmanager
def writing_events(model_dir: str) -> Iterator[tf.summary.FileWriter]:
    """Yields what writes the TensorBoard events of `model_dir`.

    Raises:
      InputError: they cannot be written. TensorFlow 1.15 only logs that.
    """
    try:
        yield tf.summary.FileWriterCache.get(model_dir)
    except _ERRORS as error:
        raise _cannot_write(os.path.join(model_dir, "events.out.tfevents.*"), error) from error


class SaveHook(tf.train.SessionRunHook):
    """Saves at step 0, every 200 steps, and where the session ends well.

    Other than the stock hook it leaves the checkpoint alone that the session was restored from:
    rewriting it would put at risk the only one that is whole.
    """

    def __init__(self, model_dir: str, saver: tf.train.Saver, global_step: tf.Variable) -> None:
        """Takes the folder and what to save."""
        self._model_dir, self._saver, self._global_step = model_dir, saver, global_step
        self.saved_step = -1

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        """Saves, unless this is where the session comes from."""
        step = int(session.run(self._global_step))
        if _is_named_newest(self._model_dir, _path(self._model_dir, step)):
            self.saved_step = step
        else:
            self._save(session, step)
        with writing_events(self._model_dir) as writer:
            writer.add_graph(session.graph)
            # TensorBoard then drops what a killed run had told of steps that are made again.
            writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        """Asks for the step."""
        return tf.train.SessionRunArgs(self._global_step)

    def after_run(
        self, run_context: tf.train.SessionRunContext, run_values: tf.train.SessionRunValues
    ) -> None:
        """Saves where the step calls for it."""
        # The value may be that from before the step.
        if self._is_due(int(run_values.results) + 1):
            step = int(run_context.session.run(self._global_step))
            if self._is_due(step):
                self._save(run_context.session, step)

    def end(self, session: tf.Session) -> None:
        """Saves the last step."""
        step = int(session.run(self._global_step))
        if step != self.saved_step:
            self._save(session, step)

    def _is_due(self, step: int) -> bool:
        return step // _SAVE_EVERY > self.saved_step // _SAVE_EVERY

    def _save(self, session: Any, step: int) -> None:
        try:
            self._saver.save(session, os.path.join(self._model_dir, _NAME), step)
        except _ERRORS as error:
            if os.path.isdir(self._model_dir):
                remove_leftovers(self._model_dir)
            raise _cannot_write(_path(self._model_dir, step), error) from error
        self.saved_step = step
        # A run that resumes here does not write the events before this step again.
        with writing_events(self._model_dir) as writer:
            writer.flush()


def _cannot_write(path: str, error: Exception) -> InputError:
    return InputError(f"{path}: expected to write it, found: {one_line(error)}")


def _path(model_dir: str, step: int) -> str:
    return os.path.join(model_dir, f"{_NAME}-{step}")


def _steps(model_dir: str) -> List[int]:
    """The steps of all checkpoints in a folder, whole or not, in ascending order."""
    names = os.listdir(model_dir) if os.path.isdir(model_dir) else []
    return sorted(int(match.group(1)) for match in map(_INDEX.fullmatch, names) if match)


def _is_named_newest(model_dir: str, path: str) -> bool:
    try:
        state = tf.train.get_checkpoint_state(model_dir)
    except ValueError:  # Bytes that are no text.
        return False
    return state is not None and os.path.abspath(state.model_checkpoint_path) == os.path.abspath(
        path
    )
