"""Ctrl-C and SIGTERM: the first stops training after a step, the second ends the process."""

import os
import signal
import socket
import sys
import threading
from typing import Any, Optional

import tensorflow.compat.v1 as tf


class Interrupted(Exception):
    """SIGINT or SIGTERM has stopped training. The message is one line."""


class Interrupts:
    """Listens for SIGINT and SIGTERM in a thread, and ends the process unless training can stop.

    Python's own handlers only run in the main thread, which is blocked while TensorFlow waits for a
    lost server. Ending at once is as safe as a kill.
    """

    def __init__(self) -> None:
        self.signum: Optional[int] = None  # the signal that asked training to stop
        self.can_stop = False  # whether training is to stop and save by itself
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        for signum in (signal.SIGINT, signal.SIGTERM):
            # A shell script has its background jobs ignore Ctrl-C.
            if signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, lambda *_: None)
        threading.Thread(target=self._listen, daemon=True).start()

    def give_up(self) -> None:
        """Ends the process if a signal has come, since training can no longer stop by itself."""
        self.can_stop = False
        if self.signum is not None:
            self._end_process(self.signum)

    def _listen(self) -> None:
        while True:
            signum = self._reader.recv(1)[0]
            if not self.can_stop or self.signum is not None:
                self._end_process(signum)
            self.signum = signum

    def _end_process(self, signum: int) -> None:
        name = os.path.basename(sys.argv[0])
        print(f"{name}: interrupted; the same command resumes", file=sys.stderr, flush=True)
        os._exit(128 + signum)


class StopHook(tf.train.SessionRunHook):
    """Stops training after the step in which a signal came. Must be the last hook."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts

    def after_create_session(self, session: tf.Session, coord: tf.train.Coordinator) -> None:
        self._interrupts.can_stop = True

    def after_run(self, run_context: tf.train.SessionRunContext, run_values: Any) -> None:
        if self._interrupts.signum is not None:
            run_context.request_stop()

    def end(self, session: tf.Session) -> None:
        self._interrupts.can_stop = False  # Everything is saved.
