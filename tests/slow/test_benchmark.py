"""The scripts that measure run and write what they say; their figures are nobody's test."""

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run_script(*arguments, script="benchmark.py"):
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    script = os.path.join(ROOT, "scripts", script)
    result = subprocess.run(
        [sys.executable, script] + list(arguments), capture_output=True, env=environment
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def test_figures_and_their_table(tmp_path):
    path = str(tmp_path / "figures.json")
    for how in ("--feed", "--nofeed"):
        code, output, errors = run_script(
            "--sizes=5/2/8,10000/16/2048", "--searches=7/2/8", "--runs=5", how, f"--json={path}"
        )
        assert code == 0, errors
        with open(path, encoding="utf-8") as file:
            figures = json.load(file)
        assert {timing["size"] for timing in figures["timings"]} == {"5/2/8", "10000/16/2048"}
        for timing in figures["timings"]:
            assert timing["contender"] in output and timing["median_us"] > 0
            if timing["contender"] == "recipe":
                assert timing["ratio"] == 1.0
        searches = {timing["contender"]: timing["ratio"] for timing in figures["searches"]}
        assert searches["product and top_k"] == 1.0 and searches["nearest_centers"] > 0
    code, output, errors = run_script(f"--table={path},{path}")
    assert code == 0, errors
    assert [line.split("|")[1].strip() for line in output.splitlines() if "|" in line] == [
        "C / D / B",
        "---",
        "5 / 2 / 8",
        "10,000 / 16 / 2,048",
        "geometric mean",
        "C / D / B",
        "---",
        "7 / 2 / 8",
        "geometric mean",
    ]


def test_bad_input(tmp_path):
    for bad, named in (
        ("--sizes=5/0/2", "--sizes"),
        ("--sizes=5/2", "--sizes"),
        (f"--json={tmp_path}/nowhere/x.json", "nowhere"),
        (f"--table={tmp_path}/none.json", "none.json"),
        ("stray", "stray"),
    ):
        code, output, errors = run_script("--runs=5", bad)
        assert code == 2 and not output
        assert named in errors.strip().splitlines()[-1] and "Traceback" not in errors
