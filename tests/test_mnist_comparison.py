"""The comparison of the training script: one run for each updater, and one picture of them all."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_figures  # noqa: E402
import train_mnist  # noqa: E402
from idx_files import write_folder  # noqa: E402
from mnist_run import UPDATERS, InputError  # noqa: E402

FLAGS = ["--compare", "--batch_size=8", "--embed_dims=2", "--eval_every=0"]


def run_script(*flags):
    """As a user would: called in this process, the script would turn TF2 off in it for good."""
    subprocess.run(
        [sys.executable, os.path.join(SCRIPTS, "train_mnist.py")] + list(flags),
        check=True,
        env=dict(os.environ, PYTHONPATH=os.path.dirname(SCRIPTS)),
    )


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def test_compare(tmp_path):
    write_folder(str(tmp_path))
    model_dir = str(tmp_path / "model")
    flags = FLAGS + [f"--data_dir={tmp_path}", f"--model_dir={model_dir}", "--train_steps=3"]
    run_script(*flags)
    assert sorted(os.listdir(model_dir)) == sorted(
        list(UPDATERS) + ["comparison.json", "comparison.png"]
    )
    with open(os.path.join(model_dir, "comparison.png"), "rb") as file:
        assert file.read(4) == b"\x89PNG"
    found = load(os.path.join(model_dir, "comparison.json"))
    assert set(found) == set(UPDATERS)
    initial = []
    for updater, metrics in found.items():
        folder = os.path.join(model_dir, updater)
        assert metrics["updater"] == updater and metrics["train_steps"] == 3
        assert metrics == load(os.path.join(folder, "metrics.json"))
        trained = tf.train.load_checkpoint(folder)
        rows = trained.get_tensor("embed/ctrs_count").sum()
        assert rows == (0 if updater == "none" else 3 * 8)
        initial.append(tf.train.load_checkpoint(os.path.join(folder, "model.ckpt-0")))
        assert not np.array_equal(
            initial[-1].get_tensor("logits/kernel"), trained.get_tensor("logits/kernel")
        )
    # One seed: all of them start from the same network.
    for name in ("logits/kernel", "conv1_1/kernel", "embedding/kernel"):
        assert all((one.get_tensor(name) == initial[0].get_tensor(name)).all() for one in initial)

    # What has ended is not trained again; a run that was lost is.
    wen = os.path.join(model_dir, "wen")
    for name in os.listdir(wen):
        os.remove(os.path.join(wen, name))
    before = {name: os.listdir(os.path.join(model_dir, name)) for name in ("none", "cumulative")}
    run_script(*flags)
    again = load(os.path.join(model_dir, "comparison.json"))
    for updater, metrics in again.items():
        seconds = "train_seconds"
        assert dict(metrics, **{seconds: 0}) == dict(found[updater], **{seconds: 0})
        assert (metrics[seconds] == found[updater][seconds]) == (updater != "wen")
    for name, files in before.items():
        assert set(files) <= set(os.listdir(os.path.join(model_dir, name)))


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--updater=wen", "--updater=wen: expected none beside --compare"),
        ("--updater=exponential", "--updater=exponential: expected none beside --compare"),
        ("--ps_hosts=localhost:1", "--compare=true: expected a single process"),
    ],
)
def test_flags_that_do_not_go_with_it(flag, message):
    with pytest.raises(InputError, match=message):
        train_mnist.parse_settings(["train_mnist.py", "--compare", flag])
    assert not train_mnist.parse_settings(["train_mnist.py", "--nocompare"]).compare


def test_steps_unless_told_otherwise():
    for flags, steps in ((["--embed_dims=2"], 6000), (["--embed_dims=7"], 6000), ([], 3000)):
        assert train_mnist.parse_settings(["train_mnist.py"] + flags).train_steps == steps
    told = ["train_mnist.py", "--embed_dims=2", "--train_steps=5"]
    assert train_mnist.parse_settings(told).train_steps == 5


@pytest.mark.parametrize("panels", [2, 4])
def test_no_labels_overlap(panels, tmp_path, monkeypatch):
    figures = []

    class Kept(mnist_figures.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    monkeypatch.setattr(mnist_figures, "Figure", Kept)
    rng = np.random.RandomState(0)
    points, labels = 1000 * rng.randn(200, 2), np.arange(200) % 10
    panel = mnist_figures.Panel(points, labels, points[:10], labels[:10])
    # As long as titles get.
    title = "exponential window, decay 0.9999; distance ratio 16.9\n"
    title += "accuracy 99.06%, nearest center 98.76%"
    mnist_figures.write_comparison(
        str(tmp_path / "picture.png"), {f"{title}{i}": panel for i in range(panels)}
    )
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    boxes = [legend.get_window_extent(renderer) for legend in figure.legends]
    assert len(boxes) == 1 and len(figure.axes) == panels
    for axes in figure.axes:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        texts += axes.get_xticklabels()[1:-1]
        boxes += [text.get_window_extent(renderer) for text in texts]
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
