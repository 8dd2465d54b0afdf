"""The scripts that measure run and write what they say; their figures are nobody's test."""

import json
import os

from programs import SCRIPTS

SCRIPT = os.path.join(SCRIPTS, "benchmark.py")


def test_figures_and_their_table(start, tmp_path):
    path = str(tmp_path / "figures.json")
    for how in ("--feed", "--nofeed"):
        sizes = "--sizes=5/2/8,1000/4/8", "--searches=7/2/8"
        output = start(SCRIPT, *sizes, "--runs=5", how, f"--json={path}").end()
        with open(path, encoding="utf-8") as file:
            figures = json.load(file)
        assert {timing["size"] for timing in figures["timings"]} == {"5/2/8", "1000/4/8"}
        for timing in figures["timings"]:
            assert timing["contender"] in output and timing["median_us"] > 0
            assert timing["ratio"] == 1.0 or timing["contender"] != "recipe"
        searches = {timing["contender"]: timing["ratio"] for timing in figures["searches"]}
        assert searches["product and top_k"] == 1.0 and searches["nearest_centers"] > 0
    output = start(SCRIPT, f"--table={path},{path}").end()
    tables = [["5 / 2 / 8", "1,000 / 4 / 8"], ["7 / 2 / 8"]]
    tables = [["C / D / B", "---", *sizes, "geometric mean"] for sizes in tables]
    found = [line.split("|")[1].strip() for line in output.splitlines() if "|" in line]
    assert found == sum(tables, [])


def test_bad_input(start, tmp_path):
    for bad, named in (
        ("--sizes=5/0/2", "--sizes"),
        ("--sizes=5/2", "--sizes"),
        (f"--json={tmp_path}/nowhere/x.json", "nowhere"),
        (f"--table={tmp_path}/none.json", "none.json"),
        ("stray", "stray"),
    ):
        run = start(SCRIPT, "--runs=5", bad, apart=True)
        assert run.end(2) == ""
        assert named in run.errors.strip().splitlines()[-1]
