"""What the documents say is so: every code block and every docstring example is run."""

import doctest
import functools
import inspect
import operator
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow import keras

import tf_centers
import tf_centers.keras

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Its blocks run in tests/test_migrating.py, where the codes before and after are compared.
MIGRATING = ROOT / "docs" / "migrating.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + sorted(ROOT.glob("docs/*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def _blocks():
    for document in DOCUMENTS:
        if document == MIGRATING:
            continue
        text = document.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 1
            yield pytest.param(document, match, id=f"{document.name}:{line}")


@pytest.mark.parametrize("document, match", list(_blocks()))
def test_block(document, match):
    language, code, expected = match.groups()
    if language == "sh":
        # Installing and training is for .ci/run, which takes these commands from the document.
        before = document.read_text(encoding="utf-8")[: match.start()].rstrip()
        name = re.search(r"<!-- command: (\w+) -->$", before)
        runner = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        assert name and f"readme_command {name.group(1)}" in runner
        return
    assert language == "python", f"a block of {language or 'no language'} that no test can run"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(ROOT),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    if expected is not None:
        assert result.stdout == expected


def test_blocks_are_found():
    assert len(list(_blocks())) >= 4


def test_first_example_is_short():
    first = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert first.group(1) == "python" and first.group(3)
    assert len(first.group(2).strip().splitlines()) <= 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (document.parent / target.split("#")[0]).exists(), target


def test_table_of_calls_is_the_public_surface():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("## Calls") : readme.index("## Updaters")]
    rows = re.findall(r"^\| `([\w.]+)(\([^`]*\))?` \|", table, re.MULTILINE)
    layers = [f"keras.{name}" for name in tf_centers.keras.__all__]
    assert sorted(name for name, _ in rows) == sorted(tf_centers.__all__ + layers)
    for name, arguments in rows:
        item = operator.attrgetter(name)(tf_centers)
        if name in layers:
            item = functools.partial(item.__init__, None)
        parameters = inspect.signature(item).parameters.values()
        said = [part.strip() for part in arguments.strip("()").split(",") if part.strip()]
        plain = [
            "**" * (p.kind is p.VAR_KEYWORD) + p.name
            if p.default is p.empty
            else f"{p.name}={p.default!r}".replace("'", '"')
            for p in parameters
        ]
        plain = [part.replace("tf.float32", "float32") for part in plain]
        assert [part.replace("tf.float32", "float32") for part in said] == plain, name


@pytest.mark.parametrize("name", sorted(tf_centers.__all__))
def test_docstring(name):
    """Every example runs as written, each statement in one graph, with a session of its own."""
    item = getattr(tf_centers, name)
    assert item.__doc__ and item.__doc__.strip()
    globs = {public: getattr(tf_centers, public) for public in tf_centers.__all__}
    tests = doctest.DocTestFinder(recurse=False).find(item, name, globs=dict(globs, tf=tf))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    stateless = ("EmbedCenters", "NearestCenters", "create_embed_centers")
    assert name in stateless or runner.tries > 0, "no example"


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_docstring_of_the_keras_layer():
    layer = tf_centers.keras.ComputeCenter
    globs = dict(vars(tf_centers), ComputeCenter=layer, keras=keras, np=np)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(layer, "ComputeCenter", globs=globs):
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0 and runner.tries > 0
