"""Whatever ends a training run, the same command ends it as if nothing had happened."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from programs import DEADLINE_SECS
from script_output import told

pytestmark = pytest.mark.slow

# Checkpoints are at steps 0, 20 and 30.
BATCH_SIZE, TRAIN_STEPS = 8, 30


def flags(data_dir, model_dir, updater="exponential"):
    return [
        f"--data_dir={data_dir}", f"--model_dir={model_dir}", f"--updater={updater}",
        f"--batch_size={BATCH_SIZE}", "--embed_dims=3", "--eval_every=10",
        f"--train_steps={TRAIN_STEPS}",
    ]  # fmt: skip


def newest(model_dir):
    """The variables in the newest checkpoint."""
    reader = tf.train.load_checkpoint(str(model_dir))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def metrics(model_dir):
    with open(os.path.join(str(model_dir), "metrics.json"), encoding="utf-8") as file:
        found = json.load(file)
    del found["train_seconds"]
    return found


@pytest.fixture(scope="module")
def unbroken(train, data_dir, tmp_path_factory):
    """The folder of an unbroken run of an updater."""
    folder, made = tmp_path_factory.mktemp("unbroken"), {}

    def run(updater):
        if updater not in made:
            made[updater] = folder / updater
            train(*flags(data_dir, made[updater], updater)).end()
        return made[updater]

    return run


def check_same(model_dir, wanted_dir):
    """Holds a run against an unbroken one, bit for bit."""
    found, wanted = newest(model_dir), newest(wanted_dir)
    rows = 0 if metrics(model_dir)["updater"] == "none" else TRAIN_STEPS * BATCH_SIZE
    assert found["embed/ctrs_count"].sum() == rows
    assert "embedding/kernel/Adam_1" in wanted  # Adam's moments are among them.
    del found["train_seconds"], wanted["train_seconds"]
    assert set(found) == set(wanted)
    for variable, value in wanted.items():
        np.testing.assert_array_equal(found[variable], value, err_msg=variable)
    assert metrics(model_dir) == metrics(wanted_dir)


@pytest.mark.parametrize(
    "updater, at, resumed_at",
    [("exponential", 0, 0), ("cumulative", 19, 0), ("exponential", 21, 20), ("none", 29, 20)],
)
def test_killed_between_steps(updater, at, resumed_at, train, data_dir, tmp_path, unbroken):
    model_dir = tmp_path / "model"
    run = train(*flags(data_dir, model_dir, updater), pause_at=at)
    run.wait_for("paused")
    run.kill()
    output = train(*flags(data_dir, model_dir, updater)).end()
    assert f"{model_dir}: at step {resumed_at} of {TRAIN_STEPS}\n" in output
    check_same(model_dir, unbroken(updater))


@pytest.mark.parametrize("name", ["settings.json", "model.ckpt-20.", "metrics"])
def test_killed_while_writing(name, train, data_dir, tmp_path, unbroken):
    model_dir = tmp_path / "model"
    run = train(*flags(data_dir, model_dir))
    deadline = time.monotonic() + DEADLINE_SECS
    while not (model_dir.exists() and any(n.startswith(name) for n in os.listdir(str(model_dir)))):
        assert time.monotonic() < deadline
        time.sleep(0.001)  # Nothing tells when a file appears.
    run.send(signal.SIGKILL)
    run.end(-signal.SIGKILL, 0)  # It may have been done already.
    train(*flags(data_dir, model_dir)).end()
    check_same(model_dir, unbroken("exponential"))


def test_asked_to_end(train, data_dir, tmp_path, unbroken):
    model_dir = tmp_path / "model"
    run = train(*flags(data_dir, model_dir), pause_at=12)
    run.wait_for("paused")
    run.send(signal.SIGTERM)
    run.tell("hear")
    (line,) = told(run.end(143))
    saved = newest(model_dir)
    assert saved["global_step"] == 13  # The step under way is made.
    assert line == (
        f"train_mnist.py: interrupted, and saved {model_dir}/model.ckpt-13 of {TRAIN_STEPS} "
        "steps; the same command resumes there"
    )
    assert saved["embed/ctrs_count"].sum() == 13 * BATCH_SIZE
    output = train(*flags(data_dir, model_dir)).end()
    assert f"at step 13 of {TRAIN_STEPS}\n" in output
    check_same(model_dir, unbroken("exponential"))


def test_asked_twice(train, data_dir, tmp_path):
    """The second signal does not wait for the step under way."""
    model_dir = tmp_path / "model"
    run = train(*flags(data_dir, model_dir), pause_at=23)
    run.wait_for("paused")
    run.send(signal.SIGINT)
    run.send(signal.SIGTERM)
    (line,) = told(run.end(130, 143))
    assert line == "train_mnist.py: interrupted; the same command resumes"
    assert newest(model_dir)["global_step"] == 20


def test_full_disk(train, data_dir, tmp_path, unbroken):
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("cannot limit the file size of another process")
    model_dir = tmp_path / "model"
    run = train(*flags(data_dir, model_dir, "cumulative"), pause_at=22)
    run.wait_for("paused")
    # A file that grows beyond this is refused, as on a full disk. Checkpoints and events do.
    hard = resource.prlimit(run.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (100000, hard))
    run.tell("go on")
    (line,) = told(run.end(2))
    assert f"flag --model_dir={model_dir}: " in line and "too large" in line
    assert newest(model_dir)["global_step"] == 20
    output = train(*flags(data_dir, model_dir, "cumulative")).end()
    assert f"at step 20 of {TRAIN_STEPS}\n" in output
    check_same(model_dir, unbroken("cumulative"))


def cut(content):
    return content[:-40]


def flip(content):
    return content[:50] + bytes([content[50] ^ 1]) + content[51:]


INDEX, DATA = "index", "data-00000-of-00001"


@pytest.fixture(scope="module")
def stopped(train, data_dir, tmp_path_factory):
    """The folder of a run that was asked to end at step 26."""
    model_dir = tmp_path_factory.mktemp("stopped") / "model"
    run = train(*flags(data_dir, model_dir), pause_at=25)
    run.wait_for("paused")
    run.send(signal.SIGINT)
    run.tell("hear")
    run.end(130)
    return model_dir


@pytest.mark.parametrize(
    "damage, part, state",
    [
        (cut, DATA, None),
        (flip, DATA, b'model_checkpoint_path: "/nowhere/model.ckpt-7"'),
        (lambda content: b"", INDEX, b"\xff\xfe"),
    ],
)
def test_damaged_checkpoint(damage, part, state, train, data_dir, tmp_path, stopped, unbroken):
    """The newest whole one counts, whatever the file `checkpoint` says."""
    model_dir = tmp_path / "model"
    shutil.copytree(str(stopped), str(model_dir))
    path = model_dir / f"model.ckpt-26.{part}"
    path.write_bytes(damage(path.read_bytes()))
    (model_dir / "checkpoint").unlink()
    if state is not None:
        (model_dir / "checkpoint").write_bytes(state)
    output = train(*flags(data_dir, model_dir)).end()
    assert f"{model_dir}/model.ckpt-26: expected a whole checkpoint, found: " in output
    assert f"at step 20 of {TRAIN_STEPS}\n" in output
    check_same(model_dir, unbroken("exponential"))


def test_no_checkpoint_that_is_whole(train, data_dir, tmp_path):
    model_dir = tmp_path / "model"
    train(*flags(data_dir, model_dir), "--train_steps=2").end()
    for path in model_dir.glob("*.index"):
        path.write_bytes(cut(path.read_bytes()))
    before = {path: path.read_bytes() for path in model_dir.iterdir() if path.is_file()}
    (line,) = told(train(*flags(data_dir, model_dir)).end(2))
    assert "model.ckpt-0: expected a whole checkpoint" in line and "start anew" in line
    for path in model_dir.glob("model.ckpt-*"):
        path.unlink()
    (line,) = told(train(*flags(data_dir, model_dir)).end(2))
    assert "expected the checkpoints of an earlier run, found none" in line
    for path, content in before.items():
        assert "ckpt-" in path.name or path.read_bytes() == content


def test_files_of_others_are_left_alone(train, data_dir, tmp_path, unbroken):
    """Whatever they are called, and whatever ends a run."""
    model_dir = tmp_path / "model"
    (model_dir / "data.tempstate1").mkdir(parents=True)
    mine = [".notes.tmp", "a.tempstate", "model.ckpt-1_temp_x", "data.tempstate1/kept", ".lock"]
    for name in mine:
        (model_dir / name).write_text("mine")
    run = train(*flags(data_dir, model_dir), pause_at=22)
    run.wait_for("paused")
    run.kill()
    train(*flags(data_dir, model_dir)).end()
    assert all((model_dir / name).read_text() == "mine" for name in mine)
    check_same(model_dir, unbroken("exponential"))


def test_a_folder_of_something_else(train, data_dir, tmp_path):
    for name in ("metrics.json", "embeddings.png", "settings.json"):
        path = tmp_path / name
        path.write_text('{"editor.tabSize": 4}')
        (line,) = told(train(*flags(data_dir, tmp_path)).end(2))
        assert str(tmp_path) in line and "pass another" in line
        assert path.read_text() == '{"editor.tabSize": 4}'
        path.unlink()
