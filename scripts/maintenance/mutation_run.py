"""Makes one wrong edit of the package at a time, and lists those that no test catches.

  python scripts/maintenance/mutation_run.py [--modules=update,updaters] [--tests=tests/core]

The edits are made in the syntax tree, so rewording the code does not break them: an operator or
a comparison becomes another, a number grows by one, a minus or a `not` is removed, a `with` loses
its control dependencies. Runs in a copy; needs Python 3.9. Exits with 1 if an edit survives.
"""

import ast
import copy
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Iterator, List, Tuple

from absl import app, flags
from tqdm import tqdm

ROOT = pathlib.Path(__file__).resolve().parents[2]
SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}

flags.DEFINE_list(
    "modules",
    ["update", "row_weights", "updaters", "sharding", "batch", "access"],
    "Modules to edit.",
)
flags.DEFINE_list("tests", ["tests/core"], "Arguments for pytest.")


def edits(node: ast.AST) -> Iterator[Tuple[str, ast.AST]]:
    """Wrong nodes to put in the place of one, each with what was done."""
    wrong = copy.deepcopy(node)
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        wrong.op = SWAPS[type(node.op)]()
        yield "operator", wrong
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        wrong.ops[0] = SWAPS[type(node.ops[0])]()
        yield "comparison", wrong
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        wrong.value += 1
        yield "number", wrong
    elif isinstance(node, ast.With) and "control_dependencies" in ast.unparse(node.items[0]):
        wrong.items[0].context_expr.args[0] = ast.parse("[]", mode="eval").body
        yield "no control dependencies", wrong


def mutants(source: str) -> Iterator[Tuple[str, str]]:
    """Wrong sources, each with where and what was edited."""
    tree = ast.parse(source)
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            children = value if isinstance(value, list) else [value]
            for place, child in enumerate(children):
                if not isinstance(child, ast.AST):
                    continue
                for what, wrong in edits(child):
                    put(parent, field, value, place, wrong)
                    text = f"line {child.lineno}, {what}: {ast.unparse(child).splitlines()[0]}"
                    yield text, ast.unparse(tree)
                    put(parent, field, value, place, child)


def put(parent: ast.AST, field: str, value: object, place: int, node: ast.AST) -> None:
    """Puts a node in its place below another."""
    if isinstance(value, list):
        value[place] = node
    else:
        setattr(parent, field, node)


def main(argv: List[str]) -> int:
    """Runs the script."""
    if argv[1:]:
        print(f"mutation_run.py: expected flags only, found {argv[1]!r}", file=sys.stderr)
        return 2
    survivors, made = [], 0
    with tempfile.TemporaryDirectory() as folder:
        clone = pathlib.Path(folder) / "clone"
        shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".git", ".venv", "*_run"))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2"] + flags.FLAGS.tests
        for module in flags.FLAGS.modules:
            path = clone / "tf_centers" / f"{module}.py"
            source = path.read_text(encoding="utf-8")
            for where, wrong in tqdm(list(mutants(source)), desc=module, disable=None):
                path.write_text(wrong, encoding="utf-8")
                made += 1
                if subprocess.run(command, cwd=str(clone), capture_output=True).returncode == 0:
                    survivors.append(f"{module}.py, {where}")
                    tqdm.write(f"survived: {survivors[-1]}")
            path.write_text(source, encoding="utf-8")
    print(f"{made} wrong edits, {made - len(survivors)} found by the tests")
    return 1 if survivors else 0


if __name__ == "__main__":
    app.run(main)
