"""Ctrl-C and SIGTERM: noted where a run must not be cut short, an exception elsewhere."""

import contextlib
import signal
import threading
from types import FrameType
from typing import Callable, Iterable, Iterator, Optional

_ASK_TO_END = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM has come, and nothing is half done. The message is one line."""

    def __init__(self, signum: int, message: str) -> None:
        """Takes the number of the signal."""
        super().__init__(message)
        self.exit_code = 128 + signum  # As a shell tells it.


class Pending:
    """The signal that has asked this process to end, None as long as none has."""

    def __init__(self) -> None:
        """None has, yet."""
        self.signum: Optional[int] = None


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
    """Within the block SIGINT and SIGTERM are only noted, however often they come.

    An exception out of nowhere could cut a checkpoint in two.
    """
    pending = Pending()

    def note(signum: int, frame: Optional[FrameType]) -> None:
        pending.signum = pending.signum or signum

    with _handling(_ASK_TO_END, note):
        yield pending


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within the block SIGTERM raises `Interrupted`, so that files are cleaned up behind it."""

    def interrupt(signum: int, frame: Optional[FrameType]) -> None:
        raise Interrupted(signum, "interrupted; the same command resumes")

    with _handling([signal.SIGTERM], interrupt):
        yield


@contextlib.contextmanager
def _handling(
    signums: Iterable[int], handler: Callable[[int, Optional[FrameType]], None]
) -> Iterator[None]:
    before = {}
    # Python lets the main thread alone set handlers.
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.getsignal(signum) for signum in signums}
    # A process in the background may have been told to ignore Ctrl-C; what is not Python's own
    # (None) could not be put back.
    before = {
        signum: found for signum, found in before.items() if found not in (None, signal.SIG_IGN)
    }
    try:
        for signum in before:
            signal.signal(signum, handler)
        yield
    finally:
        for signum, found in before.items():
            signal.signal(signum, found)
