"""Wrong flags, folders and files: one line that names them, exit code 2, nothing written."""

import contextlib
import io
import os
import pathlib
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile

import pytest
from absl.testing import flagsaver
from idx_files import write_folder
from programs import ROOT, SCRIPTS, in_own_process

HOSTS = ["--ps_hosts=a:1,b:2", "--worker_hosts=c:3,[::1]:65535"]
BAD_FLAGS = [
    (["--decay=2"], "--decay=2"),
    (["--decay=nan"], "--decay=nan"),
    (["--center_loss_weight=inf"], "--center_loss_weight=inf"),
    (["--updater=mean"], "--updater=mean: .*exponential.*cumulative.*wen.*none"),
    (["--batch_size=0"], "--batch_size=0"),
    (["--batch_size=41"], "--batch_size=41: expected at most 40"),
    (["--train_steps=abc"], "--train_steps=abc"),
    (["--embed_dims=0"], "--embed_dims=0"),
    (["--seed=-1"], "--seed=-1"),
    (["--model_dir="], "--model_dir=: expected"),
    (["--model_dir=run[1]"], r"--model_dir=run\[1\]: expected a path without"),
    (["--model_dir=file:///run"], "--model_dir=file:///run: expected a path without"),
    (["--updater=wen", "--decay=0.9"], "--decay: does nothing with --updater=wen"),
    (["--alpha=0.5"], "--alpha: does nothing with --updater=exponential"),
    (["--batch_sizes=1"], "batch_sizes.*batch_size"),
    (["--nocompare=1"], "--nocompare"),
    (["--compare", "--updater=wen"], "--compare: expected .*--updater"),
    (["--compare", *HOSTS, "--job_name=worker"], "--compare: expected .*cluster"),
    (["stray"], "'stray'"),
    ([*HOSTS], "job_name=None.*: expected none of them, or two lists"),
    (["--task_index=1"], "job_name=None.*: expected none of them, or two lists"),
    ([*HOSTS, "--job_name=chief"], "--job_name=chief: .*ps.*worker"),
    ([HOSTS[0], "--job_name=ps"], r"worker_hosts=\[\].*: expected none of them, or two lists"),
    ([HOSTS[1], "--job_name=worker"], r"ps_hosts=\[\].*: expected none of them, or two lists"),
    ([*HOSTS, "--job_name=ps", "--task_index=2"], "task_index=2: .*the place of this process"),
    (["--ps_hosts=a:1,b", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=a:0", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=http://a:1", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=a:1,a:1", HOSTS[1], "--job_name=ps"], "'a:1', 'a:1'.*without repeats"),
    ([HOSTS[0], "--worker_hosts=c:3,b:2", "--job_name=ps"], "'c:3', 'b:2'.*without repeats"),
]


def refusal(*flags):
    """The one line that the script says of flags, in a process that may call it many times."""
    import train_mnist  # It hears signals from now on.

    with flagsaver.flagsaver(), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = train_mnist.main(train_mnist.parse_flags(["train_mnist.py", *flags]))
        except SystemExit as error:
            code = error.code
    assert code == 2, said.getvalue()
    (line,) = said.getvalue().splitlines()
    assert line.startswith("train_mnist.py: ")
    return line


@in_own_process
def test_bad_flags_folders_and_files():
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        data_dir, model_dir, file = folder / "data", folder / "model", folder / "file"
        flags = [f"--data_dir={data_dir}", f"--model_dir={model_dir}", "--batch_size=8"]
        assert "flag --data_dir=" in refusal(*flags)
        data_dir.mkdir()
        write_folder(str(data_dir))
        for bad, pattern in BAD_FLAGS:
            line = refusal(*flags, *bad)
            assert re.search(pattern, line), (bad, line)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            hosts = f"--ps_hosts=127.0.0.1:{taken.getsockname()[1]}"
            line = refusal(*flags, hosts, "--worker_hosts=c:3", "--job_name=ps")
        assert "flag --ps_hosts: expected a port to listen on" in line
        file.write_text("mine")
        for wrong in (file, file / "below"):
            line = refusal(*flags, f"--model_dir={wrong}")
            assert f"flag --model_dir={wrong}: expected a folder" in line
        images = data_dir / "train-images-idx3-ubyte"
        images.write_bytes(images.read_bytes()[:-1])
        assert f"{images}: expected an array of (40, 8, 7), found 2239 bytes" in refusal(*flags)
        assert sorted(os.listdir(path)) == ["data", "file"] and not os.path.exists("run[1]")
        assert file.read_text() == "mine"


def start_apart(*flags, stderr=subprocess.PIPE):
    """The script in a process of its own, which has not imported TensorFlow."""
    command = [sys.executable, os.path.join(SCRIPTS, "train_mnist.py"), *flags]
    environment = dict(os.environ, PYTHONPATH=ROOT)
    return subprocess.Popen(command, stderr=stderr, env=environment)


def test_one_line_in_all(tmp_path):
    """Without what TensorFlow says when it is imported."""
    run = start_apart(f"--data_dir={tmp_path}/nowhere", f"--model_dir={tmp_path}/model")
    assert len(run.communicate()[1].decode().strip().splitlines()) == 1 and run.returncode == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which signals a process takes")
def test_ctrl_c_in_the_first_seconds(data_dir, tmp_path):
    """As soon as the script itself has begun."""
    run = start_apart(f"--data_dir={data_dir}", f"--model_dir={tmp_path}/m", "--batch_size=8")
    caught = 0
    while not caught & 1 << (signal.SIGTERM - 1):
        with open(f"/proc/{run.pid}/status") as file:
            caught = int(re.search(r"SigCgt:\s*(\w+)", file.read()).group(1), 16)
    run.send_signal(signal.SIGINT)
    assert run.communicate()[1] == b"train_mnist.py: interrupted; the same command resumes\n"
    assert run.returncode == 130


def test_a_terminal_without_a_size(data_dir, tmp_path):
    reader, terminal = pty.openpty()
    flags = [f"--data_dir={data_dir}", f"--model_dir={tmp_path}/m", "--batch_size=8"]
    run = start_apart(*flags, "--train_steps=2", stderr=terminal)
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # the end
        while True:
            output += os.read(reader, 4096)
    os.close(reader)
    assert run.wait() == 0 and b"2/2" in output


def test_help_names_every_flag(train):
    output = train("--help").end(1)
    for flag in (
        "data_dir updater decay alpha center_loss_weight embed_dims network batch_size train_steps "
        "learning_rate seed eval_every model_dir compare ps_hosts worker_hosts job_name task_index"
    ).split():
        assert f"--{flag}:" in output or f"--[no]{flag}:" in output
