"""Softmax alone and every updater, trained from one seed and drawn side by side."""

import os
from typing import Any, Callable, Dict

from absl import logging
from mnist_data import Digits
from mnist_figures import Panel, write_comparison
from mnist_run import UPDATERS, Settings, write_json
from mnist_training import Report


def compare(
    settings: Settings, digits: Digits, train_and_report: Callable[[Settings, Digits], Report]
) -> None:
    """Trains one run for each updater, in folders of their names in --model_dir.

    Writes comparison.png and comparison.json, the metrics by updater, once all have ended. A run
    that was begun before is resumed, one that has ended is measured alone.

    Args:
      settings: the flags; --updater is not looked at.
      digits: what all of them train on.
      train_and_report: makes one run.
    """
    panels: Dict[str, Panel] = {}
    metrics: Dict[str, Dict[str, Any]] = {}
    # Softmax alone first, as what the others are held against.
    for updater in sorted(UPDATERS, key=lambda updater: updater != "none"):
        own = settings._replace(
            updater=updater, model_dir=os.path.join(settings.model_dir, updater)
        )
        report = train_and_report(own, digits)
        panels[f"{_name(own)}\n{_describe(report.metrics)}"] = report.panel
        metrics[updater] = report.metrics
    path = os.path.join(settings.model_dir, "comparison.png")
    write_comparison(path, panels)
    write_json(os.path.join(settings.model_dir, "comparison.json"), metrics)
    logging.info("wrote %s and comparison.json beside it", path)


def _name(settings: Settings) -> str:
    return {
        "none": "softmax alone",
        "exponential": f"exponential window, decay {settings.decay:g}",
        "cumulative": "cumulative mean",
        "wen": f"Wen et al., alpha {settings.alpha:g}",
    }[settings.updater]


def _describe(metrics: Dict[str, Any]) -> str:
    ratio = metrics["distance_ratio"]
    return (
        f"accuracy {metrics['test_accuracy']:.2%}, "
        f"nearest center {metrics['nearest_center_accuracy']:.2%}, "
        f"distance ratio {'none' if ratio is None else format(ratio, '.1f')}"
    )
