"""The mutation run: its edits fit the package of today, and it tells a survivor."""

import shutil
import subprocess
import sys

import mutation_run
import pytest

MUTANTS = mutation_run.read_mutants(mutation_run.ROOT / "tests" / "mutants.txt")
TREE = {
    "tf_centers/__init__.py": "",
    "tf_centers/sums.py": "def add(x, y):\n    return x + y\n",
    "tests/test_sums.py": (
        "from tf_centers.sums import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n"
    ),
    "tests/conftest.py": "",
    "pyproject.toml": "",
}
HEADER = "{}\nsums.py killed by test_sums.py::test_add\n"
DIFFERENCE = "== " + HEADER.format("difference") + "-    return x + y\n+    return x - y\n\n"
PRODUCT = "== " + HEADER.format("product") + "-    return x + y\n+    return x * y\n\n"
STALE = "== " + HEADER.format("stale") + "-    return y + x\n+    return x - y\n\n"
UNKNOWN = "== " + HEADER.format("unknown") + "-    return x + y\n+    return z\n\n"
BROKEN = "== " + HEADER.format("broken") + "-    return x + y\n+    return x\n+raise OSError\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_no_mutant_is_stale(mutant):
    root = mutation_run.ROOT
    source = (root / "tf_centers" / mutant.module).read_text(encoding="utf-8")
    assert mutant.make(source) != source
    for test in mutant.tests:
        file, function = test.split("::")
        assert f"\ndef {function}(" in (root / "tests" / file).read_text(encoding="utf-8")


def test_there_are_enough_of_them():
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 25


@pytest.mark.parametrize(
    "source, count",
    [("    return y + x\n", 0), ("    return x + y\n" * 2, 2), ("return x + y\n", 0)],
)
def test_an_edit_that_does_not_fit_is_stale(source, count):
    mutant = mutation_run.Mutant("sign", "sums.py", "    return x + y\n", "    return x - y\n", ())
    with pytest.raises(ValueError, match=f"^sign: expected .* in sums.py, found it {count} times"):
        mutant.make(source)


def run(folder, *arguments, **changes):
    """Runs a copy of the script in a tree of its own: what it ends with, and what it says."""
    for name, text in dict(TREE, **changes).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    script = shutil.copy(mutation_run.__file__, str(folder / "tests"))
    result = subprocess.run(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return result.returncode, result.stdout.decode()


def test_a_run(tmp_path):
    mutants = {"tests/mutants.txt": DIFFERENCE + PRODUCT + STALE + UNKNOWN + BROKEN}
    code, said = run(tmp_path, **mutants)
    lines = said.splitlines()
    assert code == 1
    assert lines[0].startswith("killed     difference: tests/test_sums.py::test_add")
    assert lines[1] == "survived   product: by test_sums.py::test_add"
    assert lines[2].startswith("stale      stale: stale: expected its old text once in sums.py")
    assert lines[3].startswith("no verdict unknown: ")
    assert lines[-1] == "1/5 killed, 1 survived, 1 stale, 2 no verdict"
    assert (tmp_path / "tf_centers" / "sums.py").read_text() == TREE["tf_centers/sums.py"]
    code, said = run(tmp_path, "--only=difference", **mutants)
    assert code == 0 and said.endswith("\n1/1 killed\n")


def test_a_run_begins_with_tests_that_pass(tmp_path):
    wrong = "def add(x, y):\n    return 0\n"
    code, said = run(tmp_path, **{"tf_centers/sums.py": wrong, "tests/mutants.txt": DIFFERENCE})
    assert code == 1 and "have to pass on the package as it is" in said


def test_names_and_files_that_are_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit):
        mutation_run.main(["--only=nothing"])
    assert "--only: expected the name of a mutant" in capsys.readouterr().err
    path = tmp_path / "mutants.txt"
    for wrong in ("== name\nsums.py\n", "== " + HEADER.format("name") + "no sign\n"):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"^mutants.txt: expected 'MODULE killed by .*'name'"):
            mutation_run.read_mutants(path)
