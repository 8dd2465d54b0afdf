"""Complete runs: a single one, or one for each updater to compare."""

import math
import os
from typing import Any, Callable, Dict, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from absl import logging

from mnist import checkpoints, figures, projector
from mnist.config import UPDATERS, InputError, Settings, claim, one_line, write_json
from mnist.data import Digits
from mnist.evaluation import average_train_embeddings, evaluate
from mnist.interrupts import Interrupted, Interrupts
from mnist.model import Model, build_model
from mnist.training import describe, diverged, train_alone, write_scores

Metrics = Dict[str, Any]
Trainer = Callable[[Settings, Digits, Model, Interrupts], None]  # like `train_alone`


def train_and_report(
    settings: Settings, digits: Digits, interrupts: Interrupts, train: Trainer = train_alone
) -> Tuple[Metrics, figures.Panel]:
    """Trains, and writes metrics.json, embeddings.png and files for TensorBoard.

    Raises `InputError` for what the user can fix, and `Interrupted` after saving all steps.
    """
    model_dir = settings.model_dir
    try:
        os.makedirs(model_dir, exist_ok=True)
        newest = checkpoints.find_newest(model_dir)
        identity = settings.identity(digits.crc32())
        claim(model_dir, identity, is_resumed=newest is not None)
        checkpoints.select(newest, model_dir)
        step, size = newest.step if newest else 0, len(digits.train_images)
        logging.info("%s: %d images to train on, %d classes", digits.name, size, digits.num_classes)
        logging.info("%s: at step %d of %d", model_dir, step, settings.train_steps)
        with tf.Graph().as_default():
            model = build_model(settings, digits.train_images.shape[1:], digits.num_classes)
            train(settings, digits, model, interrupts)
            if interrupts.signum is not None:
                raise Interrupted(
                    f"interrupted, and saved {tf.train.latest_checkpoint(model_dir)} of "
                    f"{settings.train_steps} steps; the same command resumes there"
                )
            metrics, panel = _measure(settings, digits, model)
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f"flag --model_dir={model_dir}: {one_line(error)}") from error
    name = os.path.join(model_dir, "embeddings.png")
    figures.write_panels(name, {_title(settings, metrics): panel})
    write_json(os.path.join(model_dir, "metrics.json"), metrics)
    logging.info("wrote %s and metrics.json beside it", name)
    return metrics, panel


def compare(settings: Settings, digits: Digits, interrupts: Interrupts) -> None:
    """Trains one run for each updater, each in its own folder in --model_dir, and compares them.

    Writes comparison.png and comparison.json once all have ended, and prints a table.
    """
    panels: Dict[str, figures.Panel] = {}
    results: Dict[str, Metrics] = {}
    # Softmax alone first, as the baseline.
    for updater in sorted(UPDATERS, key=lambda updater: updater != "none"):
        model_dir = os.path.join(settings.model_dir, updater)
        own = settings._replace(updater=updater, model_dir=model_dir)
        results[updater], panel = train_and_report(own, digits, interrupts)
        panels[_title(own, results[updater])] = panel
    path = os.path.join(settings.model_dir, "comparison.png")
    figures.write_panels(path, panels)
    write_json(os.path.join(settings.model_dir, "comparison.json"), results)
    logging.info("wrote %s and comparison.json beside it", path)
    print("| `--updater` | test accuracy | by nearest center | distance ratio | training |")
    print("| --- | --- | --- | --- | --- |")
    for updater, metrics in results.items():
        accuracies = f"{metrics['test_accuracy']:.4f} | {metrics['nearest_center_accuracy']:.4f}"
        ratio, seconds = metrics["distance_ratio"] or math.nan, metrics["train_seconds"]
        print(f"| `{updater}` | {accuracies} | {ratio:.1f} | {seconds:.0f} s |")


def _measure(settings: Settings, digits: Digits, model: Model) -> Tuple[Metrics, figures.Panel]:
    """Measures the newest checkpoint in --model_dir on the test digits, also for TensorBoard."""
    with tf.Session() as session:
        model.saver.restore(session, tf.train.latest_checkpoint(settings.model_dir))
        if settings.updater == "none":
            average_train_embeddings(session.run, model, digits)
        evaluation = evaluate(session.run, model, digits)
        step, seconds, (ctrs, counts), summary = session.run(
            (model.global_step, model.train_seconds, model.centers, model.center_summary)
        )
    if not np.isfinite(evaluation.embeddings).all():
        raise diverged(settings, f"others at step {step}")
    scores = evaluation.scores()
    logging.info("%s", describe(step, scores))
    tf.summary.FileWriterCache.get(settings.model_dir).add_summary(summary, step)
    write_scores(settings.model_dir, scores, step)
    projector.write_projector(settings.model_dir, digits.test_images, evaluation)
    metrics = {
        "dataset": digits.name,
        "train_examples": len(digits.train_images),
        "test_examples": len(digits.test_images),
        "num_classes": digits.num_classes,
        **settings.identity(digits.crc32()),
        "centers": "means of the training embeddings" if settings.updater == "none" else "running",
        "train_steps": int(step),
        **scores,
        "train_seconds": round(float(seconds), 2),
    }
    seen = np.flatnonzero(counts)
    return metrics, figures.Panel(evaluation.embeddings, evaluation.labels, ctrs[seen], seen)


def _title(settings: Settings, metrics: Metrics) -> str:
    name = {
        "none": "softmax alone",
        "exponential": f"exponential window, decay {settings.decay:g}",
        "cumulative": "cumulative mean",
        "wen": f"Wen et al., alpha {settings.alpha:g}",
    }[settings.updater]
    accuracies = metrics["test_accuracy"], metrics["nearest_center_accuracy"]
    ratio = f"distance ratio {metrics['distance_ratio'] or math.nan:.1f}"
    return f"{name}; {ratio}\n" + "accuracy {:.2%}, nearest center {:.2%}".format(*accuracies)
