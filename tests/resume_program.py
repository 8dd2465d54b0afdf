"""Starts runs of the training script as it is told, line by line, each in a process of its own.

The processes are forked from this one, which has imported TensorFlow and never run it. Lines of
JSON come in and go out:

  {"flags": [flag, ...], "log": PATH, "pause_at": STEP, "go": PATH}  starts a run, answers its pid
  {"pid": PID}  answers its exit code, minus the signal that killed it, null as long as it runs

Before the batch of step "pause_at" a run says so in its log, and waits for the file "go" to appear.
"""

import importlib
import json
import os
import signal
import sys
import time

import mnist_console
import mnist_data
import train_mnist
from absl import logging


def run(asked):
    """Runs the script, in a process of its own; does not return."""
    code = 1
    try:
        log = os.open(asked["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        # Jobs in the background of some shells are told to ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pause_in(mnist_data.Batches, asked["pause_at"], asked["go"])
        code = train_mnist.main(["train_mnist.py"] + asked["flags"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def pause_in(batches, step, go):
    """Makes the batch of a step come late."""
    at = batches.at

    def waiting(self, now):
        if now == step:
            print(f"paused at {step}", flush=True)
            while not os.path.exists(go):
                time.sleep(0.01)
        return at(self, now)

    batches.at = waiting


def poll(pid):
    """The exit code of a process, None as long as it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        return None
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


# As absl does for a script.
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
mnist_console.set_up_logging()
train_mnist.import_tensorflow()
for name in ("mnist_figures", "mnist_training"):
    importlib.import_module(name)  # Once for all runs.
for line in sys.stdin:
    asked = json.loads(line)
    if "pid" in asked:
        answer = poll(asked["pid"])
    else:
        answer = os.fork()
        if not answer:
            run(asked)
    print(json.dumps(answer), flush=True)
