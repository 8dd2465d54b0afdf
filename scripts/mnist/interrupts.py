"""Ctrl-C and SIGTERM: the first stops training after a step, the second ends the process."""

import os
import signal
import sys
import threading
from typing import List, Optional


class Interrupted(Exception):
    """SIGINT or SIGTERM has stopped training. The message is one line."""


class Interrupts:
    """Takes SIGINT and SIGTERM in a thread, since TensorFlow may block the main one for ever.

    Made before any other thread, since threads inherit which signals are blocked.
    """

    def __init__(self) -> None:
        self.signum: Optional[int] = None  # the signal that asked training to stop
        self.can_stop = False  # whether training is to stop and save by itself
        # A shell script has its background jobs ignore Ctrl-C.
        signals = [signal.SIGINT, signal.SIGTERM]
        signals = [s for s in signals if signal.getsignal(s) is not signal.SIG_IGN]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        threading.Thread(target=self._listen, args=[signals], daemon=True).start()

    def give_up(self) -> None:
        """Ends the process if a signal has come, since training can no longer stop by itself."""
        self.can_stop = False
        if self.signum is not None:
            self._end_process(self.signum)

    def _listen(self, signals: List[signal.Signals]) -> None:
        while True:
            signum = signal.sigwait(signals)
            if not self.can_stop or self.signum is not None:
                self._end_process(signum)
            self.signum = signum

    def _end_process(self, signum: int) -> None:
        name = os.path.basename(sys.argv[0])
        print(f"{name}: interrupted; the same command resumes", file=sys.stderr, flush=True)
        os._exit(128 + signum)  # as safe as a kill
