"""Draws the plots of docs/costs.md from what `scripts/benchmark.py --json` wrote.

  python scripts/maintenance/plot_costs.py FOLDER PATH [PATH]

Each PATH is of one version of TensorFlow, the first drawn solid, the second dashed. Sizes that
differ in C alone become costs_classes.png and costs_codebooks.png, those that differ in B alone
costs_rows.png, and options costs_options.png.
"""

import json
import pathlib
import sys

from matplotlib.figure import Figure

CALLS = ["recipe", "eq. (4)", "ExponentialWindow", "CumulativeMean", "WenUpdate"]
# Of each plot: what differs among its sizes, its place in C/D/B, and the contenders.
LINES = {
    "costs_classes": ("classes", 0, [*CALLS, "dense one-hot"]),
    "costs_rows": ("rows of a batch", 2, CALLS),
    "costs_codebooks": ("codes", 0, ["recipe", "FadingMean", "dense codebook"]),
}


def series(timings, place):
    """The largest group of sizes that differ in one place: its title, and points by contender."""
    groups = {}
    for timing in timings:
        size = timing["size"].split("/")
        x, size[place] = int(size[place]), "..."
        points = groups.setdefault(" / ".join(size), {}).setdefault(timing["contender"], [])
        points.append((x, timing["median_us"]))
    return max(groups.items(), key=lambda group: max(map(len, group[1].values())))


def main(folder, *paths):
    runs = [json.loads(pathlib.Path(path).read_text("utf-8")) for path in paths]
    plots = {name: Figure(figsize=(6, 4)).subplots() for name in [*LINES, "costs_options"]}
    for number, (run, style) in enumerate(zip(runs, ["-", "--"])):
        for name, (axis, place, contenders) in LINES.items():
            size, found = series(run["timings"], place)
            plots[name].set(xlabel=axis, ylabel="microseconds", title=f"C / D / B = {size}")
            for color, contender in enumerate(contenders):
                label = f"{contender}, {run['tensorflow']}"
                points = sorted(found.get(contender, [])) or [(float("nan"),) * 2]
                plots[name].loglog(*zip(*points), f"C{color}.{style}", label=label)
        options = {timing["contender"]: timing["ratio"] for timing in run["options"]}
        heights = [row + 0.4 * number for row in range(len(options))]
        plots["costs_options"].barh(heights, list(options.values()), 0.4, label=run["tensorflow"])
        plots["costs_options"].set_yticks(heights, list(options))
        plots["costs_options"].set(xlabel="time, as a multiple of the plain call")
    for name, plot in plots.items():
        plot.legend(fontsize="x-small")
        path = pathlib.Path(folder) / f"{name}.png"
        plot.figure.savefig(path, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main(*sys.argv[1:])
