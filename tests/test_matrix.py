"""The table of versions in the README, and the script that writes it."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = "before\n\n<!-- matrix -->\n\n| old |\n\n<!-- /matrix -->\n\nafter\n"
TABLE = """\
| TensorFlow | Python | passed | skipped | failed | restores checkpoints of |
| --- | --- | --- | --- | --- | --- |
| 1.15.5 | 3.7.16 | 2 | 1 | 0 | 1.15.5, 2.21.0 |
| 2.21.0 | 3.11.7 | 1 | 0 | 2 | 2.21.0 |
"""
PASSED, SKIPPED, FAILED, BROKEN = "", "<skipped/>", "<failure/>", "<error/>"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def write_results(folder, versions, tests, checkpoints):
    folder.mkdir()
    (folder / "versions").write_text(versions + "\n")
    for name, cases in (("tests", tests), ("checkpoints", checkpoints)):
        text = "".join(f'<testcase name="{case}">{inner}</testcase>' for case, inner in cases)
        (folder / f"{name}.xml").write_text(
            f"<testsuites><testsuite>{text}</testsuite></testsuites>"
        )
    return str(folder)


@pytest.fixture
def results(tmp_path):
    restored = [("test[tensorflow-1.15.5-ref-0]", PASSED), ("test[ref-tensorflow-2.21.0]", PASSED)]
    refused = [("test[tensorflow-1.15.5-ref-1]", FAILED)] + restored
    tests = [("a", PASSED), ("b", SKIPPED), ("c", PASSED)]
    return [
        write_results(tmp_path / "old", "1.15.5 3.7.16", tests, restored),
        write_results(
            tmp_path / "new",
            "2.21.0 3.11.7",
            [("a", PASSED), ("b", FAILED), ("c", BROKEN)],
            refused,
        ),
    ]


def test_the_table_takes_the_place_of_the_old_one(results, tmp_path):
    import matrix_table

    readme = tmp_path / "README.md"
    readme.write_text(README)
    for _ in range(2):  # Again, it changes nothing.
        assert matrix_table.main([f"--readme={readme}"] + results) == 0
        assert readme.read_text() == README.replace("| old |\n", TABLE)
    assert not list(tmp_path.glob("*.new"))


def test_checkpoints_that_nobody_restored_are_none(tmp_path):
    import matrix_table

    # 1.15 is another version than 1.15.5, and a test that was skipped restored nothing.
    outcomes = [("test[tensorflow-1.15]", "passed"), ("test[tensorflow-2.12.1-ref]", "skipped")]
    assert matrix_table.restored_versions(outcomes, ["1.15.5", "2.12.1", "2.21.0"]) == []


@pytest.mark.parametrize(
    "readme, message",
    [
        ("no marker\n", "found 0 and 0"),
        (README + README, "found 2 and 2"),
        ("<!-- /matrix -->\n<!-- matrix -->\n", "in this order"),
    ],
)
def test_a_readme_without_a_place_for_the_table(readme, message, results, tmp_path, capsys):
    import matrix_table

    path = tmp_path / "README.md"
    path.write_text(readme)
    for arguments in (["--check"], results):
        assert matrix_table.main([f"--readme={path}"] + arguments) == 1
        assert "README.md: expected the lines <!-- matrix -->" in capsys.readouterr().err
        assert path.read_text() == readme
    assert message in str(pytest.raises(ValueError, matrix_table.replace_table, readme, "").value)


def test_a_report_without_tests_writes_nothing(tmp_path, capsys):
    import matrix_table

    readme = tmp_path / "README.md"
    readme.write_text(README)
    folder = write_results(tmp_path / "none", "2.21.0 3.11.7", [], [])
    assert matrix_table.main([f"--readme={readme}", folder]) == 1
    assert "tests.xml: expected the outcome of at least one test" in capsys.readouterr().err
    assert readme.read_text() == README


def test_the_readme_has_a_place_for_the_table():
    import matrix_table

    assert matrix_table.main([f"--readme={ROOT / 'README.md'}", "--check"]) == 0


@pytest.mark.parametrize("script", ["test_matrix.sh", "find_python.sh"])
def test_the_shell_can_read_the_script(script):
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)
