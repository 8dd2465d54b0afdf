"""Flags in groups, each with its unit and range, which the help text and every error tell."""

import math
from typing import Any, Callable, NamedTuple, Optional, Tuple

from absl import flags


class Text(flags.ArgumentParser):
    """Takes any text; whoever uses it checks it."""

    def __init__(self, unit: str, form: str) -> None:
        """Takes what the help puts after the flag, and a description of a good text."""
        super().__init__()
        self.unit, self.syntactic_help = unit, form

    def parse(self, argument: str) -> str:
        """The argument itself."""
        return argument


class Number(flags.ArgumentParser):
    """Parses a number in [low, high]."""

    def __init__(self, unit: str, kind: Callable[[Any], Any], low: float, high: float) -> None:
        """Takes `int` or `float` as the kind of number."""
        super().__init__()
        self.unit, self.low, self.high = unit, low, high
        self._kind = kind
        noun = "an integer" if kind is int else "a number"
        self.syntactic_help = f"{noun} in [{low:,}, {high:,}]"

    def parse(self, argument: Any) -> Any:
        """The value of `argument`.

        Raises:
          ValueError: it is no number of this kind, or out of range. absl puts the flag and the
            value before the message.
        """
        try:
            value = self._kind(argument)
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high:  # NaN fails both comparisons.
            raise ValueError(f"expected {self.syntactic_help}")
        return value


class Choice(flags.ArgumentParser):
    """Parses one of several words."""

    def __init__(self, unit: str, *words: str) -> None:
        """Takes what the help puts after the flag, and the words."""
        super().__init__()
        self.unit, self._words = unit, words
        self.syntactic_help = f"one of {', '.join(words)}"

    def parse(self, argument: str) -> str:
        """The word; raises `ValueError` where it is none of them."""
        if argument not in self._words:
            raise ValueError(f"expected {self.syntactic_help}")
        return argument


class Switch(flags.BooleanParser):
    """Parses true and false; --name alone is true, --noname is false."""

    unit = ""
    syntactic_help = "true or false"

    def parse(self, argument: Any) -> bool:
        """The value; raises `ValueError` where it is neither."""
        try:
            return super().parse(argument)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected {self.syntactic_help}") from error


class Flag(NamedTuple):
    """One flag. `text` is whole sentences; the help adds unit, range and default."""

    name: str
    default: Any  # None or "" where nothing is given
    parser: flags.ArgumentParser  # one of those above
    text: str
    short_name: Optional[str] = None


class Group(NamedTuple):
    """Flags under one title of the help text."""

    title: str
    flags: Tuple[Flag, ...]


def define_flags(groups: Tuple[Group, ...]) -> flags.FlagValues:
    """A registry of these flags alone: nothing is added to absl's global one."""
    values = flags.FlagValues()
    for group in groups:
        for name, default, parser, text, short_name in group.flags:
            is_switch = isinstance(parser, Switch)
            serializer = None if is_switch else flags.ArgumentSerializer()
            flags.DEFINE_flag(
                flags.Flag(parser, serializer, name, default, text, short_name, is_switch), values
            )
    return values
