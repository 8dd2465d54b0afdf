"""Tells the user how training goes: a bar on a terminal, plain log lines elsewhere."""

import sys
from types import TracebackType
from typing import Optional, Type

from absl import logging
from tqdm import tqdm


class Progress:
    """A context manager around a training loop from step `start` to step `total`."""

    def __init__(self, start: int, total: int) -> None:
        """Opens the bar where standard error is a terminal."""
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            smoothing=0.1,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> "Progress":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Closes the bar and leaves it on the screen."""
        self._bar.close()

    def reach(self, step: int) -> None:
        """Tells that training has come to `step`."""
        self._bar.update(step - self._bar.n)

    def log(self, message: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._bar.disable:
            logging.info("%s", message)
        else:
            self._bar.write(message, file=sys.stderr)
