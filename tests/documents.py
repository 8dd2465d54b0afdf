"""The documents, their blocks of code, and what runs them."""

import pathlib
import re
from typing import NamedTuple, Optional

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGES")] + sorted(
    ROOT.glob("docs/*.md")
)
# Their blocks run in tests of their own.
MIGRATING, LOSSES, BEYOND = (
    ROOT / "docs" / f"{name}.md" for name in ("migrating", "losses", "beyond_means")
)
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


def check_program(blocks, start, folder):
    """Runs blocks that belong together, and holds what they print against what they say.

    Python runs as one program, from a file in the folder, with a fresh graph for each block. A
    command of the shell has to be one that `.ci/run` takes from the document.
    """
    first = blocks[0]
    if first.language == "sh":
        name = re.search(r"<!-- command: (\w+) -->$", first.before.rstrip())
        runner = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        taken = name and f"documented(name='{name.group(1)}')" in runner
        assert taken, f"line {first.line}: a command that nothing runs"
        return
    assert first.language == "python", f"line {first.line}: a block of no known language"
    lines = []
    for block in blocks:  # In its own lines, so that a traceback names those of the document.
        lines += [""] * (block.line - len(lines)) + block.code.splitlines() + [_END_OF_BLOCK]
    program = folder / "program.py"
    program.write_text("\n".join(lines), encoding="utf-8")
    run = start(program, apart=True)
    assert run.wait() == 0, run.errors
    for block, printed in zip(blocks, run.output.split("\0\n")):
        assert block.expected in (None, printed), f"line {block.line}: found {printed!r}"
