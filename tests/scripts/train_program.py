"""The training script, saving ten times as often, soon tired of silence, and pausing at steps.

  train_program.py STEP,... [--flag=value ...]

Before the batch of each of these steps, or of none if that is `None`, it says so and waits for a
line on its standard input. After the line "hear" it also waits until a signal has asked training to
stop.
"""

import os
import runpy
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = os.path.join(os.path.dirname(os.path.dirname(HERE)), "scripts")
sys.argv[0] = os.path.join(sys.path[0], "train_mnist.py")
pauses = sys.argv.pop(1).split(",")

from mnist import data, interrupts  # noqa: E402


class Interrupts(interrupts.Interrupts):
    """The same, known here."""

    def __init__(self):
        super().__init__()
        Interrupts.only = self


class Batches(data.Batches):
    """The same, but for the pause."""

    def at(self, step):
        if str(step) in pauses:
            print(f"paused at {step}", flush=True)
            if sys.stdin.readline() == "hear\n":
                while Interrupts.only.signum is None:
                    time.sleep(0.001)  # A thread of its own hears the signal.
        return super().at(step)


interrupts.Interrupts, data.Batches = Interrupts, Batches
from mnist import cluster, training  # noqa: E402

training.SAVE_EVERY, cluster.SILENCE_SECS = 20, 3
runpy.run_path(sys.argv[0], run_name="__main__")
