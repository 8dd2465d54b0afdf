"""The help text: flags in their groups, with units, ranges and defaults."""

import textwrap
from typing import List, Tuple

from mnist_flags import Flag, Group, Switch

# Lines beyond that are hard to read, words alone on a line even more so.
_MAX_WIDTH = 100
_MIN_WIDTH = 40


def format_help(about: str, groups: Tuple[Group, ...], columns: int) -> str:
    """The text that --help prints.

    Args:
      about: what the program does. Paragraphs are filled anew; indented ones stay as they are.
      groups: the flags.
      columns: width of the screen; of those, 40 to 100 are used.
    """
    width = min(max(columns, _MIN_WIDTH), _MAX_WIDTH)
    parts = [
        part if part.startswith(" ") else _fill(part, width, "")
        for part in about.strip().split("\n\n")
    ]
    for group in groups:
        lines = [f"{group.title}:"]
        for flag in group.flags:
            lines += _describe(flag, width)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _describe(flag: Flag, width: int) -> List[str]:
    is_switch = isinstance(flag.parser, Switch)
    heading = f"--[no]{flag.name}" if is_switch else f"--{flag.name}={flag.parser.unit}"
    if flag.short_name:
        heading = f"-{flag.short_name}, {heading}"
    form = flag.parser.syntactic_help
    default = str(flag.default).lower() if is_switch else flag.default
    # Not "none", which is a value of one flag.
    default = "empty" if default in (None, "") else default
    facts = f"{form[0].upper()}{form[1:]}; default: {default}."
    indent = " " * 6
    return [f"  {heading}", _fill(flag.text, width, indent), _fill(facts, width, indent)]


def _fill(text: str, width: int, indent: str) -> str:
    # Names of files and flags are typed from the screen, so no line may break one.
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
