"""Writes the table of versions into docs/reliability.md, from what test_matrix.sh has found."""

import argparse
import collections
import os
import pathlib
import sys
import xml.etree.ElementTree

BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->\n"
HEADER = "| TensorFlow | Python | passed | skipped | failed | restores checkpoints of |"


def read_outcomes(path):
    """The outcome of every test of a report in JUnit's format: pairs of a name and a word."""
    outcomes = []
    for case in xml.etree.ElementTree.parse(str(path)).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        outcome = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
        outcomes.append((case.get("name"), outcome))
    if not outcomes:
        raise ValueError(f"{path}: expected the outcome of at least one test, found none")
    return outcomes


def restored_versions(outcomes, versions):
    """Those of the versions whose checkpoints every test restored."""

    def of(version):
        marks = (f"tensorflow-{version}-", f"tensorflow-{version}]")
        return {outcome for name, outcome in outcomes if any(mark in name for mark in marks)}

    return [version for version in versions if of(version) == {"passed"}]


def make_table(folders):
    """The table, one row for each folder with the results of a version."""
    versions = [(folder / "versions").read_text().split() for folder in folders]
    lines = [HEADER, "|" + " --- |" * (HEADER.count("|") - 1)]
    for folder, (tensorflow, python) in zip(folders, versions):
        counts = collections.Counter(outcome for _, outcome in read_outcomes(folder / "tests.xml"))
        restored = restored_versions(
            read_outcomes(folder / "checkpoints.xml"), [version for version, _ in versions]
        )
        cells = [tensorflow, python]
        cells += [f"{counts[outcome]:,}" for outcome in ("passed", "skipped", "failed")]
        cells.append(", ".join(restored) or "none")
        lines.append("| " + " | ".join(cells) + " |")
    return "".join(line + "\n" for line in lines)


def replace_table(text, table, name="the text"):
    """The text with the table between its markers."""
    found = [text.count(marker) for marker in (BEGIN, END)]
    if found != [1, 1] or text.index(BEGIN) > text.index(END):
        raise ValueError(
            f"{name}: expected the lines {BEGIN.strip()} and {END.strip()} once each, in this "
            f"order, found {found[0]} and {found[1]} of them"
        )
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:start]}\n{table}\n{text[end:]}"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--document", type=pathlib.Path, required=True)
    parser.add_argument("--check", action="store_true", help="only look for the markers")
    parser.add_argument("folders", type=pathlib.Path, nargs="*", help="results of one version each")
    flags = parser.parse_args(arguments)
    try:
        text = flags.document.read_text(encoding="utf-8")
        table = "" if flags.check else make_table(flags.folders)
        text = replace_table(text, table, flags.document.name)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if not flags.check:
        # Whole or not at all, whatever happens meanwhile.
        unfinished = flags.document.with_name(flags.document.name + ".new")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(str(unfinished), str(flags.document))
        print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
