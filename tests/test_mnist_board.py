"""What a run leaves for TensorBoard: read back as events, as files, and by TensorBoard itself."""

import collections
import json
import os
import re
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import mnist_board  # noqa: E402
import mnist_model  # noqa: E402
import mnist_training  # noqa: E402
import train_mnist  # noqa: E402
from idx_files import write_folder  # noqa: E402
from mnist_data import load_folder  # noqa: E402
from mnist_evaluation import Evaluation  # noqa: E402
from mnist_metrics import class_distances  # noqa: E402

STEPS = 40  # the last of which is one that writes summaries
FILES = {f"projector_{name}" for name in ("embeddings.tsv", "metadata.tsv", "sprite.png")}
CENTERS = {
    f"centers/{tag}"
    for tag in (
        "share_of_classes_seen mean_count min_count max_count norms mean_norm inter_class_distance"
    ).split()
}
Run = collections.namedtuple("Run", "model_dir, digits, report, ctrs")


@pytest.fixture(scope="module", params=["exponential", "none"])
def run(request, tmp_path_factory):
    """A short run on three classes, and what it reported."""
    folder = tmp_path_factory.mktemp(request.param)
    data_dir, model_dir = str(folder / "data"), str(folder / "model")
    os.mkdir(data_dir)
    os.mkdir(model_dir)
    write_folder(data_dir)
    digits = load_folder(data_dir)
    flags = f"--updater={request.param} --batch_size=8 --embed_dims=3 --eval_every=0"
    settings = train_mnist.parse_settings(
        ["train_mnist.py", f"--model_dir={model_dir}", f"--train_steps={STEPS}"] + flags.split()
    )
    with tf.Graph().as_default():
        model = mnist_model.build_model(settings, digits.train_images.shape[1:], digits.num_classes)
        mnist_training.train_alone(settings, digits, model)
        report = mnist_training.report(settings, digits, model)
    tf.summary.FileWriterCache.clear()
    return Run(model_dir, digits, report, report.panel.centers)


def values_of(model_dir):
    """`{tag: {step: value}}` of all events, each there once."""
    found = collections.defaultdict(dict)
    for name in os.listdir(model_dir):
        if "tfevents" not in name:
            continue
        for event in tf.train.summary_iterator(os.path.join(model_dir, name)):
            for value in event.summary.value:
                assert event.step not in found[value.tag], (value.tag, event.step)
                histo = value.histo if value.HasField("histo") else None
                found[value.tag][event.step] = histo or value.simple_value
    return found


def test_events(run):
    found = values_of(run.model_dir)
    metrics = run.report.metrics
    softmax_alone = metrics["updater"] == "none"
    assert CENTERS <= set(found)
    losses = {"softmax_loss", "total_loss"} | (set() if softmax_alone else {"center_loss"})
    assert {tag for tag in found if tag.startswith("train/")} == {f"train/{n}" for n in losses}
    for name in losses:
        assert set(found[f"train/{name}"]) == {20, 40}
    for name in ("test_accuracy", "nearest_center_accuracy", "intra_class_distance"):
        assert found[f"test/{name}"] == {STEPS: pytest.approx(metrics[name])}
    distances = class_distances(run.report.panel.embeddings, run.digits.test_labels)
    assert found["test/inter_class_distance"] == {STEPS: pytest.approx(distances.inter)}

    for tag in CENTERS:
        assert set(found[tag]) == ({STEPS} if softmax_alone else {20, STEPS})
    rows = len(run.digits.train_images) if softmax_alone else STEPS * 8
    last = {tag: found[f"centers/{tag}"][STEPS] for tag in ("mean_count", "mean_norm", "norms")}
    assert found["centers/share_of_classes_seen"][STEPS] == 1.0
    assert last["mean_count"] == pytest.approx(rows / 3)
    norms = np.linalg.norm(np.float64(run.ctrs), axis=1)
    assert last["mean_norm"] == pytest.approx(norms.mean(), rel=1e-5)
    assert last["norms"].num == 3 and last["norms"].max == pytest.approx(norms.max(), rel=1e-5)
    gaps = [np.linalg.norm(run.ctrs[i] - run.ctrs[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["centers/inter_class_distance"][STEPS] == pytest.approx(min(gaps), rel=1e-4)


def test_a_value_that_is_none_is_left_out(tmp_path):
    mnist_board.add_scalars(str(tmp_path), "test", {"a": 0.5, "b": None}, 7)
    tf.summary.FileWriterCache.get(str(tmp_path)).flush()
    assert values_of(str(tmp_path)) == {"test/a": {7: 0.5}}


def read_projector(model_dir):
    """The files of the projector, as arrays and as one dict of lists for the configuration."""
    with open(os.path.join(model_dir, "projector_config.pbtxt"), encoding="utf-8") as file:
        text = file.read()
    config = collections.defaultdict(list)
    for key, value in re.findall(r"^ *(\w+): (.*)$", text, re.MULTILINE):
        config[key].append(json.loads(value))
    assert {config[f"{kind}_path"][0] for kind in ("tensor", "metadata", "image")} == FILES
    paths = [os.path.join(model_dir, config[f"{kind}_path"][0]) for kind in ("tensor", "metadata")]
    points = np.loadtxt(paths[0], delimiter="\t", ndmin=2)
    with open(paths[1], encoding="utf-8") as file:
        header, *rows = [line.rstrip("\n").split("\t") for line in file]
    assert header == ["label", "softmax", "nearest_center"]
    with tf.Session(graph=tf.Graph()) as session, session.graph.as_default():
        png = tf.io.read_file(os.path.join(model_dir, config["image_path"][0]))
        sprite = session.run(tf.image.decode_png(png))
    return config, points, np.array(rows).astype(int), sprite[:, :, 0]


def tile(sprite, number, width, height):
    """The picture that the projector takes for a point: as many rows as columns."""
    per_row = sprite.shape[1] // width
    assert sprite.shape == (per_row * height, per_row * width)
    top, left = number // per_row * height, number % per_row * width
    return sprite[top : top + height, left : left + width]


def test_projector_files(run):
    config, points, classes, sprite = read_projector(run.model_dir)
    images = run.digits.test_images
    assert config["tensor_shape"] == [6, 3] and config["single_image_dim"] == [7, 8]
    np.testing.assert_array_equal(np.float32(points), run.report.panel.embeddings)
    np.testing.assert_array_equal(classes[:, 0], run.digits.test_labels)
    right = {"softmax": "test_accuracy", "nearest_center": "nearest_center_accuracy"}
    for column, name in enumerate(right.values(), start=1):
        share = np.mean(classes[:, column] == classes[:, 0])
        assert share == pytest.approx(run.report.metrics[name])
    for number, image in enumerate(images):
        np.testing.assert_array_equal(tile(sprite, number, 7, 8), 255 - image)
    assert sprite.shape == (3 * 8, 3 * 7)  # six images leave three tiles empty
    assert (tile(sprite, 8, 7, 8) == 255).all()
    assert not [name for name in os.listdir(run.model_dir) if name.endswith(".tmp")]


def make_evaluation(rows, dims):
    rng = np.random.RandomState(rows)
    labels = [rng.randint(0, 10, rows) for _ in range(3)]
    return Evaluation(rng.randn(rows, dims).astype(np.float32), *labels)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_at_least_three_dims(dims, tmp_path):
    # In the projector the third principal axis of fewer dims is no number, and no point is seen.
    evaluation = make_evaluation(4, dims)
    mnist_board.write_projector(str(tmp_path), np.zeros([4, 2, 3], np.uint8), evaluation)
    config, points, _, _ = read_projector(str(tmp_path))
    assert config["tensor_shape"] == [4, max(3, dims)] and points.shape == (4, max(3, dims))
    np.testing.assert_array_equal(np.float32(points[:, :dims]), evaluation.embeddings)
    assert not points[:, dims:].any()


@pytest.mark.parametrize("rows, fit", [(36, 36), (40, 36)])
def test_the_first_images_that_fit(rows, fit, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_board, "_SPRITE_PIXELS", 20)
    images = np.arange(rows * 6, dtype=np.uint8).reshape(rows, 2, 3)
    evaluation = make_evaluation(rows, 4)
    mnist_board.write_projector(str(tmp_path), images, evaluation)
    config, points, classes, sprite = read_projector(str(tmp_path))
    assert config["tensor_shape"] == [fit, 4] and sprite.shape == (12, 18)
    np.testing.assert_array_equal(np.float32(points), evaluation.embeddings[:fit])
    np.testing.assert_array_equal(classes[:, 2], evaluation.nearest[:fit])
    np.testing.assert_array_equal(tile(sprite, fit - 1, 3, 2), 255 - images[fit - 1])


def test_sprite_of_large_images_is_of_thumbnails(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, [2, 65, 9000]).astype(np.uint8)
    mnist_board.write_projector(str(tmp_path), images, make_evaluation(2, 3))
    config, _, _, sprite = read_projector(str(tmp_path))
    assert config["single_image_dim"] == [64, 1]  # every 141st pixel
    np.testing.assert_array_equal(tile(sprite, 1, 64, 1), 255 - images[1, ::141, ::141])


def test_files_are_as_they_were_after_an_error(tmp_path):
    images = np.zeros([4, 2, 3], np.uint8)
    mnist_board.write_projector(str(tmp_path), images, make_evaluation(4, 3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == FILES | {"projector_config.pbtxt"}
    wrong = make_evaluation(4, 5)._replace(nearest=np.zeros(3, int))
    with pytest.raises(ValueError):
        mnist_board.write_projector(str(tmp_path), images, wrong)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_tensorboard_reads_the_events(run):
    name = "tensorboard.backend.event_processing.event_accumulator"
    events = pytest.importorskip(name).EventAccumulator(run.model_dir)
    events.Reload()
    tags = events.Tags()
    assert CENTERS - {"centers/norms"} <= set(tags["scalars"])
    assert "test/test_accuracy" in tags["scalars"] and "centers/norms" in tags["histograms"]
    last = events.Scalars("test/intra_class_distance")[-1]
    assert last.step == STEPS
    assert last.value == pytest.approx(run.report.metrics["intra_class_distance"])
    assert events.Histograms("centers/norms")[-1].histogram_value.num == 3


def test_tensorboard_serves_the_projector(run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.projector import projector_plugin
    from werkzeug import test, wrappers

    runs = plugin_event_multiplexer.EventMultiplexer()
    runs.AddRunsFromDirectory(run.model_dir)
    runs.Reload()
    try:
        provider = data_provider.MultiplexerDataProvider(runs, run.model_dir)
    except TypeError:  # Its projector asks for none before TensorBoard 2.
        provider = None
    plugin = projector_plugin.ProjectorPlugin(
        base_plugin.TBContext(logdir=run.model_dir, multiplexer=runs, data_provider=provider)
    )
    apps = plugin.get_plugin_apps()

    def get(route, **query):
        response = test.Client(apps[route], wrappers.Response).get(query_string=query)
        assert response.status_code == 200, response.data
        return response.data

    assert json.loads(get("/runs").decode()) == ["."]
    config = json.loads(get("/info", run=".").decode())
    ours = [e for e in config["embeddings"] if e["tensorName"] == "test embeddings"]
    assert len(ours) == 1 and ours[0]["tensorShape"] == [6, 3]
    assert ours[0]["sprite"]["singleImageDim"] == [7, 8]
    asked = {"run": ".", "name": "test embeddings"}
    points = np.frombuffer(get("/tensor", num_rows=100000, **asked), np.float32)
    np.testing.assert_array_equal(points.reshape(6, 3), run.report.panel.embeddings)
    rows = get("/metadata", num_rows=100000, **asked).decode().splitlines()
    assert len(rows) == 1 + 6
    assert [int(row.split("\t")[0]) for row in rows[1:]] == run.digits.test_labels.tolist()
    with open(os.path.join(run.model_dir, "projector_sprite.png"), "rb") as file:
        assert get("/sprite_image", **asked) == file.read()
