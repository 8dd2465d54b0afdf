"""Runs programs as a user would start, watch, interrupt and kill them.

Each is a process forked from one that has imported TensorFlow and never used it, which saves each
of them the seconds of the import.
"""

import functools
import importlib
import multiprocessing
import os
import re
import runpy
import signal
import sys
import tempfile
import threading
import traceback

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPTS = os.path.join(ROOT, "scripts")
# Far beyond what any machine needs: a bound, no measure.
DEADLINE_SECS = 600

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tensorflow.compat.v1", "matplotlib.figure"])


class Run:
    """One process: its output so far, and its end.

    stderr is merged unless `apart=True`; stdin is closed unless `listens=True`.
    """

    def __init__(self, script, *arguments, apart=False, listens=False):
        reader, writer = _context.Pipe(duplex=False)
        stdin, self._stdin = _context.Pipe(duplex=False)
        if not listens:
            self._stdin.close()
        self._errors = tempfile.NamedTemporaryFile() if apart else None
        command, errors = [str(script), *arguments], self._errors and self._errors.name
        self._process = _context.Process(
            target=_run, args=[command, stdin, writer, errors], daemon=True
        )
        self._process.start()
        self.pid = self._process.pid
        stdin.close()
        writer.close()
        self.output, self.has_ended, self._changed = "", False, threading.Condition()
        threading.Thread(target=self._read, args=[reader], daemon=True).start()

    def _read(self, reader):
        with open(reader.fileno(), encoding="utf-8", errors="replace", closefd=False) as file:
            for line in file:
                with self._changed:
                    self.output += line
                    self._changed.notify_all()
        reader.close()
        with self._changed:
            self.has_ended = True
            self._changed.notify_all()

    @property
    def errors(self):
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode("utf-8", "replace")

    def wait_for(self, pattern):
        """The first match of a pattern in the output, which has to come."""

        def find():
            return re.search(pattern, self.output) or self.has_ended

        with self._changed:
            found = self._changed.wait_for(find, DEADLINE_SECS)
        assert found and found is not True, f"no {pattern!r} in:\n{self.output}{self.errors}"
        return found

    def tell(self, line):
        """Writes a line to its standard input."""
        os.write(self._stdin.fileno(), f"{line}\n".encode())

    def send(self, signum):
        os.kill(self.pid, signum)

    def wait(self):
        """Waits for the end, and returns the exit code, or minus the signal that killed it."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.has_ended, DEADLINE_SECS)
        assert in_time, f"still runs:\n{self.output}{self.errors}"
        self._process.join(DEADLINE_SECS)
        return self._process.exitcode

    def end(self, *codes):
        """Waits for the end, which has to be of one of these exit codes, 0 if there are none given.

        Returns the output.
        """
        code = self.wait()
        said = self.output + self.errors
        assert code in (codes or [0]), f"exit code {code}:\n{said}"
        assert "Traceback" not in said, said
        return self.output

    def kill(self):
        """Kills it if it still runs; what it said until then is kept."""
        self._process.kill()
        self.wait()


def in_own_process(test):
    """Runs a test without fixtures in a process of its own, eagerly where that is the default.

    For what TensorFlow allows once in a process: a strategy, a number of logical devices.
    """

    @pytest.mark.eager
    @functools.wraps(test)
    def run():
        reader, writer = _context.Pipe(duplex=False)
        target = functools.partial(_run_test, test.__module__, test.__name__, writer)
        process = _context.Process(target=target, daemon=True)
        process.start()
        writer.close()
        try:
            assert reader.poll(DEADLINE_SECS), "still runs"
            fault = reader.recv()
        except EOFError:
            process.join()
            fault = f"ended with exit code {process.exitcode}"
        finally:
            process.kill()
        assert not fault, fault

    return run


def _run_test(module, name, writer):
    try:
        getattr(importlib.import_module(module), name).__wrapped__()
        fault = ""
    except BaseException:
        fault = traceback.format_exc()
    writer.send(fault)


def _run(command, stdin, stdout, errors):
    """Turns this process into the one that a shell would start in the root of the repository."""
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    os.dup2(os.open(errors, os.O_WRONLY) if errors else 1, 2)
    sys.stdin = open(0)
    # The tests themselves may run where SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(ROOT)
    own = os.path.join(ROOT, "tests"), SCRIPTS
    sys.path = [os.path.dirname(command[0])] + [p for p in sys.path if not p.startswith(own)]
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as exit:
        raise SystemExit(exit.code or 0) from None  # For Python 3.7, None is 1 here.
