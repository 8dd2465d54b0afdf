"""Complete runs: a single one, or one for each updater to compare."""

import glob
import math
import os
import re
from typing import Any, Dict, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from absl import logging

import tf_centers
from mnist import figures
from mnist.cluster import Cluster
from mnist.config import UPDATERS, InputError, Settings, claim, locked, one_line, write_json
from mnist.data import Digits
from mnist.evaluation import BATCH, Evaluation, evaluate, report
from mnist.interrupts import Interrupted, Interrupts
from mnist.model import Model
from mnist.training import Trainer, diverged, serve


def take_part(
    settings: Settings, digits: Optional[Digits], interrupts: Interrupts, cluster: Cluster
) -> None:
    """Trains alone, or runs this process of a cluster."""
    if digits is None:
        serve(cluster)
    elif cluster.task_index == 0:
        train_and_report(settings, digits, interrupts, cluster)
    else:
        Trainer(settings, digits, interrupts, cluster).train()
        if interrupts.signum is not None:
            raise Interrupted(f"{cluster}: interrupted; the same command lets it join again")


def train_and_report(
    settings: Settings, digits: Digits, interrupts: Interrupts, cluster: Cluster
) -> Tuple[Dict[str, Any], Evaluation]:
    """Trains, and writes metrics.json, embeddings.png and files for TensorBoard.

    Raises `InputError` for what the user can fix, and `Interrupted` after saving all steps.
    """
    model_dir, total = settings.model_dir, settings.train_steps
    with tf.Graph().as_default():
        trainer = Trainer(settings, digits, interrupts, cluster)  # before anything is written
        with locked(model_dir):
            claim(model_dir, settings.identity(digits.crc32()))
            step = choose_checkpoint(model_dir)
            reached = f"has {step} steps, more than" if step > total else f"at step {step} of"
            logging.info("%s: %s %d", model_dir, reached, total)
            trainer.train()
            interrupts.can_stop = False  # All is saved.
            saved = tf.train.latest_checkpoint(model_dir)
            if interrupts.signum is not None:
                line = f"interrupted, and saved {saved} of {total} steps; the same command resumes"
                raise Interrupted(f"{line} there")
            metrics, evaluation = _measure(settings, digits, saved)
            path = os.path.join(model_dir, "embeddings.png")
            figures.write_panels(path, {_title(metrics): evaluation})
            write_json(os.path.join(model_dir, "metrics.json"), metrics)
    logging.info("wrote %s and metrics.json beside it", path)
    return metrics, evaluation


def compare(settings: Settings, digits: Digits, interrupts: Interrupts, alone: Cluster) -> None:
    """Trains with each updater, in a folder of its own; draws all of them side by side."""
    panels, results = {}, {}
    path = os.path.join(settings.model_dir, "comparison")
    with locked(settings.model_dir):
        if "none" not in os.listdir(settings.model_dir) and glob.glob(f"{path}.*"):
            raise InputError(f"{path}.*: are of no run; pass another --model_dir")
        # Softmax alone first, as the baseline.
        for updater in sorted(UPDATERS, key=lambda updater: updater != "none"):
            model_dir = os.path.join(settings.model_dir, updater)
            own = settings._replace(updater=updater, model_dir=model_dir)
            results[updater], evaluation = train_and_report(own, digits, interrupts, alone)
            panels[_title(results[updater])] = evaluation
        figures.write_panels(f"{path}.png", panels)
        write_json(f"{path}.json", results)
    logging.info("wrote %s.png and comparison.json beside it", path)
    print(*(title.replace("\n", ", ") for title in panels), sep="\n")


def choose_checkpoint(model_dir: str) -> int:
    """Makes TensorFlow restore the newest checkpoint that can be read in full; returns its step.

    A full disk can damage a checkpoint, and leave the file `checkpoint` stale. 0 if there is none.
    """
    line = f"{model_dir}: expected the checkpoints of an earlier run, found none"
    names = os.listdir(model_dir)
    found = filter(None, map(re.compile(r"model\.ckpt-(\d+)\.index").fullmatch, names))
    steps = sorted(int(match.group(1)) for match in found)
    paths = [os.path.join(model_dir, f"model.ckpt-{step}") for step in steps]
    for last in reversed(range(len(paths))):
        try:
            reader = tf.train.load_checkpoint(paths[last])
            for name in reader.get_variable_to_shape_map():
                reader.get_tensor(name)  # Verifies its checksum.
        except (tf.errors.OpError, LookupError, OSError, RuntimeError, ValueError) as error:
            line = f"{paths[last]}: expected a whole checkpoint, found: {one_line(error)}"
            logging.warning("%s; looks for an older one", line)
        else:
            tf.train.update_checkpoint_state(model_dir, paths[last], paths[: last + 1])
            return steps[last]
    if any(steps) or "checkpoint" in names:
        raise InputError(f"{line}; pass another --model_dir, or remove this one to start anew")
    return 0  # Killed before the first checkpoint was complete.


def _measure(settings: Settings, digits: Digits, path: str) -> Tuple[Dict[str, Any], Evaluation]:
    """Measures a checkpoint on the test digits, also for TensorBoard."""
    with tf.Graph().as_default(), tf.Session() as session:
        model = Model(settings, digits)
        model.saver.restore(session, path)
        if settings.updater == "none":  # The means of the training embeddings are the centers.
            labels, mean = tf.placeholder(tf.int64, [None]), tf_centers.CumulativeMean()
            update = tf_centers.update_embed_centers(model.outputs[0], labels, mean, model.centers)
            for start in range(0, len(digits.train_images), BATCH):
                images, found = (rows[start : start + BATCH] for rows in digits[1:3])
                session.run(update, {model.images: images, labels: found})
        evaluation = evaluate(session, model)
        fetches = model.centers, model.global_step, model.train_seconds, model.center_summary
        (ctrs, counts), step, seconds, summary = session.run(fetches)
    if not np.isfinite(evaluation.embeddings).all():
        raise diverged(settings, f"NaN or Inf at step {step}")
    scores = evaluation.scores()
    tf.summary.FileWriterCache.get(settings.model_dir).add_summary(summary, step)
    report(settings, step, scores, losses={})
    figures.write_projector(settings.model_dir, evaluation)
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
    return metrics, evaluation._replace(ctrs=ctrs, counts=counts)


def _title(metrics: Dict[str, Any]) -> str:
    rates = [f"{name} {metrics[name]:g}" for name in ("decay", "alpha") if name in metrics]
    name = "softmax alone" if metrics["updater"] == "none" else metrics["updater"]
    ratio = f"distance ratio {metrics['distance_ratio'] or math.nan:.1f}"
    accuracies = "accuracy {test_accuracy:.2%}, nearest center {nearest_center_accuracy:.2%}"
    return ", ".join([name, *rates, ratio]) + "\n" + accuracies.format(**metrics)
