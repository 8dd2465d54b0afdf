"""Times an update on 1, 2 and 4 replicas against a single process with the joined batch.

    python scripts/maintenance/replicas_benchmark.py [--steps=60]

Starts a process for each number of replicas, which are logical CPUs of this machine and get equal
shares of the batch. Steps alternate with those of a plain table on the whole batch. Prints the
ratios of medians, which show what copies cost, since every replica makes the whole update.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import check_replicas
import numpy as np
import tensorflow as tf

import tf_centers

REPLICAS = (1, 2, 4)
SIZES = ((1000, 128, 256), (1000, 128, 1024), (10000, 512, 1024))  # C / D / B
UPDATER = tf_centers.CumulativeMean()
WARM_UP = 5


def measure(strategy, size, steps):
    """The median seconds of a step on all replicas, and of one on a plain table."""
    classes, dims, rows = size
    replicas = strategy.num_replicas_in_sync
    rng = np.random.RandomState(0)
    embeds = tf.constant(rng.randn(rows, dims), tf.float32)
    labels = tf.constant(rng.randint(classes, size=rows))
    parts = [
        check_replicas.distribute(strategy, tf.split(column, replicas))
        for column in (embeds, labels)
    ]
    with strategy.scope():
        copied = tf_centers.create_embed_centers(classes, dims)
    plain = tf_centers.create_embed_centers(classes, dims)

    @tf.function
    def step(*batch):
        return strategy.run(lambda *own: tf_centers.get_embed_centers(*own, UPDATER, copied), batch)

    @tf.function
    def single(*batch):
        return tf_centers.get_embed_centers(*batch, UPDATER, plain)

    seconds = {step: [], single: []}
    for _ in range(WARM_UP + steps):
        for call, batch in ((step, parts), (single, (embeds, labels))):
            start = time.perf_counter()
            call(*batch)
            seconds[call].append(time.perf_counter() - start)
    return [statistics.median(seconds[call][WARM_UP:]) for call in (step, single)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="timed steps per size")
    parser.add_argument("--replicas", type=int, help="run one process only, with this many")
    given = parser.parse_args()
    if given.replicas:
        strategy = check_replicas.make_strategy(given.replicas)
        print(json.dumps([measure(strategy, size, given.steps) for size in SIZES]))
        return
    results = []
    for replicas in REPLICAS:
        command = [sys.executable, __file__, f"--replicas={replicas}", f"--steps={given.steps}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results.append(json.loads(output.splitlines()[-1]))
    print(f"TensorFlow {tf.__version__}")
    print("| C / D / B | one process, us |", *[f"{n} replica{'s' * (n > 1)} |" for n in REPLICAS])
    print("| --- | --- |" + " --- |" * len(REPLICAS))
    for size, times in zip(SIZES, zip(*results)):
        alone = 1e6 * statistics.median(single for _, single in times)
        shown = " / ".join(f"{each:,}" for each in size)
        print(f"| {shown} | {alone:,.0f} |", *[f"{step / single:.2f} |" for step, single in times])


if __name__ == "__main__":
    main()
