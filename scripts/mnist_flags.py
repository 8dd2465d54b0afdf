"""Number flags that know their range, and say it in the help text and in every error."""

import math
from typing import Any, Callable

from absl import flags

# The help text lists a flag under the module that asks for it, not under this one.
flags.disclaim_key_flags()


class RangeParser(flags.ArgumentParser):
    """Parses a number in [low, high]."""

    def __init__(self, kind: Callable[[Any], Any], low: float, high: float) -> None:
        """Takes `int` or `float` as the kind of number."""
        super().__init__()
        self._kind, self._low, self._high = kind, low, high
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
        if not self._low <= value <= self._high:  # NaN fails both comparisons.
            raise ValueError(f"expected {self.syntactic_help}")
        return value

    def flag_type(self) -> str:
        """The name of the kind of number."""
        return self._kind.__name__


def define_number(
    values: flags.FlagValues,
    name: str,
    default: float,
    kind: Callable[[Any], Any],
    low: float,
    high: float,
    text: str,
) -> None:
    """Adds to `values` a flag that `RangeParser` reads."""
    flags.DEFINE(
        RangeParser(kind, low, high), name, default, text, values, flags.ArgumentSerializer()
    )
