"""The scripts that measure run and write what they say; their figures are nobody's test."""

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_script(*arguments, script="benchmark.py"):
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    script = os.path.join(ROOT, "scripts", script)
    result = subprocess.run(
        [sys.executable, script] + list(arguments), capture_output=True, env=environment
    )
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def test_table_json_and_plot(tmp_path):
    json_path, plot_path = str(tmp_path / "figures.json"), str(tmp_path / "curves.png")
    code, output, errors = run_script(
        "--grid=5/2/8,40/128/1024,10000/128/16",
        "--runs=5",
        f"--json={json_path}",
        f"--plot={plot_path}",
    )
    assert code == 0, errors
    with open(json_path, encoding="utf-8") as file:
        figures = json.load(file)
    sizes = {(t["classes"], t["dims"], t["rows"]) for t in figures["timings"]}
    assert sizes == {(5, 2, 8), (40, 128, 1024), (10000, 128, 16)}
    for timing in figures["timings"]:
        assert timing["contender"] in output and timing["median_us"] > 0
        if timing["contender"] == "recipe":
            assert timing["ratio"] == 1.0
    assert {"none", "exponential", "cumulative", "wen"} == set(figures["train_step_ms"])
    with open(plot_path, "rb") as file:
        assert file.read(4) == b"\x89PNG"


def test_bad_input(tmp_path):
    for bad, named in (
        ("--grid=5/0/2", "--grid"),
        (f"--json={tmp_path}/nowhere/x.json", "nowhere"),
    ):
        code, output, errors = run_script("--runs=5", bad)
        assert code == 2 and not output
        assert named in errors.strip().splitlines()[-1] and "Traceback" not in errors


def test_scale():
    code, output, errors = run_script(
        "--classes=5000", "--dims=8", "--updates=3", "--rows=2500", script="measure_scale.py"
    )
    assert code == 0, errors
    assert "updated 3 times" in output and "100% of the searched centers" in output
    error = float(output.strip().rsplit(" ", 1)[1])
    assert error < 3e-6


def test_scale_with_an_argument_that_is_no_flag():
    code, output, errors = run_script("5000", script="measure_scale.py")
    assert code == 2 and not output
    assert errors.strip().splitlines()[-1] == (
        "measure_scale.py: expected flags only, found '5000'"
    )
