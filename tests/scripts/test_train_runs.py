"""What runs of the training script leave behind, and what they refuse."""

import collections
import json
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from google.protobuf import text_format
from mnist.config import InputError, claim, locked
from script_output import NOTICES, told
from tensorboard.plugins import projector

TOGETHER = pytest.mark.xdist_group("compare")
METRICS = (
    "dataset train_examples test_examples train_steps updater test_accuracy "
    "nearest_center_accuracy intra_class_distance inter_class_distance train_seconds"
).split()


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def saved(folder, name, checkpoint=None):
    """The value of a variable in a checkpoint of a run, or in the newest."""
    return tf.train.load_checkpoint(str(folder / (checkpoint or ""))).get_tensor(name)


def values_of(folder):
    """`{tag: {step: value}}` of all events."""
    found = collections.defaultdict(dict)
    for path in folder.glob("*tfevents*"):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found[value.tag][event.step] = value.simple_value
    return found


@pytest.fixture(scope="module")
def runs(train, data_dir, tmp_path_factory):
    """The folder of --compare, the flags and the output."""
    folder = tmp_path_factory.mktemp("compare") / "model"
    flags = [f"--data_dir={data_dir}", "--batch_size=8", "--embed_dims=2", "--eval_every=5"]
    flags += ["--compare", "--train_steps=40", f"--model_dir={folder}"]
    return folder, flags, train(*flags).end()


@TOGETHER
def test_compare(runs):
    folder, _, output = runs
    found = load(folder / "comparison.json")
    assert list(found) == ["none", "exponential", "cumulative", "wen"]
    for updater, metrics in found.items():
        assert metrics["updater"] == updater and metrics["train_steps"] == 40
        assert metrics == load(folder / updater / "metrics.json") and set(METRICS) <= set(metrics)
        assert metrics["train_examples"] == 40 and metrics["test_examples"] == 6
        counts = saved(folder / updater, "embed/ctrs_count")
        assert counts.sum() == (0 if updater == "none" else 40 * 8)
        name = "softmax alone" if updater == "none" else updater
        assert re.search(rf"(?m)^{name}, .*accuracy {metrics['test_accuracy']:.2%}, ", output)
        for picture in (folder / updater / "embeddings.png", folder / "comparison.png"):
            assert picture.read_bytes()[:4] == b"\x89PNG"
        # One seed: all of them start from the same network.
        kernels = [saved(folder / one, "logits/kernel", "model.ckpt-0") for one in (updater, "wen")]
        np.testing.assert_array_equal(*kernels)


@TOGETHER
def test_compare_again_trains_only_what_is_missing(runs, train):
    folder, flags, _ = runs
    first = load(folder / "comparison.json")
    for path in (folder / "wen").iterdir():
        path.unlink()
    with locked(str(folder / "none")):
        (line,) = told(train(*flags).end(2))
    assert "/none: expected a folder that no other process uses" in line
    steps = re.findall(r"/(\w+): at step (\d+) of 40\n", train(*flags).end())
    assert steps == [(updater, "0" if updater == "wen" else "40") for updater in first]
    again = load(folder / "comparison.json")
    # Trained anew: the same numbers, in another time.
    del again["wen"]["train_seconds"], first["wen"]["train_seconds"]
    assert again == first


@TOGETHER
@pytest.mark.parametrize("updater", ["exponential", "none"])
def test_events(updater, runs):
    folder = runs[0] / updater
    found, metrics = values_of(folder), load(folder / "metrics.json")
    losses = {"softmax_loss", "total_loss"} | (set() if updater == "none" else {"center_loss"})
    assert {tag for tag in found if tag.startswith("train/")} == {f"train/{n}" for n in losses}
    for loss in losses:
        assert len(found[f"train/{loss}"]) == 2  # every 20 steps
    for name in ("test_accuracy", "nearest_center_accuracy", "intra_class_distance"):
        assert found[f"test/{name}"][40] == pytest.approx(metrics[name])
    assert set(range(5, 41, 5)) <= set(found["test/test_accuracy"])
    assert found["centers/share_of_classes_seen"][40] == 1.0
    rows = metrics["train_examples"] if updater == "none" else 40 * 8
    assert found["centers/mean_count"][40] == pytest.approx(rows / 3)
    if updater == "none":
        assert metrics["centers"] == "means of the training embeddings"
        assert 5 not in found["test/nearest_center_accuracy"]
    else:
        norms = np.linalg.norm(np.float64(saved(folder, "embed/ctrs")), axis=1)
        assert found["centers/mean_norm"][40] == pytest.approx(norms.mean(), rel=1e-5)


@TOGETHER
def test_files_of_the_projector(runs):
    folder = runs[0] / "exponential"
    config = text_format.Parse(
        (folder / "projector_config.pbtxt").read_text(), projector.ProjectorConfig()
    )
    (shown,) = config.embeddings
    # Two dims: the projector needs a third, of zeros.
    points = np.loadtxt(str(folder / shown.tensor_path), delimiter="\t")
    assert list(shown.tensor_shape) == list(points.shape) == [6, 3]
    assert (points[:, 2] == 0).all() and len(np.unique(points[:, 0])) == 6
    header, *rows = (folder / shown.metadata_path).read_text().splitlines()
    assert header.split("\t") == ["label", "softmax", "nearest_center"]
    assert [int(row.split("\t")[0]) for row in rows] == [0, 1, 2, 0, 1, 2]


def test_resume_and_refuse(train, small, tmp_path):
    folder = tmp_path / "model"
    flags = [*small, f"--model_dir={folder}"]
    output = train(*flags, "--train_steps=6").end()
    assert f"{folder}: at step 0 of 6\n" in output and "step 6: test_accuracy" in output
    assert not re.search("warning|deprecated", NOTICES.sub("", output), re.IGNORECASE), output
    # Another number of steps is no other run.
    assert f"{folder}: at step 6 of 10\n" in train(*flags, "--train_steps=10").end()
    assert load(folder / "metrics.json")["train_steps"] == 10
    assert saved(folder, "embed/ctrs_count").sum() == 10 * 8

    before = {path: path.read_bytes() for path in folder.iterdir()}
    for other, held in (
        ("--updater=wen", "--updater=exponential"),
        ("--data_dir=", "other data than --data_dir"),
    ):
        (line,) = told(train(*flags, "--train_steps=12", other).end(2))
        assert f"--model_dir={folder}: holds a run" in line and held in line, line
        assert other.rstrip("=") in line
    with locked(str(folder)):
        (line,) = told(train(*flags, "--train_steps=12").end(2))
    assert "no other process uses" in line
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_folders_that_hold_no_run_or_another(tmp_path):
    settings, run = tmp_path / "settings.json", {"data_crc32": 3}
    for name in ("metrics.json", "embeddings.png"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match=f"{tmp_path}: .*pass another"):
            claim(str(tmp_path), run)
        assert (tmp_path / name).read_text() == "mine" and not settings.exists()
        (tmp_path / name).unlink()
    for damaged in (b"", b"{", b"[" * 100000, b"[1]", b"\xff", b'{"editor.tabSize": 4}', None):
        settings.write_bytes(damaged) if damaged is not None else os.mkfifo(str(settings))
        with pytest.raises(InputError, match=f"{settings}: expected the settings of the run"):
            claim(str(tmp_path), run)
        assert damaged is None or settings.read_bytes() == damaged
        settings.unlink()
    for _ in range(2):  # Once they are removed they are written, and then held against others.
        claim(str(tmp_path), run)
        assert load(settings) == run
    with pytest.raises(InputError, match="other data than --data_dir"):
        claim(str(tmp_path), {"data_crc32": 4})


@pytest.mark.parametrize("updater", ["none", "exponential"])
def test_divergence(updater, train, small, tmp_path):
    model_dir = tmp_path / "model"
    output = train(
        *small, "--learning_rate=10", "--train_steps=5000", "--embed_dims=1", "--network=lenet_pp",
        "--center_loss_weight=1e6", f"--updater={updater}", f"--model_dir={model_dir}",
    ).end(2)  # fmt: skip
    (line,) = told(output)
    assert "flag --learning_rate=10.0: expected finite losses and embeddings" in line
    assert not (model_dir / "metrics.json").exists()
