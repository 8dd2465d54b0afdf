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

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("resume")]

# Checkpoints are at steps 0, 20 and 30.
BATCH_SIZE, TRAIN_STEPS = 8, 30


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
def resume(train, small):
    """Starts or resumes the run in a folder."""

    def start(model_dir, **how):
        return train(*small, f"--train_steps={TRAIN_STEPS}", f"--model_dir={model_dir}", **how)

    return start


@pytest.fixture(scope="module")
def unbroken(resume, tmp_path_factory):
    """The folder of an unbroken run."""
    model_dir = tmp_path_factory.mktemp("unbroken") / "model"
    resume(model_dir).end()
    return model_dir


@pytest.fixture(scope="module")
def stopped(resume, tmp_path_factory):
    """The folder of a run that was asked to end in the step after 25, and what that run said."""
    model_dir = tmp_path_factory.mktemp("stopped") / "model"
    run = resume(model_dir, pause_at=25)
    run.wait_for("paused")
    run.send(signal.SIGTERM)
    run.tell("hear")
    return model_dir, told(run.end(143))


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of that folder."""
    model_dir = tmp_path / "model"
    shutil.copytree(str(stopped[0]), str(model_dir))
    return model_dir


def check_same(model_dir, unbroken):
    """Holds a run against the unbroken one, bit for bit."""
    found, wanted = newest(model_dir), newest(unbroken)
    assert found["embed/ctrs_count"].sum() == TRAIN_STEPS * BATCH_SIZE
    assert "embedding/kernel/Adam_1" in wanted  # Adam's moments are among them.
    del found["train_seconds"], wanted["train_seconds"]
    assert set(found) == set(wanted)
    for variable, value in wanted.items():
        np.testing.assert_array_equal(found[variable], value, err_msg=variable)
    assert metrics(model_dir) == metrics(unbroken)


def test_killed_again_and_again(resume, unbroken, tmp_path):
    """Between steps and while writing. Files of others are left alone, whatever their names."""
    model_dir = tmp_path / "model"
    (model_dir / "data.tempstate1").mkdir(parents=True)
    mine = [".notes.tmp", "a.tempstate", "model.ckpt-1_temp_x", "data.tempstate1/kept", ".lock"]
    for name in mine:
        (model_dir / name).write_text("mine")

    def kill_at(step):
        run = resume(model_dir, pause_at=step)
        run.wait_for("paused")
        run.kill()
        return run.output

    def kill_while_writing(name):
        run, deadline = resume(model_dir), time.monotonic() + DEADLINE_SECS
        while not any(found.startswith(name) for found in os.listdir(str(model_dir))):
            assert time.monotonic() < deadline
            time.sleep(0.001)  # Nothing tells when a file appears.
        run.send(signal.SIGKILL)
        return run.end(-signal.SIGKILL, 0)  # It may have been done already.

    kill_while_writing("settings.json")
    for step in (0, 19):
        assert f"{model_dir}: at step 0 of {TRAIN_STEPS}\n" in kill_at(step)
    kill_while_writing("model.ckpt-20.")
    kill_at(29)
    assert f"{model_dir}: at step 20 of {TRAIN_STEPS}\n" in kill_while_writing("metrics")
    resume(model_dir).end()
    assert all((model_dir / name).read_text() == "mine" for name in mine)
    check_same(model_dir, unbroken)


def test_asked_to_end(resume, unbroken, stopped, copied):
    model_dir, lines = stopped
    assert lines == [
        f"train_mnist.py: interrupted, and saved {model_dir}/model.ckpt-26 of {TRAIN_STEPS} "
        "steps; the same command resumes there"
    ]
    saved = newest(copied)
    assert saved["global_step"] == 26  # The step under way is made.
    assert saved["embed/ctrs_count"].sum() == 26 * BATCH_SIZE
    assert f"at step 26 of {TRAIN_STEPS}\n" in resume(copied).end()
    check_same(copied, unbroken)


def test_asked_twice(resume, tmp_path):
    """The second signal does not wait for the step under way."""
    model_dir = tmp_path / "model"
    run = resume(model_dir, pause_at=23)
    run.wait_for("paused")
    run.send(signal.SIGINT)
    run.send(signal.SIGTERM)
    (line,) = told(run.end(130, 143))
    assert line == "train_mnist.py: interrupted; the same command resumes"
    assert newest(model_dir)["global_step"] == 20


def test_full_disk(resume, unbroken, tmp_path):
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("cannot limit the file size of another process")
    model_dir = tmp_path / "model"
    run = resume(model_dir, pause_at=22)
    run.wait_for("paused")
    # A file that grows beyond this is refused, as on a full disk. Checkpoints and events do.
    hard = resource.prlimit(run.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (100000, hard))
    run.tell("go on")
    (line,) = told(run.end(2))
    assert f"flag --model_dir={model_dir}: " in line and "too large" in line
    assert newest(model_dir)["global_step"] == 20
    assert f"at step 20 of {TRAIN_STEPS}\n" in resume(model_dir).end()
    check_same(model_dir, unbroken)


def damage(path, how):
    content = path.read_bytes()
    flipped = content[:50] + bytes([content[50] ^ 1]) + content[51:]
    path.write_bytes({"cut": content[:-40], "flipped": flipped, "empty": b""}[how])


@pytest.mark.parametrize(
    "damages, resumed_at", [({26: "cut"}, 20), ({26: "flipped", 20: "cut"}, 0)]
)
def test_damaged_checkpoints(damages, resumed_at, resume, unbroken, copied):
    """The newest whole one counts, whatever the file `checkpoint` says."""
    for step, how in damages.items():
        damage(copied / f"model.ckpt-{step}.data-00000-of-00001", how)
    (copied / "checkpoint").write_text('model_checkpoint_path: "/nowhere/model.ckpt-7"')
    output = resume(copied).end()
    for step in damages:
        assert f"{copied}/model.ckpt-{step}: expected a whole checkpoint, found: " in output
    assert f"at step {resumed_at} of {TRAIN_STEPS}\n" in output
    check_same(copied, unbroken)


def test_no_checkpoint_that_is_whole(resume, copied):
    for step, how in ((26, "empty"), (20, "cut"), (0, "flipped")):
        damage(copied / f"model.ckpt-{step}.index", how)
    (copied / "checkpoint").write_bytes(b"\xff\xfe")
    before = {path: path.read_bytes() for path in copied.iterdir() if "ckpt-" not in path.name}
    (line,) = told(resume(copied).end(2))
    assert "model.ckpt-0: expected a whole checkpoint" in line and "start anew" in line
    for path in copied.glob("model.ckpt-*"):
        path.unlink()
    (line,) = told(resume(copied).end(2))
    assert "expected the checkpoints of an earlier run, found none" in line
    assert all(path.read_bytes() == content for path, content in before.items())
