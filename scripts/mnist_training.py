"""The training loop, and what is reported when it has ended."""

import math
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from mnist_board import add_scalars, write_projector
from mnist_checkpoints import SaveHook, writing_events
from mnist_data import Batches, Digits
from mnist_evaluation import average_train_embeddings, evaluate, scores
from mnist_figures import Panel
from mnist_model import Model
from mnist_progress import Progress
from mnist_run import InputError, Settings, one_line
from mnist_signals import Interrupted, Pending, deferred

_SUMMARY_EVERY = 20
# Shifts by one pixel for the 28 of MNIST, by none for images below that.
_PIXELS_PER_SHIFT = 28


class Report(NamedTuple):
    """What a run has to show beside its checkpoints."""

    metrics: Dict[str, Any]  # ready for JSON
    summary: str  # the measured values in one line
    panel: Panel  # the test embeddings, and the centers of the classes seen in training


def train_alone(settings: Settings, digits: Digits, model: Model) -> None:
    """Trains in this process, from the newest checkpoint in --model_dir if there is one.

    Raises:
      InputError: training diverged, or --model_dir cannot be written.
      Interrupted: SIGINT or SIGTERM has come; the step reached is saved.
    """
    creator = tf.train.ChiefSessionCreator(
        tf.train.Scaffold(saver=model.saver), checkpoint_dir=settings.model_dir
    )
    saves = SaveHook(settings.model_dir, model.saver, model.global_step)
    try:
        with deferred() as pending, tf.train.MonitoredSession(creator, [saves]) as session:
            train(settings, digits, model, session, pending=pending)
    except tf.errors.OpError as error:
        raise InputError(f"flag --model_dir={settings.model_dir}: {one_line(error)}") from error
    if pending.signum is not None:
        raise Interrupted(
            pending.signum,
            f"interrupted, and saved at step {saves.saved_step} of {settings.train_steps} in "
            f"{settings.model_dir}; the same command resumes there",
        )


def train(
    settings: Settings,
    digits: Digits,
    model: Model,
    session: tf.train.MonitoredSession,
    worker: int = 0,
    pending: Optional[Pending] = None,
) -> int:
    """Trains until the global step is --train_steps, whoever makes the steps, or a signal came.

    Worker 0 also writes summaries to --model_dir and measures on the test digits.

    Returns:
      How many steps this worker made.

    Raises:
      InputError: training diverged.
    """

    def run_bare(fetches: Any, feed: Dict[tf.Tensor, Any]) -> Any:
        # Past the hooks, which count every other run as a training step.
        return session.run_step_fn(lambda step_context: step_context.session.run(fetches, feed))

    batches = Batches(
        digits.train_images,
        digits.train_labels,
        settings.batch_size,
        settings.seed,
        max_shift=min(digits.train_images.shape[1:]) // _PIXELS_PER_SHIFT,
        worker=worker,
    )
    step = int(run_bare(model.global_step, {}))
    made, seconds = 0, 0.0
    with Progress(step, settings.train_steps) as progress:
        while step < settings.train_steps and not (pending and pending.signum):
            began = time.perf_counter()
            images, labels = batches.at(step)
            feed = {model.images: images, model.labels: labels, model.is_training: True}
            if worker == 0:  # One clock is enough.
                feed[model.step_seconds] = seconds
            before = step
            step, losses = _run_step(session, settings, model, feed, before + 1)
            made += 1
            seconds = time.perf_counter() - began
            progress.reach(step)
            if worker != 0:
                continue
            # With other workers at work, a worker does not see every step.
            if step // _SUMMARY_EVERY > before // _SUMMARY_EVERY:
                add_scalars(settings.model_dir, "train", losses, step)
                if settings.updater != "none" and step < settings.train_steps:
                    with writing_events(settings.model_dir) as writer:
                        writer.add_summary(run_bare(model.center_summary, {}), step)
            every = settings.eval_every
            # The last step is measured once it is over, with its report.
            if every and step // every > before // every and step < settings.train_steps:
                measured = scores(evaluate(run_bare, model, digits))
                if settings.updater == "none":
                    del measured["nearest_center_accuracy"]  # No centers before the final report.
                add_scalars(settings.model_dir, "test", measured, step)
                progress.log(_describe(step, {**losses, **measured}))
    return made


def _run_step(
    session: tf.train.MonitoredSession,
    settings: Settings,
    model: Model,
    feed: Dict[tf.Tensor, Any],
    step: int,
) -> Tuple[int, Dict[str, float]]:
    try:
        reached, losses = session.run((model.train, model.losses), feed)
    except tf.errors.InvalidArgumentError as error:
        # The digits are valid, so only embeddings that are no longer finite are refused.
        raise _diverged(settings, step) from error
    if not all(math.isfinite(loss) for loss in losses.values()):
        raise _diverged(settings, step)
    return int(reached), {name: float(loss) for name, loss in losses.items()}


def _diverged(settings: Settings, step: int) -> InputError:
    return InputError(
        f"flag --learning_rate={settings.learning_rate}: expected finite losses and embeddings, "
        f"found others at step {step}; try a smaller rate, in another --model_dir"
    )


def report(settings: Settings, digits: Digits, model: Model) -> Report:
    """Measures the newest checkpoint in --model_dir on the test digits, also for TensorBoard.

    Softmax alone has learned no centers; the class means of its training embeddings replace them.

    Raises:
      InputError: the last steps of training diverged.
    """
    with tf.Session() as session:
        model.saver.restore(session, tf.train.latest_checkpoint(settings.model_dir))
        if settings.updater == "none":
            average_train_embeddings(session.run, model, digits)
        evaluation = evaluate(session.run, model, digits)
        step, seconds, ctrs, counts = session.run(
            (model.global_step, model.train_seconds, model.centers.ctrs, model.centers.counts)
        )
        center_summary = session.run(model.center_summary)
    if not np.isfinite(evaluation.embeddings).all():
        raise _diverged(settings, int(step))
    measured = scores(evaluation)
    add_scalars(settings.model_dir, "test", measured, int(step))
    with writing_events(settings.model_dir) as writer:
        writer.add_summary(center_summary, int(step))
        writer.flush()
    write_projector(settings.model_dir, digits.test_images, evaluation)
    metrics = {
        "dataset": digits.name,
        "train_examples": len(digits.train_images),
        "test_examples": len(digits.test_images),
        "num_classes": digits.num_classes,
        "train_steps": int(step),
        "batch_size": settings.batch_size,
        "network": settings.network,
        "embed_dims": settings.embed_dims,
        "updater": settings.updater,
        "centers": "means of the training embeddings" if settings.updater == "none" else "running",
        "center_loss_weight": settings.center_loss_weight,
        "seed": settings.seed,
        **measured,
        "train_seconds": round(float(seconds), 2),
    }
    seen = np.flatnonzero(counts)
    return Report(
        metrics=metrics,
        summary=_describe(int(step), measured),
        panel=Panel(evaluation.embeddings, evaluation.labels, ctrs[seen], seen),
    )


def _describe(step: int, values: Dict[str, Any]) -> str:
    return f"step {step}: " + ", ".join(
        f"{name} {value:.4g}" for name, value in values.items() if value is not None
    )
