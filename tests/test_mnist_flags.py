"""The training script's flags: their help, their ranges, and what is said of a wrong value."""

import os
import subprocess
import sys

import pytest

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts")
sys.path.insert(0, SCRIPTS)

import train_mnist  # noqa: E402
from mnist_flag_groups import GROUPS, default_steps  # noqa: E402
from mnist_flags import Choice, Flag, Group, Number, Switch, define_flags  # noqa: E402
from mnist_folder import MAX_CLASSES  # noqa: E402
from mnist_help import format_help  # noqa: E402
from mnist_idx import MAX_BYTES  # noqa: E402
from mnist_run import InputError  # noqa: E402

FLAGS = [flag for group in GROUPS for flag in group.flags]


@pytest.mark.parametrize("columns", [80, 100])
def test_help(columns):
    result = subprocess.run(
        [sys.executable, os.path.join(SCRIPTS, "train_mnist.py"), "--help"],
        capture_output=True,
        env=dict(os.environ, COLUMNS=str(columns)),
    )
    assert result.returncode == 0 and not result.stderr
    output = result.stdout.decode()
    assert output.startswith("Trains a small network on handwritten digits")
    assert max(map(len, output.splitlines())) in range(columns - 10, columns + 1)
    assert "\n  python scripts/train_mnist.py [--flag=value ...]\n" in output
    words = " ".join(output.split())
    places = []
    for title, flags in GROUPS:
        places.append(output.index(f"\n\n{title}:\n  -"))
        for name, default, parser, text, short_name in flags:
            heading = f"--[no]{name}" if default is False else f"--{name}={parser.unit}"
            form = parser.syntactic_help
            default = "empty" if default in ("", None) else str(default).lower()
            entry = f"{heading} {text} {form[0].upper()}{form[1:]}; default: {default}."
            assert (f" -{short_name}, {entry}" if short_name else f" {entry}") in words
            places.append(output.index(f"{heading}\n      "))
    assert places == sorted(places)
    assert "An integer in [1, 1,000,000]; default: 128." in output
    assert f"at most {MAX_BYTES / 2**30:.0f} GiB" in words and f"[0, {MAX_CLASSES - 1}]" in words


@pytest.mark.parametrize("columns", [1, 60, 500])
def test_help_on_odd_screens(columns):
    long = 110 * "x"
    lines = format_help(f"About\nit. {long}\n\n  $ as it\n  is", GROUPS, columns).splitlines()
    assert lines[:6] == ["About it.", long, "", "  $ as it", "  is", ""]
    assert max(map(len, lines[2:])) <= min(max(columns, 40), 100)


def test_every_flag_is_a_setting():
    names = [flag.name for flag in FLAGS]
    assert sorted(names) == sorted(train_mnist.Settings._fields + ("help",))
    settings = train_mnist.parse_settings(["train_mnist.py"])
    for flag in FLAGS:
        if flag.name == "train_steps":  # Its default depends on another flag.
            assert flag.default is None and settings.train_steps == default_steps(64)
        elif flag.name != "help":
            assert getattr(settings, flag.name) == flag.default


def _wrong_values():
    """Every flag with values of each kind that it must refuse."""
    for flag in FLAGS:
        wrong = []
        if isinstance(flag.parser, Number):
            below, above = flag.parser.low - 1, flag.parser.high * 1.5 + 1
            wrong = [below, above, int(above), "", "x", "nan", "inf", "-inf", "1,5", "0x1"]
            if isinstance(flag.default, int):
                wrong += [0.5, "1e3"]
        elif isinstance(flag.parser, Choice):
            wrong = ["", "x", "none,none", "WEN", "PS"]
        elif isinstance(flag.parser, Switch):
            wrong = ["", "x", "2", "-1", "yes"]
        for value in wrong:
            yield f"--{flag.name}={value}", f"expected {flag.parser.syntactic_help}"


@pytest.mark.parametrize("argument, expected", list(_wrong_values()))
def test_wrong_values(argument, expected):
    with pytest.raises(InputError) as error:
        train_mnist.parse_settings(["train_mnist.py", argument])
    assert str(error.value) == f"flag {argument}: {expected}"


def test_bounds_are_good_values():
    for flag in FLAGS:
        if isinstance(flag.parser, Number):
            for value in (flag.parser.low, flag.parser.high):
                settings = train_mnist.parse_settings(["train_mnist.py", f"--{flag.name}={value}"])
                assert getattr(settings, flag.name) == value
                kind = int if flag.default is None else type(flag.default)
                assert isinstance(getattr(settings, flag.name), kind)


def test_switches():
    groups = (Group("Some", (Flag("compare", False, Switch(), "Compares."),)),)
    for given, wanted in (
        ([], False),
        (["--compare"], True),
        (["--nocompare"], False),
        (["--compare=true"], True),
        (["--compare=false"], False),
    ):
        values = define_flags(groups)
        assert values(["program"] + given) == ["program"]
        assert values.compare is wanted


@pytest.mark.parametrize(
    "content, message",
    [
        (b"--seed=-1", r"^flag --seed=-1: expected an integer in \[0, 2,147,483,647\]$"),
        (b"--seed=\xff", "^flag --flagfile: expected a text file, found: .*0xff"),
        (None, "Unable to open flagfile"),
    ],
    ids=["wrong value", "no text", "no file"],
)
def test_flags_from_a_file(content, message, tmp_path):
    path = tmp_path / "flags"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        train_mnist.parse_settings(["train_mnist.py", f"--flagfile={path}"])
