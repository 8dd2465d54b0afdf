"""The package as a whole: what it exports, imports and leaves alone."""

import pathlib
import re
import subprocess
import sys

import tf_centers

PACKAGE = pathlib.Path(tf_centers.__file__).resolve().parent


def test_everything_exported_is_there_and_nothing_else():
    assert tf_centers.__all__ == sorted(tf_centers.__all__)
    for name in tf_centers.__all__:
        assert getattr(tf_centers, name).__module__.startswith("tf_centers.")


def test_only_public_tensorflow():
    for path in PACKAGE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^\s*(?:import|from) (tensorflow\S*)", text, re.MULTILINE)
        assert set(found) <= {"tensorflow", "tensorflow.compat.v1"}, path.name


def run(code):
    """Runs Python code in a new process; returns its end, with what it said."""
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    return subprocess.run(command, cwd=str(PACKAGE.parent), stdout=pipe, stderr=pipe)


def test_import_does_not_import_keras():
    ended = run(
        "import sys, tensorflow; before = set(sys.modules); import tf_centers; "
        "print(sorted(m for m in set(sys.modules) - before if 'keras' in m))"
    )
    assert ended.returncode == 0 and ended.stdout.decode().strip() == "[]"


def test_without_tensorflow_one_line_says_what_to_install():
    ended = run("import sys; sys.modules['tensorflow'] = None; import tf_centers")
    last = ended.stderr.decode().splitlines()[-1]
    assert ended.returncode == 1
    assert last.startswith("ModuleNotFoundError: tf_centers needs TensorFlow")
    assert last.endswith("pip install tensorflow")
