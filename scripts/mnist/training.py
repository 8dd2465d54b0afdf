"""The training loop, with evaluation, checkpoints and summaries."""

import sys
import time
from typing import Any, Dict, List

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from mnist.config import InputError, Settings, one_line
from mnist.data import Batches, Digits
from mnist.evaluation import evaluate
from mnist.interrupts import Interrupts, StopHook
from mnist.model import Model

SAVE_EVERY, _SUMMARY_EVERY = 200, 20
# Random shifts by one pixel for the 28 of MNIST, by none for smaller images.
_PIXELS_PER_SHIFT = 28


def train_alone(settings: Settings, digits: Digits, model: Model, interrupts: Interrupts) -> None:
    """Trains in this process, from the newest checkpoint in --model_dir if there is one."""
    scaffold = tf.train.Scaffold(saver=model.saver)
    creator = tf.train.ChiefSessionCreator(scaffold, checkpoint_dir=settings.model_dir)
    hooks = make_hooks(settings, digits, model) + [StopHook(interrupts)]
    with tf.train.MonitoredSession(creator, hooks) as session:
        make_steps(session, settings, digits, model, worker=0)


def make_hooks(settings: Settings, digits: Digits, model: Model) -> List[tf.train.SessionRunHook]:
    """The hooks of the process that owns --model_dir."""
    summaries = [tf.summary.scalar(f"train/{name}", loss) for name, loss in model.losses.items()]
    if settings.updater != "none":
        summaries.append(model.center_summary)
    merged = tf.summary.merge(summaries)
    return [
        EvaluationHook(settings, digits, model),
        tf.train.CheckpointSaverHook(settings.model_dir, None, SAVE_EVERY, model.saver),
        tf.train.SummarySaverHook(_SUMMARY_EVERY, None, settings.model_dir, summary_op=merged),
    ]


def make_steps(session: Any, settings: Settings, digits: Digits, model: Model, worker: int) -> int:
    """Trains until all workers together reach --train_steps, or a hook stops it.

    Takes a `tf.train.MonitoredSession`, and returns how many steps this worker made.
    """
    max_shift = min(digits.train_images.shape[1:]) // _PIXELS_PER_SHIFT
    batches = Batches(digits, settings.batch_size, settings.seed, max_shift, worker)
    # Bypasses the hooks, which take every run for a training step.
    step = session.run_step_fn(lambda step_context: step_context.session.run(model.global_step))
    made, seconds = 0, 0.0
    with tqdm(total=settings.train_steps, initial=int(step), unit="step", disable=None) as progress:
        while step < settings.train_steps and not session.should_stop():
            began = time.perf_counter()
            images, labels = batches.at(int(step))
            feed = {model.images: images, model.labels: labels, model.is_training: True}
            if worker == 0:  # One clock is enough.
                feed[model.step_seconds] = seconds
            try:
                step = session.run(model.train, feed)
            except tf.errors.InvalidArgumentError as error:
                # The digits are valid, so the embeddings are not finite.
                raise diverged(settings, one_line(error)) from error
            made += 1
            seconds = time.perf_counter() - began
            progress.update(int(step) - progress.n)
    return made


class EvaluationHook(tf.train.SessionRunHook):
    """Evaluates every --eval_every steps but the last; raises if the losses are not finite."""

    def __init__(self, settings: Settings, digits: Digits, model: Model) -> None:
        self._settings, self._digits, self._model = settings, digits, model
        self._step = 0

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        self._step = int(session.run(self._model.global_step))

    def before_run(self, run_context: tf.train.SessionRunContext) -> tf.train.SessionRunArgs:
        return tf.train.SessionRunArgs((self._model.train, self._model.losses))

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: Any) -> None:
        before, (self._step, losses) = self._step, run_values.results
        if not np.isfinite(list(losses.values())).all():
            raise diverged(self._settings, f"others at step {self._step}")
        every, is_last = self._settings.eval_every, self._step >= self._settings.train_steps
        if every and self._step // every > before // every and not is_last:
            scores = evaluate(run_context.session.run, self._model, self._digits).scores()
            if self._settings.updater == "none":
                del scores["nearest_center_accuracy"]  # The centers are only made at the end.
            write_scores(self._settings.model_dir, scores, self._step)
            tqdm.write(describe(self._step, {**losses, **scores}), file=sys.stderr)


def write_scores(model_dir: str, scores: Dict[str, Any], step: int) -> None:
    """Adds a point to each curve of the test digits in TensorBoard."""
    summary = tf.Summary()
    for name, value in scores.items():
        if value is not None:
            summary.value.add(tag=f"test/{name}", simple_value=value)
    writer = tf.summary.FileWriterCache.get(model_dir)
    writer.add_summary(summary, step)
    writer.flush()  # A kill would otherwise lose two minutes of the curves.


def diverged(settings: Settings, found: str) -> InputError:
    """The error for losses or embeddings that are no longer finite."""
    flag = f"flag --learning_rate={settings.learning_rate}"
    return InputError(f"{flag}: expected finite losses and embeddings, found {found}")


def describe(step: int, values: Dict[str, Any]) -> str:
    """A step and its figures, in one line."""
    known = (f"{name} {value:.4g}" for name, value in values.items() if value is not None)
    return f"step {step}: {', '.join(known)}"
