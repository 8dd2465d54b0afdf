"""scripts/keras_example.py from outside, on a small data set."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT = os.path.join(ROOT, "scripts", "keras_example.py")
sys.path.insert(0, os.path.dirname(SCRIPT))

import keras_example  # noqa: E402
from idx_files import write_folder  # noqa: E402


def test_learns_and_prints_both_accuracies(tmp_path):
    write_folder(str(tmp_path), num_train=300, num_test=60)
    result = subprocess.run(
        [sys.executable, SCRIPT, f"--data_dir={tmp_path}", "--epochs=8", "--embed_dims=3"],
        capture_output=True,
        env=dict(os.environ, PYTHONPATH=ROOT),
    )
    assert result.returncode == 0, result.stderr.decode()
    output = result.stdout.decode()
    found = re.search(r"^test accuracy ([\d.]+), nearest-center accuracy ([\d.]+)$", output, re.M)
    # The classes differ by their brightness, and one of three would be right by chance.
    assert min(float(accuracy) for accuracy in found.groups()) > 0.8, output


def test_a_missing_folder_is_told_in_a_line(tmp_path):
    keras_example.FLAGS(["keras_example.py", f"--data_dir={tmp_path / 'none'}"])
    with pytest.raises(SystemExit, match="^keras_example.py: flag --data_dir=.* found nothing"):
        keras_example.main(["keras_example.py"])


def test_nearest_by_hand():
    ctrs = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 9.0]], np.float32)
    embeds = np.array([[2.5, 1.0], [1.5, 1.0], [0.0, 5.0]], np.float32)
    assert keras_example.find_nearest(embeds, ctrs).tolist() == [1, 0, 2]
