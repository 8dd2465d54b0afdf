"""Keeps the screen free for the training: plain log lines, no notices of TensorFlow."""

import contextlib
import faulthandler
import logging as std_logging
import os
import re
import sys
import tempfile
import threading
from typing import Any, Iterator

from absl import logging

# Log lines of level INFO or WARNING in the C++ libraries, and what announces them.
_NOTICE = re.compile(rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog")

# From Python 3.8 on.
_tell = getattr(threading, "excepthook", None)


def set_up_logging() -> None:
    """Our own log lines with the time alone before them; other libraries are heard from WARNING on.

    TF_CPP_MIN_LOG_LEVEL in the environment still decides what TensorFlow tells.
    """
    logging.get_absl_handler().setFormatter(std_logging.Formatter("%(asctime)s %(message)s", "%X"))
    std_logging.getLogger("matplotlib").setLevel(std_logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if _tell is not None:
        threading.excepthook = _tell_of_thread


def _tell_of_thread(args: Any) -> None:
    # This one hands its error on to whoever writes the next event.
    if args.thread is None or args.thread.name != "EventLoggerThread":
        _tell(args)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Around the import of TensorFlow: holds back its notices, lets errors through.

    Its libraries write some to the file descriptor before they look at TF_CPP_MIN_LOG_LEVEL.
    """
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] < "2":
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, os.fdopen(os.dup(2), "wb", buffering=0) as screen:
        # A library that kills the process must not take the reason with it.
        faulthandler.enable(screen)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen.fileno(), 2)
            faulthandler.enable()
            held.seek(0)
            screen.writelines(line for line in held if not _NOTICE.match(line))
