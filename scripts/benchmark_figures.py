"""The picture of a benchmark: cost against the number of classes and of rows."""

from typing import Any, Sequence

from matplotlib.figure import Figure
from mnist_run import replacing

# Told apart with every common colour blindness (Okabe and Ito).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPX"


def write_curves(path: str, timings: Sequence[Any]) -> None:
    """Draws both curves into a PNG file, which is replaced as a whole.

    Args:
      path: the file.
      timings: `benchmark.Timing`s; those at D=128 and B=1,024 make the curve against C, those at
        D=128 and C=10,000 the curve against B.
    """
    figure = Figure(figsize=(10.0, 4.4), dpi=120)
    names = list(dict.fromkeys(timing.contender for timing in timings))
    panels = (
        ("classes", "classes C", "D = 128, B = 1,024", {"dims": 128, "rows": 1024}),
        ("rows", "rows of a batch B", "D = 128, C = 10,000", {"dims": 128, "classes": 10000}),
    )
    for place, (along, label, title, fixed) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        for index, name in enumerate(names):
            points = sorted(
                {
                    (getattr(timing, along), timing.median_us)
                    for timing in timings
                    if timing.contender == name
                    and all(getattr(timing, key) == value for key, value in fixed.items())
                }
            )
            if points:
                axes.plot(
                    *zip(*points),
                    color=_COLOURS[index % len(_COLOURS)],
                    marker=_MARKERS[index % len(_MARKERS)],
                    markersize=5,
                    label=name,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("microseconds a step")
        axes.set_title(title, fontsize=11)
        axes.grid(color="0.92", which="both")
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    with replacing(path) as beside:
        figure.savefig(beside, format="png")
