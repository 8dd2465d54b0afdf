"""The training script from outside: what it leaves behind, and what it refuses."""

import contextlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from matplotlib.figure import Figure

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_checkpoints  # noqa: E402
import mnist_figures  # noqa: E402
import mnist_run  # noqa: E402
import train_mnist  # noqa: E402
from idx_files import write_folder  # noqa: E402
from mnist_run import InputError, check_identity, check_model_dir, identity  # noqa: E402

METRICS = {
    "dataset",
    "train_examples",
    "test_examples",
    "train_steps",
    "updater",
    "test_accuracy",
    "nearest_center_accuracy",
    "intra_class_distance",
    "inter_class_distance",
    "train_seconds",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    write_folder(folder)
    return folder


def run_script(*arguments):
    """Runs the script as a user would; returns its exit code, its output and its errors."""
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(SCRIPTS))
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    result = subprocess.run(
        [sys.executable, os.path.join(SCRIPTS, "train_mnist.py")] + list(arguments),
        capture_output=True,
        env=environment,
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def train(data_dir, model_dir, *arguments):
    """A tiny run that has to succeed; returns its metrics."""
    flags = ["--batch_size=8", "--embed_dims=3", "--eval_every=2"]
    flags += [f"--data_dir={data_dir}", f"--model_dir={model_dir}"]
    code, _, errors = run_script(*(flags + list(arguments)))
    assert code == 0, errors
    # A library may report an error, of a missing GPU for instance, but no notice.
    assert not re.search(r"^([IW]\d{4} |.*WARNING|.*deprecated)", errors, re.MULTILINE), errors
    with open(os.path.join(model_dir, "metrics.json"), encoding="utf-8") as file:
        return json.load(file)


def counts(model_dir):
    reader = tf.train.load_checkpoint(model_dir)
    assert reader.get_variable_to_shape_map()["embed/ctrs"] == [3, 3]
    return reader.get_tensor("embed/ctrs_count")


def contents(folder):
    """Every file below a folder with its bytes."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                found[path] = file.read()
    return found


def test_run_resume_and_refuse(data_dir, tmp_path):
    model_dir = str(tmp_path / "model")
    metrics = train(data_dir, model_dir, "--train_steps=6")
    assert METRICS <= set(metrics)
    assert metrics["train_examples"] == 40 and metrics["test_examples"] == 6
    assert metrics["train_steps"] == 6 and metrics["updater"] == "exponential"
    assert counts(model_dir).sum() == 6 * 8
    with open(os.path.join(model_dir, "embeddings.png"), "rb") as file:
        assert file.read(4) == b"\x89PNG"
    tags = set()
    for name in os.listdir(model_dir):
        if "tfevents" in name:
            for event in tf.train.summary_iterator(os.path.join(model_dir, name)):
                tags |= {value.tag for value in event.summary.value}
    assert {"test/test_accuracy", "test/nearest_center_accuracy"} <= tags

    assert train(data_dir, model_dir, "--train_steps=10")["train_steps"] == 10
    assert counts(model_dir).sum() == 10 * 8

    before = contents(model_dir)
    for flag, word in (("--embed_dims=4", "embed_dims"), ("--updater=wen", "updater")):
        code, output, errors = run_script(
            "--batch_size=8", "--embed_dims=3", f"--data_dir={data_dir}", "--train_steps=12",
            f"--model_dir={model_dir}", flag,
        )  # fmt: skip
        assert code == 2 and not output
        line = errors.strip().splitlines()[-1]
        assert f"holds a run with --{word}=" in line and f"this one has {flag}" in line
        assert "Traceback" not in errors
    assert contents(model_dir) == before


@pytest.mark.parametrize("updater", ["cumulative", "wen", "none"])
def test_other_updaters(updater, data_dir, tmp_path):
    metrics = train(data_dir, str(tmp_path / "model"), "--train_steps=3", f"--updater={updater}")
    assert metrics["updater"] == updater
    assert counts(str(tmp_path / "model")).sum() == (0 if updater == "none" else 3 * 8)
    assert 0 <= metrics["nearest_center_accuracy"] <= 1


def test_bad_input_as_a_user_sees_it(data_dir, tmp_path):
    model_dir = str(tmp_path / "model")
    for bad in ("--decay=2", f"--data_dir={tmp_path}/nowhere"):
        code, output, errors = run_script(f"--data_dir={data_dir}", f"--model_dir={model_dir}", bad)
        assert code == 2 and not output
        assert len(errors.strip().splitlines()) == 1 and bad.split("=")[0] in errors
    assert not os.path.exists(model_dir)


BAD_FLAGS = [
    ("--decay=2", r"--decay=2: expected a number in \[0, 1\]"),
    ("--decay=nan", r"--decay=nan"),
    ("--alpha=-0.1", r"--alpha=-0.1: expected a number in \[0, 1\]"),
    ("--updater=mean", r"--updater=mean: expected one of exponential, cumulative, wen, none"),
    ("--batch_size=0", r"--batch_size=0: expected an integer in \[1, "),
    ("--batch_size=1.5", r"--batch_size=1.5"),
    ("--batch_size=41", r"--batch_size=41: expected at most 40"),
    ("--train_steps=-1", r"--train_steps=-1"),
    ("--embed_dims=0", r"--embed_dims=0"),
    ("--learning_rate=0", r"--learning_rate=0"),
    ("--seed=-1", r"--seed=-1"),
    ("--eval_every=-5", r"--eval_every=-5"),
    ("--center_loss_weight=-1", r"--center_loss_weight=-1"),
    ("--model_dir=", r"--model_dir=: expected"),
    ("--no_such_flag=1", r"no_such_flag"),
    ("--batch_sizes=1", r"'batch_sizes'. Did you mean: batch_size"),
    ("--seed", r"[Mm]issing value for flag --seed"),
    ("--network=lenet", r"--network=lenet: expected one of light, lenet_pp"),
    ("--compare=maybe", r"--compare=maybe: expected true or false"),
    ("--nohelp=1", r"flag --nohelp=1 does not take an argument"),
    ("stray", r"'stray'"),
]


@pytest.mark.parametrize("bad, message", BAD_FLAGS)
def test_bad_flags(bad, message, data_dir, tmp_path):
    arguments = ["train_mnist.py", f"--data_dir={data_dir}", f"--model_dir={tmp_path}/model"]
    if bad != "--batch_size=41":
        arguments.append("--batch_size=8")
    with pytest.raises(InputError, match=message) as error:
        train_mnist.load_checked(train_mnist.parse_settings(arguments + [bad]))
    assert "\n" not in str(error.value).strip()
    assert not os.path.exists(str(tmp_path / "model"))


def test_model_dir_that_is_none(tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    for wrong in (path, path / "below"):
        with pytest.raises(InputError, match="--model_dir=.*expected a folder"):
            check_model_dir(str(wrong))
    assert path.read_text() == "mine"


def test_identity_names_the_difference(tmp_path):
    settings = train_mnist.parse_settings(["train_mnist.py", "--train_steps=5"])
    same = identity(settings._replace(train_steps=9, alpha=0.1), 7)
    assert same == identity(settings, 7)
    (tmp_path / "settings.json").write_text(json.dumps(same))
    check_identity(str(tmp_path), same)
    with pytest.raises(InputError, match="--seed=1, this one has --seed=2"):
        check_identity(str(tmp_path), identity(settings._replace(seed=2), 7))
    with pytest.raises(InputError, match="other data"):
        check_identity(str(tmp_path), identity(settings, 8))


def test_identity_of_another_version(tmp_path, monkeypatch):
    wanted = identity(train_mnist.parse_settings(["train_mnist.py"]), 7)
    path = tmp_path / "settings.json"
    check_identity(str(tmp_path), wanted)
    older = {name: value for name, value in wanted.items() if name != "embed_dims"}
    path.write_text(json.dumps(older))
    with pytest.raises(
        InputError, match="a run with no --embed_dims, this one has --embed_dims=64"
    ):
        check_identity(str(tmp_path), wanted)
    # What an earlier version did, before it had the flag.
    monkeypatch.setitem(mnist_run.Settings._field_defaults, "embed_dims", 64)
    check_identity(str(tmp_path), wanted)
    with pytest.raises(InputError, match="with --embed_dims=64, this one has --embed_dims=8;"):
        check_identity(str(tmp_path), dict(wanted, embed_dims=8))

    path.write_text(json.dumps(dict(wanted, later=None)))
    with pytest.raises(InputError, match="with --later=None, this one has no --later"):
        check_identity(str(tmp_path), wanted)
    for damaged in ("", "{", "[]", "\0"):
        path.write_text(damaged)
        with pytest.raises(InputError, match="settings.json: expected an earlier run's settings"):
            check_identity(str(tmp_path), wanted)


@pytest.mark.parametrize(
    "state", [b"\xff\xfe", b"junk", b'model_checkpoint_path: "gone"'], ids=["bytes", "text", "gone"]
)
def test_broken_checkpoint(state, tmp_path):
    assert mnist_checkpoints.open_checkpoint(str(tmp_path)) is None
    (tmp_path / "checkpoint").write_bytes(state)
    with pytest.raises(InputError, match="checkpoint: expected"):
        mnist_checkpoints.open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_projection(dims):
    rng = np.random.RandomState(0)
    reference = rng.randn(50, dims) * np.arange(1, dims + 1)
    found, names = mnist_figures.project(reference, reference[:4])
    assert found.shape == (4, 2) and len(names) == 2
    if dims <= 2:
        np.testing.assert_array_equal(found[:, :dims], reference[:4])
    else:
        # Principal axes are of most variance, and uncorrelated.
        points, _ = mnist_figures.project(reference, reference)
        covariance = np.cov(points.T)
        assert abs(covariance[0, 1]) < 1e-9
        assert covariance[0, 0] >= covariance[1, 1] > np.cov(reference.T)[0, 0]


def test_many_classes_in_a_picture():
    """Every dot has the look of its class, with a bounded number of things to draw."""
    labels = np.arange(3000) % 1500
    points = np.random.RandomState(0).randn(3000, 2)
    axes = Figure().add_subplot(1, 1, 1)
    classes = mnist_figures.draw_panel(
        axes, mnist_figures.Panel(points, labels, points[:1500] + 9, labels[:1500])
    )
    mnist_figures.add_legend(axes, classes)
    assert len(axes.collections) + len(axes.texts) < 200
    looks = {}
    for dots in axes.collections:
        shape = dots.get_paths()[0].vertices.tobytes()
        if len(dots.get_facecolors()) == len(dots.get_offsets()):  # The centers have one for all.
            for (x, y), colour in zip(dots.get_offsets(), dots.get_facecolors()):
                looks[float(x), float(y)] = shape, tuple(colour)
    by_class = [looks[tuple(point)] for point in points.tolist()]
    for row in range(3000):
        # Sixty looks: the same one for classes sixty apart, and for these alone.
        assert by_class[row] == by_class[labels[row] % 60]
    assert len(set(by_class)) == 60
    assert len({shape for shape, _ in by_class[:10]}) == 1
    assert len({colour for _, colour in by_class[:60:10]}) == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["center"]


def test_pictures_are_replaced_as_a_whole(tmp_path):
    path = str(tmp_path / "picture.png")
    panel = mnist_figures.Panel(np.eye(3), np.arange(3), np.eye(3), np.arange(3))
    mnist_figures.write_embeddings(path, "title", panel)
    before = contents(str(tmp_path))
    with contextlib.suppress(ValueError, IndexError):
        mnist_figures.write_embeddings(path, "title", panel._replace(centers=np.zeros([3, 2])))
        raise AssertionError("a wrong panel was drawn")
    assert contents(str(tmp_path)) == before
