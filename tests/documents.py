"""What documents and docstrings are checked for; each check lists the faults it finds."""

import doctest
import pathlib
import re
from typing import NamedTuple, Optional

import tf_centers
import tf_centers.keras

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGES")] + sorted(
    ROOT.glob("docs/*.md")
)
# Their blocks run in tests of their own.
MIGRATING, LOSSES, BEYOND = (
    ROOT / "docs" / f"{name}.md" for name in ("migrating", "losses", "beyond_means")
)
# What calls return, told in their rows.
TUPLES = ("EmbedCenters", "NearestCenters")
LAYERS = [f"keras.{name}" for name in tf_centers.keras.__all__]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)

_END_OF_BLOCK = 'import tensorflow as _tf; _tf.compat.v1.reset_default_graph(); print("\\0")'


class Block(NamedTuple):
    """A fenced block of a document.

    Attributes:
      line: where it begins, from 1.
      before: the text up to it.
      language: "python", "sh" ...
      code: what is to be run.
      expected: what it is said to print, in a block of text right after it; or None.
    """

    line: int
    before: str
    language: str
    code: str
    expected: Optional[str]


def find_blocks(text):
    for match in _BLOCK.finditer(text):
        before = text[: match.start()]
        yield Block(before.count("\n") + 1, before, *match.groups())


def python_blocks(text):
    return [block.code for block in find_blocks(text) if block.language == "python"]


def define(blocks):
    """What blocks of Python define."""
    found = {}
    exec("".join(blocks), found)
    return found


def find_programs(text):
    """The blocks of a document that belong together: one that imports something starts anew."""
    programs = []
    for block in find_blocks(text):
        if block.language != "python" or not programs or re.match("import|from", block.code):
            programs.append([])
        programs[-1].append(block)
    return programs


def faults_of_program(blocks, runner, start, folder):
    """What is wrong with blocks that belong together.

    Python runs as one program, from a file in the folder, with a fresh graph for each block. A
    command of the shell has to be one that `runner` takes from the document.
    """
    first = blocks[0]
    if first.language == "sh":
        name = re.search(r"<!-- command: (\w+) -->$", first.before.rstrip())
        taken = name and f"documented(name='{name.group(1)}')" in runner
        return [] if taken else [f"line {first.line}: a command that nothing runs"]
    if first.language != "python":
        return [f"line {first.line}: a block of {first.language or 'no language'}"]
    lines = []
    for block in blocks:  # In its own lines, so that a traceback names those of the document.
        lines += [""] * (block.line - len(lines)) + block.code.splitlines() + [_END_OF_BLOCK]
    program = folder / "program.py"
    program.write_text("\n".join(lines), encoding="utf-8")
    run = start(program, apart=True)
    code = run.wait()
    if code != 0:
        return [f"exit code {code}: {run.errors}"]
    return [
        f"line {block.line}: expected {block.expected!r}, found {printed!r}"
        for block, printed in zip(blocks, run.output.split("\0\n"))
        if block.expected not in (None, printed)
    ]


def faults_of_commands(text):
    """Scripts named with arguments, in prose or blocks, have to exist and to have the flags."""
    faults = []
    defined = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/**/*.py"))
    names = set(re.findall(r'"(?:--)?(\w+)"', defined))  # some are defined in a loop
    text = text.replace("\\\n", " ")
    for script, arguments in re.findall(r"\b(scripts/[\w/]+\.\w+)((?:\s+--?\w[^\s`]*)*)", text):
        if not (ROOT / script).exists():
            faults.append(f"no such script: {script}")
        for flag in re.findall(r"--(\w+)", arguments):
            if flag not in names | {"help"}:
                faults.append(f"no such flag of {script}: --{flag}")
    return faults


def faults_of_calls(readme):
    """The table of calls against `__all__`."""
    table = readme[readme.index("## Calls") : readme.index("## Updaters")]
    names = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))
    public = [name for name in tf_centers.__all__ + LAYERS if name not in TUPLES]
    faults = [f"not public: {name}" for name in names if name not in public]
    return faults + [f"not told once: {name}" for name in public if names.count(name) != 1]


def run_examples(item, name, globs):
    """Runs the examples of one docstring.

    Returns:
      How many statements there were, and the faults.
    """
    faults = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(item, name, globs=globs):
        runner.run(test, out=faults.append)
    return runner.tries, faults
