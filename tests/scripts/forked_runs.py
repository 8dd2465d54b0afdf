"""Starts runs of the training script, each in a process forked from this one, as it is told.

This process has imported TensorFlow and never run it, which saves each run the seconds of the
import. Lines of JSON come in and go out:

  {"flags": [FLAG, ...], "output": FIFO, "pause_at": STEP, "go": FIFO}  starts a run; its pid
  {"wait": PID}  waits for a run; its exit code, or minus the signal that killed it

Before the batch of step "pause_at" a run says so, and waits until "go" is opened for writing.
"""

import importlib
import json
import os
import runpy
import signal
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import mnist.data
from absl import app

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(mnist.data.__file__)), "train_mnist.py")


def run(flags, output, pause_at, go):
    """Runs the script as a shell would; does not return."""
    code = 1
    try:
        log = os.open(output, os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # The tests themselves may run where SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        pause_in(mnist.data.Batches, pause_at, go)
        sys.argv = [SCRIPT] + flags
        runpy.run_path(SCRIPT, run_name="__main__")
    except SystemExit as exit:
        code = exit.code or 0
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
            open(go).close()
        return at(self, now)

    batches.at = waiting


def wait(pid):
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    assert callable(app.run)
    for name in ("cluster_training", "experiment"):
        importlib.import_module(f"mnist.{name}")
    for line in sys.stdin:
        asked = json.loads(line)
        answer = wait(asked["wait"]) if "wait" in asked else os.fork()
        if not answer and "wait" not in asked:
            run(**asked)
        print(json.dumps(answer), flush=True)
