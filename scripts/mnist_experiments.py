"""Whole runs: one from its folder to its pictures, or one for each updater, side by side."""

import os
from typing import Any, Dict, Optional

import mnist_checkpoints
import mnist_figures
import mnist_model
import mnist_training
import tensorflow.compat.v1 as tf
from absl import logging
from mnist_cluster_flags import Cluster
from mnist_data import Digits
from mnist_lock import locked
from mnist_run import (
    SETTINGS_FILE,
    UPDATERS,
    Settings,
    check_identity,
    identity,
    write_json,
)
from mnist_signals import sigterm_interrupts
from mnist_training import Report


def train_and_report(
    settings: Settings, digits: Digits, cluster: Optional[Cluster] = None
) -> Report:
    """Trains, alone or as the chief of a cluster, measures and writes the outputs.

    Raises:
      InputError: something the user can put right. An earlier run that does not fit is as it was.
      Interrupted: SIGINT or SIGTERM has come; nothing is lost.
    """
    with locked(settings.model_dir), sigterm_interrupts(), tf.Graph().as_default():
        return _train_and_report(settings, digits, cluster)


def compare(settings: Settings, digits: Digits) -> None:
    """Trains one run for each updater, in folders of their names in --model_dir.

    Writes comparison.png and comparison.json, the metrics by updater, once all have ended. A run
    that was begun before is resumed, one that has ended is measured alone.

    Args:
      settings: the flags; --updater is not looked at.
      digits: what all of them train on.

    Raises:
      InputError, Interrupted: as `train_and_report`; what has been trained is not lost.
    """
    panels: Dict[str, mnist_figures.Panel] = {}
    metrics: Dict[str, Dict[str, Any]] = {}
    # Softmax alone first, as what the others are held against.
    for updater in sorted(UPDATERS, key=lambda updater: updater != "none"):
        own = settings._replace(
            updater=updater, model_dir=os.path.join(settings.model_dir, updater)
        )
        report = train_and_report(own, digits)
        panels[_title(own, report.metrics)] = report.panel
        metrics[updater] = report.metrics
    path = os.path.join(settings.model_dir, "comparison.png")
    mnist_figures.write_comparison(path, panels)
    write_json(os.path.join(settings.model_dir, "comparison.json"), metrics)
    logging.info("wrote %s and comparison.json beside it", path)


def _train_and_report(settings: Settings, digits: Digits, cluster: Optional[Cluster]) -> Report:
    trained = identity(settings, digits.crc32())
    checkpoint = mnist_checkpoints.open_checkpoint(settings.model_dir)
    if checkpoint:
        check_identity(settings.model_dir, trained)
    model = mnist_model.build_model(settings, digits.train_images.shape[1:], digits.num_classes)
    if checkpoint:
        mnist_checkpoints.check_fits(checkpoint, settings.model_dir)
    start = checkpoint.step if checkpoint else 0

    mnist_checkpoints.adopt(checkpoint, settings.model_dir)
    write_json(os.path.join(settings.model_dir, SETTINGS_FILE), trained)
    logging.info(
        "%s: %d images to train on, %d to test on, %d classes",
        digits.name,
        len(digits.train_images),
        len(digits.test_images),
        digits.num_classes,
    )
    logging.info("%s: at step %d of %d", settings.model_dir, start, settings.train_steps)
    if cluster is not None:
        import mnist_cluster

        mnist_cluster.train(settings, digits, cluster)
    elif start < settings.train_steps:
        mnist_training.train_alone(settings, digits, model)

    report = mnist_training.report(settings, digits, model)
    figure = os.path.join(settings.model_dir, "embeddings.png")
    title = (
        f"{report.metrics['test_examples']:,} test images, --updater={settings.updater}: "
        f"accuracy {report.metrics['test_accuracy']:.2%}"
    )
    mnist_figures.write_embeddings(figure, title, report.panel)
    write_json(os.path.join(settings.model_dir, "metrics.json"), report.metrics)
    logging.info("%s", report.summary)
    logging.info("wrote %s and metrics.json beside it", figure)
    return report


def _title(settings: Settings, metrics: Dict[str, Any]) -> str:
    name = {
        "none": "softmax alone",
        "exponential": f"exponential window, decay {settings.decay:g}",
        "cumulative": "cumulative mean",
        "wen": f"Wen et al., alpha {settings.alpha:g}",
    }[settings.updater]
    ratio = metrics["distance_ratio"]
    return (
        f"{name}; distance ratio {'none' if ratio is None else format(ratio, '.1f')}\n"
        f"accuracy {metrics['test_accuracy']:.2%}, "
        f"nearest center {metrics['nearest_center_accuracy']:.2%}"
    )
