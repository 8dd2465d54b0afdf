"""Wrong flags, folders and files: one line that names them, exit code 2, nothing written."""

import os
import re
import socket
import subprocess
import sys

import pytest
from idx_files import write_folder
from programs import ROOT, SCRIPTS
from script_output import told

HOSTS = ["--ps_hosts=a:1,b:2", "--worker_hosts=c:3,[::1]:65535"]
BAD_FLAGS = [
    (["--decay=2"], "--decay=2"),
    (["--decay=nan"], "--decay=nan"),
    (["--alpha=-0.1"], "--alpha=-0.1"),
    (["--center_loss_weight=inf"], "--center_loss_weight=inf"),
    (["--center_loss_weight=nan"], "--center_loss_weight=nan"),
    (["--learning_rate=nan"], "--learning_rate=nan"),
    (["--learning_rate=0"], "--learning_rate=0"),
    (["--updater=mean"], "--updater=mean: .*exponential.*cumulative.*wen.*none"),
    (["--network=lenet"], "--network=lenet: .*light.*lenet_pp"),
    (["--batch_size=0"], "--batch_size=0"),
    (["--batch_size=1.5"], "--batch_size=1.5"),
    (["--batch_size=41"], "--batch_size=41: expected at most 40"),
    (["--train_steps=0"], "--train_steps=0"),
    (["--embed_dims=0"], "--embed_dims=0"),
    (["--seed=-1"], "--seed=-1"),
    (["--seed"], "seed"),
    (["--eval_every=-5"], "--eval_every=-5"),
    (["--model_dir="], "--model_dir=: expected"),
    (["--batch_sizes=1"], "batch_sizes.*batch_size"),
    (["--compare=maybe"], "--compare=maybe"),
    (["--nocompare=1"], "--nocompare"),
    (["--compare", "--updater=wen"], "--compare: expected .*--updater"),
    (["--compare", *HOSTS, "--job_name=worker"], "--compare: expected .*cluster"),
    (["stray"], "'stray'"),
    ([*HOSTS], "--job_name=: expected ps or worker"),
    (["--task_index=1"], "--job_name=: expected ps or worker"),
    ([*HOSTS, "--job_name=chief"], "--job_name=chief: .*ps.*worker"),
    ([HOSTS[0], "--job_name=ps"], "--worker_hosts=: expected"),
    ([HOSTS[1], "--job_name=worker"], "--ps_hosts= .*expected"),
    ([*HOSTS, "--job_name=ps", "--task_index=2"], "--task_index=2: expected at most 1"),
    (["--ps_hosts=a:1,b", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=a:0", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=a:65536", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=http://a:1", HOSTS[1], "--job_name=ps"], "--ps_hosts=.*expected host:port"),
    (["--ps_hosts=a:1,a:1", HOSTS[1], "--job_name=ps"], "--ps_hosts=a:1,a:1.*one twice"),
    ([HOSTS[0], "--worker_hosts=c:3,b:2", "--job_name=ps"], "--worker_hosts=c:3,b:2.*one twice"),
]


def refusal(train, *flags):
    """The one line that a run says before it ends."""
    output = train(*flags).end(2)
    lines = output.strip().splitlines()
    assert told(output) == lines[-1:], output
    return lines[-1]


@pytest.mark.parametrize("flags, pattern", BAD_FLAGS)
def test_bad_flags(flags, pattern, train, data_dir, tmp_path):
    model_dir = tmp_path / "model"
    defaults = [f"--data_dir={data_dir}", f"--model_dir={model_dir}", "--batch_size=8"]
    line = refusal(train, *defaults, *flags)
    assert re.search(pattern, line), line
    assert os.listdir(str(tmp_path)) == []


def test_one_line_in_all(data_dir, tmp_path):
    """In a process of its own, TensorFlow has not been imported, and adds nothing."""
    script = os.path.join(SCRIPTS, "train_mnist.py")
    for flag in ("--decay=2", f"--data_dir={tmp_path}/nowhere"):
        result = subprocess.run(
            [sys.executable, script, f"--data_dir={data_dir}", f"--model_dir={tmp_path}/m", flag],
            capture_output=True,
            env=dict(os.environ, PYTHONPATH=ROOT),
        )
        assert result.returncode == 2 and not result.stdout
        assert len(result.stderr.decode().strip().splitlines()) == 1
    assert os.listdir(str(tmp_path)) == []


def test_help_names_every_flag(train):
    output = train("--help").end(1)
    for flag in (
        "data_dir updater decay alpha center_loss_weight embed_dims network batch_size train_steps "
        "learning_rate seed eval_every model_dir compare ps_hosts worker_hosts job_name task_index"
    ).split():
        assert f"--{flag}:" in output or f"--[no]{flag}:" in output


def test_model_dir_that_is_a_file(train, data_dir, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    for wrong in (path, path / "below"):
        line = refusal(train, f"--data_dir={data_dir}", "--batch_size=8", f"--model_dir={wrong}")
        assert f"flag --model_dir={wrong}: expected a folder" in line
    assert path.read_text() == "mine" and os.listdir(str(tmp_path)) == ["file"]


def test_port_in_use(train, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        hosts = f"--ps_hosts=127.0.0.1:{taken.getsockname()[1]}"
        line = refusal(train, hosts, "--worker_hosts=c:3", "--job_name=ps")
    assert "flag --ps_hosts: expected a port to listen on" in line


def test_wrong_files(train, tmp_path):
    data_dir, model_dir = tmp_path / "data", tmp_path / "model"
    flags = [f"--data_dir={data_dir}", f"--model_dir={model_dir}", "--batch_size=8"]
    assert "flag --data_dir=" in refusal(train, *flags)
    data_dir.mkdir()
    write_folder(str(data_dir))
    images = data_dir / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    assert f"{images}: expected 2240 bytes" in refusal(train, *flags)
    assert not model_dir.exists()
