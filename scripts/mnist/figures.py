"""Pictures of test embeddings, coloured by class, and the files of TensorBoard's projector."""

import os
from typing import Dict, List, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from matplotlib.figure import Figure
from tensorboard.plugins import projector

from mnist.evaluation import Evaluation

# Told apart with every common colour blindness (Okabe and Ito; Tol), from dark to light.
_COLOURS = "#000000 #332288 #0072B2 #56B4E9 #009E73 #999933 #E69F00 #E8D21D #D55E00 #CC79A7".split()


def write_panels(path: str, panels: Dict[str, Evaluation]) -> None:
    """Draws one panel for each title, two in a row, into a PNG file; circles are the centers."""
    rows, columns = (len(panels) + 1) // 2, min(len(panels), 2)
    figure = Figure(figsize=(5.2 * columns, 4.7 * rows), dpi=120)
    for place, (title, evaluation) in enumerate(panels.items(), start=1):
        seen = np.flatnonzero(evaluation.counts)
        (points, marks), names = project(evaluation.embeddings, evaluation.ctrs[seen])
        axes = figure.add_subplot(rows, columns, place)
        axes.set_title(title, fontsize=11)
        # One class after the other would bury the first under the last.
        order = np.random.RandomState(0).permutation(len(points))
        colours = np.array(_COLOURS)[evaluation.labels[order] % len(_COLOURS)]
        axes.scatter(*points[order].T, s=6, c=colours, alpha=0.7, linewidths=0)
        is_named = len(seen) <= 40  # More names would hide the picture.
        size = 170 if is_named else 14
        axes.scatter(*marks.T, s=size, color="white", edgecolors="black", zorder=3)
        for label, mark in zip(seen, marks if is_named else []):
            axes.annotate(str(label), mark, ha="center", va="center", fontsize=8, zorder=4)
        axes.set(xlabel=names[0], ylabel=names[1], axisbelow=True)
        axes.grid(color="0.92")
    figure.tight_layout()
    figure.savefig(path)


def project(embeddings: np.ndarray, ctrs: np.ndarray) -> Tuple[List[np.ndarray], List[str]]:
    """Brings [M, D] and [K, D] down to two dims, and names the axes.

    Of more than two dims, the two principal axes of the embeddings are taken.
    """
    dims, both = embeddings.shape[1], [embeddings, ctrs]
    if dims <= 2:
        names = ["embedding dim 1", "embedding dim 2" if dims == 2 else ""]
        return [np.pad(rows, ((0, 0), (0, 2 - dims)), "constant") for rows in both], names
    mean = embeddings.mean(axis=0, dtype=np.float64)
    # The D x D scatter has the same principal axes as the M x D rows, in less memory.
    axes, variances, _ = np.linalg.svd((embeddings - mean).T.dot(embeddings - mean))
    shares = variances[:2] / max(variances.sum(), np.finfo(float).tiny)
    names = [f"principal axis: {share:.0%} of the variance of {dims} dims" for share in shares]
    return [(rows - mean).dot(axes[:, :2]) for rows in both], names


def write_projector(model_dir: str, evaluation: Evaluation) -> None:
    """Writes what the projector reads: the test embeddings and their classes."""
    names = "projector_embeddings.tsv", "projector_metadata.tsv"
    rows = evaluation.embeddings
    points = np.pad(rows, ((0, 0), (0, max(0, 3 - rows.shape[1]))), "constant")  # It draws three.
    np.savetxt(os.path.join(model_dir, names[0]), points, "%.9g", "\t")
    classes = np.column_stack([evaluation.labels, evaluation.predictions, evaluation.nearest])
    header = "label\tsoftmax\tnearest_center"
    np.savetxt(os.path.join(model_dir, names[1]), classes, "%d", "\t", header=header, comments="")
    shown = projector.EmbeddingInfo(tensor_name="test embeddings", tensor_shape=points.shape)
    shown.tensor_path, shown.metadata_path = names
    config = projector.ProjectorConfig(embeddings=[shown])
    projector.visualize_embeddings(tf.summary.FileWriterCache.get(model_dir), config)
