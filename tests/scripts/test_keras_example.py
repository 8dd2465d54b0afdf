"""scripts/keras_example.py from outside, on a small data set."""

import os
import re
import subprocess
import sys

from idx_files import write_folder
from script_runs import ROOT, SCRIPTS


def run_script(*flags):
    result = subprocess.run(
        [sys.executable, os.path.join(SCRIPTS, "keras_example.py")] + list(flags),
        capture_output=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def test_learns_and_prints_both_accuracies(tmp_path):
    write_folder(str(tmp_path), num_train=300, num_test=60)
    code, output, errors = run_script(f"--data_dir={tmp_path}", "--epochs=40", "--embed_dims=8")
    assert code == 0, errors
    found = re.search(r"^test accuracy ([\d.]+), nearest-center accuracy ([\d.]+)$", output, re.M)
    # The classes differ by their brightness, and one of three would be right by chance.
    assert min(float(accuracy) for accuracy in found.groups()) > 0.8, output


def test_a_missing_folder_is_told_in_a_line(tmp_path):
    code, output, errors = run_script(f"--data_dir={tmp_path / 'none'}")
    assert code == 2 and not output
    assert errors.strip().splitlines()[-1].startswith("keras_example.py: flag --data_dir=")
    assert "Traceback" not in errors
