"""What runs of the training script leave behind, and what they refuse."""

import collections
import itertools
import json
import os
import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mnist.config import InputError, claim, locked
from script_output import NOTICES, told

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
CENTERS = {
    f"centers/{tag}"
    for tag in (
        "share_of_classes_seen mean_count min_count max_count norms mean_norm inter_class_distance"
    ).split()
}
PROJECTOR = {
    f"projector_{n}" for n in "embeddings.tsv metadata.tsv sprite.png config.pbtxt".split()
}


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def counts(model_dir):
    return tf.train.load_checkpoint(model_dir).get_tensor("embed/ctrs_count")


def contents(folder):
    """Every file in a folder with its bytes."""
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def values_of(model_dir):
    """`{tag: {step: value}}` of all events."""
    found = collections.defaultdict(dict)
    for name in os.listdir(model_dir):
        if "tfevents" in name:
            for event in tf.train.summary_iterator(os.path.join(model_dir, name)):
                for value in event.summary.value:
                    histo = value.histo if value.HasField("histo") else None
                    found[value.tag][event.step] = histo or value.simple_value
    return found


@pytest.fixture(scope="module")
def runs(train, data_dir, tmp_path_factory):
    """The folders of --compare."""
    model_dir = tmp_path_factory.mktemp("compare") / "model"
    flags = [f"--data_dir={data_dir}", "--batch_size=8", "--embed_dims=2", "--eval_every=5"]
    flags += ["--compare", "--train_steps=40", f"--model_dir={model_dir}"]
    output = train(*flags).end()
    return str(model_dir), flags, output


def test_compare(runs):
    model_dir, _, output = runs
    found = load(model_dir, "comparison.json")
    assert list(found) == ["none", "exponential", "cumulative", "wen"]
    initial = []
    for updater, metrics in found.items():
        folder = os.path.join(model_dir, updater)
        assert metrics["updater"] == updater and metrics["train_steps"] == 40
        assert metrics == load(folder, "metrics.json") and METRICS <= set(metrics)
        assert metrics["train_examples"] == 40 and metrics["test_examples"] == 6
        assert counts(folder).sum() == (0 if updater == "none" else 40 * 8)
        row = rf"\| `{updater}` \| {metrics['test_accuracy']:.4f} \| .* \| .* \| \d+ s \|"
        assert re.search(row, output)
        for picture in (os.path.join(folder, "embeddings.png"), f"{model_dir}/comparison.png"):
            with open(picture, "rb") as file:
                assert file.read(4) == b"\x89PNG"
        initial.append(tf.train.load_checkpoint(os.path.join(folder, "model.ckpt-0")))
    # One seed: all of them start from the same network.
    for name in ("logits/kernel", "conv1_1/kernel", "embedding/kernel"):
        assert all((one.get_tensor(name) == initial[0].get_tensor(name)).all() for one in initial)


def test_compare_again_trains_only_what_is_missing(runs, train):
    model_dir, flags, _ = runs
    first = load(model_dir, "comparison.json")
    for name in os.listdir(os.path.join(model_dir, "wen")):
        os.remove(os.path.join(model_dir, "wen", name))
    with locked(os.path.join(model_dir, "wen")):
        (line,) = told(train(*flags).end(2))
    assert "/wen: expected a folder that no other process uses" in line
    output = train(*flags).end()
    assert re.findall(r"/(\w+): at step (\d+) of 40\n", output) == [
        ("none", "40"), ("exponential", "40"), ("cumulative", "40"), ("wen", "0"),
    ]  # fmt: skip
    again = load(model_dir, "comparison.json")
    for updater, metrics in again.items():
        if updater == "wen":  # Trained anew: the same numbers, in another time.
            del metrics["train_seconds"], first[updater]["train_seconds"]
        assert metrics == first[updater]


@pytest.mark.parametrize("updater", ["exponential", "none"])
def test_events(updater, runs):
    model_dir = os.path.join(runs[0], updater)
    found, metrics = values_of(model_dir), load(model_dir, "metrics.json")
    losses = {"softmax_loss", "total_loss"} | (set() if updater == "none" else {"center_loss"})
    assert {tag for tag in found if tag.startswith("train/")} == {f"train/{n}" for n in losses}
    for loss in losses:
        assert len(found[f"train/{loss}"]) == 2  # every 20 steps
    for name in ("test_accuracy", "nearest_center_accuracy", "intra_class_distance"):
        assert found[f"test/{name}"][40] == pytest.approx(metrics[name])
    assert set(range(5, 41, 5)) <= set(found["test/test_accuracy"])

    ctrs = tf.train.load_checkpoint(model_dir).get_tensor("embed/ctrs")
    assert CENTERS <= set(found)
    assert found["centers/share_of_classes_seen"][40] == 1.0
    rows = metrics["train_examples"] if updater == "none" else 40 * 8
    assert found["centers/mean_count"][40] == pytest.approx(rows / 3)
    if updater == "none":
        assert metrics["centers"] == "means of the training embeddings"
        assert 5 not in found["test/nearest_center_accuracy"]
    else:
        norms = np.linalg.norm(np.float64(ctrs), axis=1)
        assert found["centers/mean_norm"][40] == pytest.approx(norms.mean(), rel=1e-5)
        assert found["centers/norms"][40].max == pytest.approx(norms.max(), rel=1e-5)
        gaps = [np.linalg.norm(a - b) for a, b in itertools.combinations(ctrs, 2)]
        assert found["centers/inter_class_distance"][40] == pytest.approx(min(gaps), rel=1e-4)


def test_tensorboard_serves_the_projector(runs):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.projector import projector_plugin
    from werkzeug import test, wrappers

    model_dir = os.path.join(runs[0], "exponential")
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(model_dir)
    multiplexer.Reload()
    try:
        provider = data_provider.MultiplexerDataProvider(multiplexer, model_dir)
    except TypeError:  # Its projector asks for none before TensorBoard 2.
        provider = None
    plugin = projector_plugin.ProjectorPlugin(
        base_plugin.TBContext(logdir=model_dir, multiplexer=multiplexer, data_provider=provider)
    )
    apps = plugin.get_plugin_apps()

    def get(route, **query):
        response = test.Client(apps[route], wrappers.Response).get(query_string=query)
        assert response.status_code == 200, response.data
        return response.data

    assert json.loads(get("/runs").decode()) == ["."]
    config = json.loads(get("/info", run=".").decode())
    ours = [e for e in config["embeddings"] if e["tensorName"] == "test embeddings"]
    # Two dims: the projector needs a third, of zeros.
    assert len(ours) == 1 and ours[0]["tensorShape"] == [6, 3]
    assert ours[0]["sprite"]["singleImageDim"] == [7, 8]
    asked = {"run": ".", "name": "test embeddings"}
    points = np.frombuffer(get("/tensor", num_rows=100000, **asked), np.float32).reshape(6, 3)
    assert (points[:, 2] == 0).all() and len(np.unique(points[:, 0])) == 6
    rows = get("/metadata", num_rows=100000, **asked).decode().splitlines()
    assert rows[0].split("\t") == ["label", "softmax", "nearest_center"] and len(rows) == 7
    assert [int(row.split("\t")[0]) for row in rows[1:]] == [0, 1, 2, 0, 1, 2]
    with tf.Session() as session:
        sprite = session.run(tf.image.decode_png(get("/sprite_image", **asked), channels=1))
    # Three by three pictures of 8 x 7, the last ones white, of images that are dark on it.
    assert sprite.shape == (24, 21, 1) and (sprite[16:] == 255).all()
    brightness = [sprite[:8, :7].mean(), sprite[:8, 7:14].mean(), sprite[:8, 14:].mean()]
    assert sorted(brightness, reverse=True) == brightness


def test_resume_and_refuse(train, small, tmp_path):
    model_dir = tmp_path / "model"
    flags = [*small, f"--model_dir={model_dir}"]
    output = train(*flags, "--train_steps=6").end()
    assert f"{model_dir}: at step 0 of 6\n" in output and "step 6: test_accuracy" in output
    assert not re.search("warning|deprecated", NOTICES.sub("", output), re.IGNORECASE), output
    assert set(PROJECTOR) <= set(os.listdir(str(model_dir)))
    # Another number of steps is no other run.
    output = train(*flags, "--train_steps=10").end()
    assert f"{model_dir}: at step 6 of 10\n" in output
    assert load(str(model_dir), "metrics.json")["train_steps"] == 10
    assert counts(str(model_dir)).sum() == 10 * 8

    before = contents(model_dir)
    for other, held in (
        ("--embed_dims=4", "--embed_dims=3"),
        ("--updater=wen", "--updater=exponential"),
        ("--decay=0.9", "--decay=0.95"),
        ("--data_dir=", "other data than --data_dir"),
    ):
        (line,) = told(train(*flags, "--train_steps=12", other).end(2))
        assert f"--model_dir={model_dir}: holds a run" in line and held in line, line
        assert other.rstrip("=") in line
    with locked(str(model_dir)):
        (line,) = told(train(*flags, "--train_steps=12").end(2))
    assert "no other process uses" in line
    assert contents(model_dir) == before


def test_settings_that_are_damaged_or_gone(tmp_path):
    settings, run = tmp_path / "settings.json", {"data_crc32": 3}
    for damaged in (b"", b"{", b"[" * 100000, b"[1]", b"\xff", b'{"seed": 1}', None):
        settings.write_bytes(damaged) if damaged is not None else os.mkfifo(str(settings))
        with pytest.raises(InputError, match=f"{settings}: expected the settings of the run"):
            claim(str(tmp_path), run)
        settings.unlink()
    for _ in range(2):  # Once they are removed they are written, and then held against others.
        claim(str(tmp_path), run)
        assert load(str(settings)) == run
    with pytest.raises(InputError, match="other data than --data_dir"):
        claim(str(tmp_path), {"data_crc32": 4})


def test_divergence(train, small, tmp_path):
    flags = ["--updater=none", "--learning_rate=10", "--train_steps=5000", "--embed_dims=1"]
    for updater in ("none", "exponential"):
        model_dir = tmp_path / updater
        output = train(
            *small, *flags, "--center_loss_weight=1e6", f"--updater={updater}",
            "--network=lenet_pp", f"--model_dir={model_dir}",
        ).end(2)  # fmt: skip
        (line,) = told(output)
        assert "flag --learning_rate=10.0: expected finite losses and embeddings" in line
        assert not (model_dir / "metrics.json").exists()
