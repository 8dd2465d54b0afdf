"""scripts/keras_example.py from outside, on a small data set."""

import os
import re

from idx_files import write_folder
from programs import SCRIPTS

SCRIPT = os.path.join(SCRIPTS, "keras_example.py")


def test_learns_and_prints_both_accuracies(start, tmp_path):
    write_folder(str(tmp_path), num_train=300, num_test=60)
    output = start(SCRIPT, f"--data_dir={tmp_path}", "--epochs=40", "--embed_dims=8").end()
    found = re.search(r"^test accuracy ([\d.]+), nearest-center accuracy ([\d.]+)$", output, re.M)
    # The classes differ by their brightness, and one of three would be right by chance.
    assert min(float(accuracy) for accuracy in found.groups()) > 0.8, output


def test_a_missing_folder_is_told_in_a_line(start, tmp_path):
    run = start(SCRIPT, f"--data_dir={tmp_path / 'none'}", apart=True)
    assert run.end(2) == ""
    assert run.errors.strip().splitlines()[-1].startswith("keras_example.py: flag --data_dir=")
