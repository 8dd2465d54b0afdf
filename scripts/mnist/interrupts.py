"""Ctrl-C and SIGTERM: the first stops training after a step, the second ends the process."""

import os
import signal
import sys
from typing import Any, Optional


class Interrupted(Exception):
    """SIGINT or SIGTERM has stopped training. The message is one line."""


class Interrupts:
    """Takes SIGINT and SIGTERM, in the main thread, which TensorFlow must not block."""

    def __init__(self) -> None:
        self.signum: Optional[int] = None  # the signal that asked training to stop
        self.can_stop = False  # whether training is to stop and save by itself
        for signum in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as shells have it in background
                signal.signal(signum, self._take)

    def give_up(self) -> None:
        """Ends the process if a signal has come, since training can no longer stop by itself."""
        self.can_stop = False
        if self.signum is not None:
            self._take(self.signum)

    def _take(self, signum: int, _: Any = None) -> None:
        if not self.can_stop or self.signum is not None:
            name = os.path.basename(sys.argv[0])
            print(f"{name}: interrupted; the same command resumes", file=sys.stderr, flush=True)
            os._exit(128 + signum)  # as safe as a kill
        self.signum = signum
