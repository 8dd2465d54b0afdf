"""Whatever ends a training run, the same command ends it as if nothing had happened."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

TESTS = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = os.path.join(os.path.dirname(TESTS), "scripts")
sys.path.insert(0, SCRIPTS)

from idx_files import write_folder  # noqa: E402
from mnist_lock import locked  # noqa: E402
from mnist_run import InputError  # noqa: E402

BATCH_SIZE, TRAIN_STEPS = 8, 250
UPDATERS = ("exponential", "cumulative", "wen", "none")
# Far beyond what any machine needs: a bound, no measure.
DEADLINE_SECS = 120


class Runs:
    """Runs of the script below one folder, on one data set, and the process they are started by."""

    def __init__(self, folder):
        self.folder, self.logs, self.numbers = str(folder), {}, itertools.count()
        self.data_dir = os.path.join(self.folder, "data")
        os.mkdir(self.data_dir)
        write_folder(self.data_dir)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([os.path.dirname(TESTS), SCRIPTS])
        environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
        self.server = subprocess.Popen(
            [sys.executable, os.path.join(TESTS, "resume_program.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            universal_newlines=True,
        )

    def model_dir(self, name):
        return os.path.join(self.folder, name)

    def start(self, name, updater, pause_at=None):
        """Starts a run; where it is to pause at a step, waits until it does. Returns its pid."""
        flags = [
            f"--model_dir={self.model_dir(name)}", f"--updater={updater}", "--eval_every=50",
            f"--batch_size={BATCH_SIZE}", "--embed_dims=3", f"--train_steps={TRAIN_STEPS}",
            f"--data_dir={self.data_dir}",
        ]  # fmt: skip
        log = os.path.join(self.folder, f"{next(self.numbers)}.log")
        go = self.model_dir(name) + ".go"
        pid = self.ask(flags=flags, log=log, pause_at=pause_at, go=go)
        self.logs[pid] = log
        if pause_at is not None:
            self.wait_until(pid, lambda: f"paused at {pause_at}" in self.output(pid))
        return pid

    def proceed(self, name):
        """Lets a run that pauses go on."""
        with open(self.model_dir(name) + ".go", "wb"):
            pass

    def ask(self, **asked):
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def output(self, pid):
        if not os.path.exists(self.logs[pid]):
            return ""
        with open(self.logs[pid], encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait_until(self, pid, condition):
        deadline = time.monotonic() + DEADLINE_SECS
        while not condition():
            assert time.monotonic() < deadline, self.output(pid)
            time.sleep(0.001)

    def end(self, pid, code=0):
        """Waits for the end of a run; returns its output."""
        codes = []

        def has_ended():
            codes.append(self.ask(pid=pid))
            return codes[-1] is not None

        self.wait_until(pid, has_ended)
        output = self.output(pid)
        del self.logs[pid]
        assert codes[-1] == code, output
        assert "Traceback" not in output
        return output

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        self.end(pid, -signal.SIGKILL)

    def close(self):
        for pid in self.logs:
            os.kill(pid, signal.SIGKILL)
        self.server.stdin.close()
        self.server.wait(DEADLINE_SECS)
        self.server.stdout.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """With the unbroken run of every updater; no process outlives the tests."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    try:
        for updater in UPDATERS:
            runs.end(runs.start(f"unbroken-{updater}", updater))
        yield runs
    finally:
        runs.close()


def newest(model_dir):
    """The variables in the newest checkpoint."""
    reader = tf.train.load_checkpoint(model_dir)
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def check_as_unbroken(runs, name, updater):
    """Holds a run against the unbroken one, bit for bit, and looks for what it left behind."""
    found = newest(runs.model_dir(name))
    wanted = newest(runs.model_dir(f"unbroken-{updater}"))
    rows = 0 if updater == "none" else TRAIN_STEPS * BATCH_SIZE
    assert found["embed/ctrs_count"].sum() == rows
    # Adam's moments are among them.
    assert "embedding/kernel/Adam_1" in wanted
    del found["train_seconds"], wanted["train_seconds"]
    assert set(found) == set(wanted)
    for variable, value in wanted.items():
        np.testing.assert_array_equal(found[variable], value, err_msg=variable)

    metrics = []
    for run in (name, f"unbroken-{updater}"):
        with open(os.path.join(runs.model_dir(run), "metrics.json"), encoding="utf-8") as file:
            metrics.append(json.load(file))
        del metrics[-1]["train_seconds"]
    assert metrics[0] == metrics[1] and metrics[0]["train_steps"] == TRAIN_STEPS
    for left in os.listdir(runs.model_dir(name)):
        assert not re.search(r"\.tmp|tempstate|_temp_", left)


def has(folder, pattern):
    return os.path.isdir(folder) and any(re.match(pattern, name) for name in os.listdir(folder))


# A killed run, and the files or the step of which it was killed.
KILLED_WHEN = {
    "early": ("exponential", r"\.?settings\.json"),
    "saving": ("cumulative", r"model\.ckpt-200\."),
    "between": ("wen", 230),
    "late": ("none", rf"model\.ckpt-{TRAIN_STEPS}\.index"),
}


@pytest.mark.parametrize("name", list(KILLED_WHEN))
def test_killed(name, runs):
    updater, when = KILLED_WHEN[name]
    folder = runs.model_dir(name)
    pid = runs.start(name, updater, pause_at=when if isinstance(when, int) else None)
    if isinstance(when, str):
        runs.wait_until(pid, lambda: has(folder, when))
    else:
        with pytest.raises(InputError, match="--model_dir=.*no other process"):
            with locked(folder):
                pass
    runs.kill(pid)
    with locked(folder):
        pass

    output = runs.end(runs.start(name, updater))
    start = re.search(rf"{name}: at step (\d+) of {TRAIN_STEPS}$", output, re.MULTILINE).group(1)
    possible = {"early": "0", "between": "200", "late": str(TRAIN_STEPS)}
    assert start in possible.get(name, ("0", "200", "250"))
    check_as_unbroken(runs, name, updater)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end(signum, runs):
    name = f"signal-{int(signum)}"
    pid = runs.start(name, "exponential", pause_at=120)
    # The second comes while the first is heard, or during the save.
    os.kill(pid, signum)
    runs.proceed(name)
    os.kill(pid, signum)
    lines = runs.end(pid, 128 + signum).strip().splitlines()
    # The step under way is made.
    assert lines[-1] == (
        f"train_mnist.py: interrupted, and saved at step 121 of {TRAIN_STEPS} in "
        f"{runs.model_dir(name)}; the same command resumes there"
    )
    saved = newest(runs.model_dir(name))
    assert saved["global_step"] == 121
    assert saved["embed/ctrs_count"].sum() == 121 * BATCH_SIZE
    assert f"at step 121 of {TRAIN_STEPS}" in runs.end(runs.start(name, "exponential"))
    check_as_unbroken(runs, name, "exponential")


def test_full_disk(runs):
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("cannot limit the file size of another process")
    folder = runs.model_dir("full")
    pid = runs.start("full", "cumulative", pause_at=220)
    # A file that grows beyond this is refused, as on a full disk. Checkpoints and events do.
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100000, hard))
    runs.proceed("full")
    output = runs.end(pid, 2)
    told = [line for line in output.splitlines() if line.startswith("train_mnist.py: ")]
    assert len(told) == 1 and output.strip().endswith(told[0])
    assert re.search(r"full/model\.ckpt-250: expected to write it, found: .*too large", told[0])
    assert newest(folder)["global_step"] == 200
    for left in os.listdir(folder):
        assert not re.search(r"\.tmp|tempstate|_temp_|ckpt-250", left)

    assert f"at step 200 of {TRAIN_STEPS}" in runs.end(runs.start("full", "cumulative"))
    check_as_unbroken(runs, "full", "cumulative")
