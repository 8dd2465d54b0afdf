"""The pictures of a run: test embeddings, coloured by class, and the centers among them."""

from typing import Any, Dict, List, NamedTuple, Tuple, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from mnist_run import replacing

# Told apart with every common colour blindness (Okabe and Ito; Tol), from dark to light.
_COLOURS = (
    "#000000", "#332288", "#0072B2", "#56B4E9", "#009E73",
    "#999933", "#E69F00", "#E8D21D", "#D55E00", "#CC79A7",
)  # fmt: skip
_MARKERS = "o^sDvP"  # The eleventh class has the first colour again, and the second marker.
# More names, in the legend and at the centers, would hide the picture.
_MAX_NAMED_CLASSES = 40


class Panel(NamedTuple):
    """What one picture shows: M embeddings and K centers of D dims, with their classes."""

    embeddings: np.ndarray  # float [M, D]
    labels: np.ndarray  # integers [M]
    centers: np.ndarray  # float [K, D]
    center_labels: np.ndarray  # integers [K]


def write_embeddings(path: str, title: str, panel: Panel) -> None:
    """Draws one panel into a PNG file, which is replaced as a whole."""
    figure = Figure(figsize=(8.0, 6.4), dpi=120)
    axes = figure.add_subplot(1, 1, 1)
    classes = draw_panel(axes, panel)
    axes.set_title(title, fontsize=11)
    add_legend(axes, classes, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def write_comparison(path: str, panels: Dict[str, Panel]) -> None:
    """Draws one panel a title, two in a row, into a PNG file, which is replaced as a whole."""
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10.0, 4.7 * rows + 0.6), dpi=110)
    classes = np.empty(0, np.int64)
    for place, (title, panel) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, 2, place)
        classes = np.union1d(classes, draw_panel(axes, panel))
        axes.set_title(title, fontsize=11)
    bottom = 0.6 / figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, bottom, 1, 1))
    add_legend(figure, classes, loc="lower center", ncol=11)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def draw_panel(axes: Axes, panel: Panel) -> np.ndarray:
    """Scatters the embeddings and marks the centers, on two principal axes where D is above 2.

    Returns:
      The classes that occur, ascending.
    """
    points, (x_name, y_name) = project(panel.embeddings, panel.embeddings)
    marks, _ = project(panel.embeddings, panel.centers)
    labels = panel.labels
    classes = np.unique(np.concatenate([labels, panel.center_labels]))
    size = 10 if len(points) <= 2000 else 5
    colours = to_rgba_array(_COLOURS)
    turns, places = np.divmod(labels, len(_COLOURS))
    # One class after the other would bury the first under the last.
    for part in np.array_split(np.random.RandomState(0).permutation(len(points)), 20):
        # All classes of a marker at once: thousands of classes one by one would take hours.
        for turn, marker in enumerate(_MARKERS):
            mine = part[turns[part] % len(_MARKERS) == turn]
            axes.scatter(
                points[mine, 0], points[mine, 1], s=size, alpha=0.7, linewidths=0,
                c=colours[places[mine]], marker=marker,
            )  # fmt: skip
    is_named = len(classes) <= _MAX_NAMED_CLASSES
    axes.scatter(
        marks[:, 0], marks[:, 1], s=170 if is_named else 14, color="white", edgecolors="black",
        linewidths=1.2 if is_named else 0.6, zorder=3,
    )  # fmt: skip
    if is_named:
        for label, (x, y) in zip(panel.center_labels, marks):
            axes.annotate(
                str(label), (x, y), ha="center", va="center", fontsize=8, weight="bold", zorder=4
            )
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    return classes


def project(reference: np.ndarray, points: np.ndarray) -> Tuple[np.ndarray, List[str]]:
    """Brings `points` [K, D] down to [K, 2] and names the two axes.

    Two dims stay as they are, one dim gets a constant beside it; from more, the two principal axes
    of `reference` [M, D] are taken, by a singular value decomposition.
    """
    dims = reference.shape[1]
    if dims == 1:
        return np.column_stack([points, np.zeros(len(points))]), ["embedding dim 1", ""]
    if dims == 2:
        return np.asarray(points), ["embedding dim 1", "embedding dim 2"]
    mean = reference.mean(axis=0, dtype=np.float64)
    # The D x D scatter has the same principal axes as the M x D rows, at a fraction of the memory.
    spread = (reference - mean).T.dot(reference - mean)
    axes, variances, _ = np.linalg.svd(spread)
    total = max(variances.sum(), np.finfo(float).tiny)
    names = [f"principal axis {i + 1} ({variances[i] / total:.0%} of the variance)" for i in (0, 1)]
    return (points - mean).dot(axes[:, :2]), names


def _look(label: int) -> Dict[str, Any]:
    turn, colour = divmod(int(label), len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[turn % len(_MARKERS)]}


def add_legend(place: Union[Axes, Figure], classes: np.ndarray, **layout: Any) -> None:
    """Says how the classes look, where they are few enough, and the centers."""
    if len(classes) > _MAX_NAMED_CLASSES:
        classes = classes[:0]
    # Empty scatters carry the looks alone: the panel's dots are too small and too pale to read.
    axes = place if isinstance(place, Axes) else place.axes[0]
    entries = [axes.scatter([], [], s=40, label=str(label), **_look(label)) for label in classes]
    entries.append(axes.scatter([], [], s=90, color="white", edgecolors="black", label="center"))
    layout.setdefault("ncol", 1 + len(classes) // 21)
    title = "class" if len(classes) else None
    place.legend(handles=entries, title=title, frameon=False, **layout)
