"""Runs of the training script, as a user would start, watch, interrupt and kill them."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPTS = os.path.join(ROOT, "scripts")
# Far beyond what any machine needs: a bound, no measure.
DEADLINE_SECS = 300
# What TensorFlow 2 prints when it is imported.
NOTICES = re.compile(r"^(WARNING: All log messages before|[IWE]\d{4} ).*\n?", re.MULTILINE)


class Run:
    """One process: its output so far, and its end."""

    def __init__(self, starter, pid, output):
        self.starter, self.pid, self.code = starter, pid, None
        self._output, self._changed = "", threading.Condition()
        self._reader = threading.Thread(target=self._read, args=[output], daemon=True)
        self._reader.start()

    def _read(self, output):
        with open(output, encoding="utf-8", errors="replace") as file:
            for line in file:
                with self._changed:
                    self._output += line
                    self._changed.notify_all()
        with self._changed:
            self._output += "\0"  # The end.
            self._changed.notify_all()

    @property
    def output(self):
        return self._output.rstrip("\0")

    @property
    def has_ended(self):
        return self._output.endswith("\0")

    def wait_for(self, pattern):
        """The first match of a pattern in the output, which has to come."""

        def find():
            return re.search(pattern, self._output) or self.has_ended

        with self._changed:
            found = self._changed.wait_for(find, DEADLINE_SECS)
        assert found and found is not True, f"no {pattern!r} in:\n{self.output}"
        return found

    def send(self, signum):
        os.kill(self.pid, signum)

    def end(self, *codes):
        """Waits for the end, which has to be of one of these exit codes, 0 if there are none given.

        Returns the output.
        """
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.has_ended, DEADLINE_SECS)
        assert in_time, f"still runs:\n{self.output}"
        if self.code is None:
            self.code = self.starter.ask(wait=self.pid)
        assert self.code in (codes or [0]), f"exit code {self.code}:\n{self.output}"
        assert "Traceback" not in self.output, self.output
        return self.output

    def kill(self):
        self.send(signal.SIGKILL)
        self.end(-signal.SIGKILL)

    def close(self):
        """Kills it if it still runs."""
        if self.code is None:
            self.send(signal.SIGKILL)  # Its pid is not given away before the `wait` below.
            self.code = self.starter.ask(wait=self.pid)


class Starter:
    """Starts runs in processes of their own, none of which outlives it."""

    def __init__(self, folder):
        self.folder, self.runs = str(folder), []
        path = os.pathsep.join([ROOT, SCRIPTS])
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(os.path.dirname(__file__), "forked_runs.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=path),
            universal_newlines=True,
        )

    def ask(self, **asked):
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *flags, pause_at=None):
        """Starts a run; if it is to pause at a step, waits until it does."""
        output, go = (os.path.join(self.folder, f"{len(self.runs)}.{n}") for n in ("out", "go"))
        os.mkfifo(output)
        os.mkfifo(go)
        pid = self.ask(flags=list(flags), output=output, pause_at=pause_at, go=go)
        run = Run(self, pid, output)
        run.go = go
        self.runs.append(run)
        if pause_at is not None:
            run.wait_for(f"paused at {pause_at}\n")
        return run

    def proceed(self, run):
        """Lets a run that pauses go on."""
        open(run.go, "w").close()

    def close(self):
        for run in self.runs:
            run.close()
        self.process.stdin.close()
        self.process.wait(DEADLINE_SECS)
        self.process.stdout.close()


def told(output):
    """The lines of the script's own in its output."""
    lines = NOTICES.sub("", output).splitlines()
    return [line for line in lines if line.startswith("train_mnist.py: ")]
