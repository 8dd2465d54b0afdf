"""The pictures of a run: test embeddings, coloured by class, and the centers among them."""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mnist.config import replacing

# Told apart with every common colour blindness (Okabe and Ito; Tol), from dark to light.
_COLOURS = "#000000 #332288 #0072B2 #56B4E9 #009E73 #999933 #E69F00 #E8D21D #D55E00 #CC79A7".split()
# More names at the centers would hide the picture.
_MAX_NAMED_CLASSES = 40


class Panel(NamedTuple):
    """What one picture shows: M embeddings and K centers of D dims, with their classes."""

    embeddings: np.ndarray  # float [M, D]
    labels: np.ndarray  # integers [M]
    centers: np.ndarray  # float [K, D]
    center_labels: np.ndarray  # integers [K]


def write_panels(path: str, panels: Dict[str, Panel]) -> None:
    """Draws one panel for each title, two in a row, into a PNG file, replaced as a whole."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    height = 0.6 + 4.7 * rows
    figure = Figure(figsize=(5.2 * columns, height), dpi=120)
    for place, (title, panel) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(title, fontsize=11)
        _draw(axes, panel)
    classes = np.unique(np.concatenate([panel.labels for panel in panels.values()]))
    named = classes if len(classes) <= len(_COLOURS) else []  # Beyond that, colours repeat.
    handles = [Line2D([], [], ls="", marker="o", color=_COLOURS[c], label=str(c)) for c in named]
    center = Line2D([], [], ls="", marker="o", color="white", mec="black", label="center")
    figure.tight_layout(rect=(0, 0.6 / height, 1, 1))
    layout = dict(ncol=11 if columns > 1 else 6, frameon=False, columnspacing=1, handletextpad=0)
    figure.legend(handles=[*handles, center], loc="lower center", **layout)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def _draw(axes: Axes, panel: Panel) -> None:
    points, names = project(panel.embeddings, panel.embeddings)
    marks, _ = project(panel.embeddings, panel.centers)
    # One class after the other would bury the first under the last.
    order = np.random.RandomState(0).permutation(len(points))
    colours = np.array(_COLOURS)[panel.labels[order] % len(_COLOURS)]
    size = 10 if len(points) <= 2000 else 5
    axes.scatter(*points[order].T, s=size, c=colours, alpha=0.7, linewidths=0)
    is_named = len(marks) <= _MAX_NAMED_CLASSES
    size = 170 if is_named else 14
    axes.scatter(*marks.T, s=size, color="white", edgecolors="black", zorder=3)
    text = dict(ha="center", va="center", fontsize=8, weight="bold", zorder=4)
    for label, mark in zip(panel.center_labels, marks if is_named else []):
        axes.annotate(str(label), mark, **text)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def project(reference: np.ndarray, points: np.ndarray) -> Tuple[np.ndarray, List[str]]:
    """Brings `points` [K, D] down to [K, 2] and names the two axes.

    Of more than two dims, the two principal axes of `reference` [M, D] are taken.
    """
    dims = reference.shape[1]
    if dims <= 2:
        padded = np.pad(points, ((0, 0), (0, 2 - dims)), mode="constant")
        return padded, ["embedding dim 1", "embedding dim 2" if dims == 2 else ""]
    mean = reference.mean(axis=0, dtype=np.float64)
    # The D x D scatter has the same principal axes as the M x D rows, in less memory.
    axes, variances, _ = np.linalg.svd((reference - mean).T.dot(reference - mean))
    shares = variances[:2] / max(variances.sum(), np.finfo(float).tiny)
    names = [f"{n} principal axis of {dims} dims" for n in ("first", "second")]
    names = [f"{name}: {share:.0%} of the variance" for name, share in zip(names, shares)]
    return (points - mean).dot(axes[:, :2]), names
