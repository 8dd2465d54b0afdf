"""What the documents say is so: every code block and every docstring example is run."""

import doctest
import re

import documents
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from documents import BEYOND, DOCUMENTS, LOSSES, MIGRATING, ROOT
from tensorflow import keras

import tf_centers
import tf_centers.keras

README = (ROOT / "README.md").read_text(encoding="utf-8")
STATELESS = ("EmbedCenters", "NearestCenters", "create_embed_centers")


def _programs():
    for document in DOCUMENTS:
        if document in (BEYOND, LOSSES, MIGRATING):
            continue
        for blocks in documents.find_programs(document.read_text(encoding="utf-8")):
            oldest = re.search(r"<!-- from TensorFlow ([\d.]+) -->\n$", blocks[0].before)
            needed, here = (
                [int(part) for part in version.split(".")[:2]]
                for version in (oldest.group(1) if oldest else "1.15", tf.__version__)
            )
            marks = [pytest.mark.skipif(here < needed, reason=f"needs TensorFlow {needed}")]
            if blocks[0].before.endswith("<!-- with Estimators -->\n"):
                marks = [pytest.mark.skipif(not hasattr(tf, "estimator"), reason="no Estimator")]
            yield pytest.param(blocks, id=f"{document.name}:{blocks[0].line}", marks=marks)


@pytest.mark.parametrize("blocks", list(_programs()))
def test_blocks(blocks, start, tmp_path):
    documents.check_program(blocks, start, tmp_path)


@pytest.mark.parametrize(
    "bad, fault",
    [
        ("x\n```python\nraise ValueError(3)\n```\n", 'program.py", line 3'),
        (
            "```python\nx = 1\n```\n```python\nprint(x)\n```\n```text\n2\n```\n",
            r"line 4: found '1\\n'",
        ),
        ("text\n```sh\nrm -rf .venv\n```\n", "line 2: a command that nothing runs"),
        ("<!-- command: tes -->\n```sh\ntrue\n```\n", "a command that nothing runs"),
        ("```\nx = 1\n```\n", "a block of no known language"),
    ],
)
def test_bad_blocks_are_refused(bad, fault, start, tmp_path):
    (blocks,) = documents.find_programs(bad)
    with pytest.raises(AssertionError, match=fault):
        documents.check_program(blocks, start, tmp_path)


def test_programs_begin_with_imports():
    text = "```python\nimport a\n```\n```python\nx = 1\n```\n```python\nfrom a import b\n```\n"
    assert [len(blocks) for blocks in documents.find_programs(text)] == [2, 1]


def check_commands(text):
    """Scripts and flags of commands exist, in prose or blocks."""
    defined = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("scripts/**/*.py"))
    names = {"help", *re.findall(r'"(?:--)?(\w+)"', defined)}  # some are defined in a loop
    text = text.replace("\\\n", " ")
    for script, arguments in re.findall(r"\b(scripts/[\w/]+\.\w+)((?:\s+--?\w[^\s`]*)*)", text):
        assert (ROOT / script).exists(), script
        assert set(re.findall(r"--(\w+)", arguments)) <= names, script


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_and_flags_exist(document):
    check_commands(document.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "bad", ["`scripts/soke.py`", "scripts/maintenance/soak.py \\\n  --upgrades=3"]
)
def test_bad_commands_are_refused(bad):
    with pytest.raises(AssertionError, match="scripts/"):
        check_commands(bad)


def test_table_of_calls_is_the_public_surface():
    """What calls return is told in their rows."""
    table = README[README.index("## Calls") : README.index("## Updaters")]
    names = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))
    layers = [f"keras.{name}" for name in tf_centers.keras.__all__]
    public = {*tf_centers.__all__, *layers} - {"EmbedCenters", "NearestCenters"}
    assert sorted(names) == sorted(public)


def run_examples(item, name, globs):
    """Runs the examples of one docstring, each statement; returns how many there were."""
    faults, runner = [], doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(item, name, globs=globs):
        runner.run(test, out=faults.append)
    assert faults == []
    return runner.tries


@pytest.mark.parametrize("name", sorted(tf_centers.__all__))
def test_docstring(name):
    """Every example runs as written, in one graph, with a session of its own."""
    item = getattr(tf_centers, name)
    assert item.__doc__ and item.__doc__.strip()
    globs = {public: getattr(tf_centers, public) for public in tf_centers.__all__}
    tries = run_examples(item, name, dict(globs, tf=tf))
    assert name in STATELESS or tries > 0, "no example"


@pytest.mark.eager
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_docstring_of_the_keras_layer():
    layer = tf_centers.keras.ComputeCenter
    globs = dict(vars(tf_centers), ComputeCenter=layer, keras=keras, np=np)
    assert run_examples(layer, "ComputeCenter", globs) > 0


def test_bad_example_is_refused():
    def bad():
        """
        >>> 1.5 * 2
        3.1
        """

    with pytest.raises(AssertionError, match="3.0"):
        run_examples(bad, "bad", {})
