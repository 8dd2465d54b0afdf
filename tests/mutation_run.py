"""Makes the wrong edits of mutants.txt one at a time, and shows that the tests find every one.

python tests/mutation_run.py [--list] [--only=NAME ...]

Each edit is made in a copy of the package and runs the tests that it names, up to the first that
fails; those tests pass on the copy without it, which is tried first. A mutant survives where they
pass. Ends with 1 where one survives, or tells nothing: its old text is not in its module exactly
once, or its tests do not even run. For the newest TensorFlow: on TensorFlow 1.15 the tests of TF2
are skipped, and find nothing. TensorFlow is imported once, and every run is a fork: no Windows.
"""

import argparse
import os
import pathlib
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from typing import List, NamedTuple, Tuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TIMEOUT = 600  # seconds for one mutant; nothing takes that long unless it hangs
# What pytest returns.
PASSED, FAILED, INTERNAL_ERROR = 0, 1, 3


class Mutant(NamedTuple):
    """A wrong edit of a module, and the tests that are to fail on it."""

    name: str
    module: str
    old: str
    new: str
    tests: Tuple[str, ...]

    def make(self, source: str) -> str:
        """The source with the edit; a `ValueError` where it does not say once what to edit."""
        whole_lines = re.compile("^" + re.escape(self.old), re.MULTILINE)
        count = len(whole_lines.findall(source))
        if count != 1:
            raise ValueError(
                f"{self.name}: expected its old text once in {self.module}, found it {count} times"
            )
        edited = whole_lines.sub(lambda _: self.new, source)
        compile(edited, self.module, "exec")
        return edited


def read_mutants(path: pathlib.Path) -> List[Mutant]:
    """The mutants of a file; how it is written stands at its beginning."""
    blocks = re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    mutants = []
    for block in blocks:
        name, header, *edit = block.rstrip("\n").split("\n")
        wrong = [line for line in edit if line[:1] not in (" ", "-", "+")]
        if wrong or " killed by " not in header:
            raise ValueError(
                f"{path.name}: expected 'MODULE killed by TEST, TEST' and lines that begin with a "
                f"blank, - or +, found {(wrong or [header])[0]!r} at {name!r}"
            )
        module, tests = header.split(" killed by ")
        old, new = ["".join(line[1:] + "\n" for line in edit if line[0] in s) for s in (" -", " +")]
        mutants.append(Mutant(name, module, old, new, tuple(tests.split(", "))))
    return mutants


def run_tests(tree: pathlib.Path, tests: List[str]) -> Tuple[int, str]:
    """What pytest returns for tests of a tree, and what it says."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            code = INTERNAL_ERROR
            try:
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                code = _run_pytest(tree, tests)
            finally:
                sys.stdout.flush()
                os._exit(code)  # Whatever threads a mutant has left hanging.
        code = _wait_for(child)
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


def _run_pytest(tree: pathlib.Path, tests: List[str]) -> int:
    os.chdir(str(tree))
    sys.path[0] = str(tree)  # in the place of the folder of this script
    # A .pyc file could not be told from that of the next edit, made in the same second.
    sys.dont_write_bytecode = True
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # No test of these needs one.
    os.environ["COLUMNS"] = "200"
    options = ["-q", "-x", "--tb=line", "-p", "no:cacheprovider"]
    return int(pytest.main(options + [f"tests/{test}" for test in tests]))


def _wait_for(child: int) -> int:
    """The code that a child ends with; below 0 where a signal ended it."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def try_mutant(mutant: Mutant, tree: pathlib.Path) -> Tuple[str, str]:
    """Whether a mutant is killed, survives or tells nothing; and why."""
    module = tree / "tf_centers" / mutant.module
    source = module.read_text(encoding="utf-8")
    try:
        edited = mutant.make(source)
    except (SyntaxError, ValueError) as error:
        return "stale", str(error)
    module.write_text(edited, encoding="utf-8")
    try:
        code, said = run_tests(tree, list(mutant.tests))
    finally:
        module.write_text(source, encoding="utf-8")
    if code == PASSED:
        return "survived", "by " + ", ".join(mutant.tests)
    reason = re.search(r"^(?:FAILED|ERROR) (.*)$", said, re.MULTILINE)
    if code == FAILED and reason and "NameError" not in reason.group(1):
        return "killed", reason.group(1)
    return "no verdict", said[-2000:]


def main(arguments: List[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="only tell the names of the mutants")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this mutant")
    flags = parser.parse_args(arguments)
    mutants = read_mutants(ROOT / "tests" / "mutants.txt")
    if flags.list:
        print("\n".join(f"{mutant.name}  ({mutant.module})" for mutant in mutants))
        return 0
    for name in flags.only or []:
        if name not in [mutant.name for mutant in mutants]:
            parser.error(f"--only: expected the name of a mutant (see --list), found {name!r}")
    if flags.only:
        mutants = [mutant for mutant in mutants if mutant.name in flags.only]
    counts = {"killed": 0, "survived": 0, "stale": 0, "no verdict": 0}
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        for part in ("tf_centers", "tests"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(str(ROOT / part), str(tree / part), ignore=ignored)
        shutil.copy(str(ROOT / "pyproject.toml"), str(tree))
        runpy.run_path(str(tree / "tests" / "conftest.py"))  # for TensorFlow, once for all
        code, said = run_tests(tree, sorted({test for mutant in mutants for test in mutant.tests}))
        if code != PASSED:
            print(f"{said}\nThe tests of the mutants have to pass on the package as it is.")
            return 1
        for mutant in mutants:
            verdict, why = try_mutant(mutant, tree)
            counts[verdict] += 1
            print(f"{verdict:10} {mutant.name}: {why}", flush=True)
    print(f"{counts['killed']}/{len(mutants)} killed", end="")
    print("".join(f", {n} {v}" for v, n in counts.items() if n and v != "killed"))
    return 0 if counts["killed"] == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
