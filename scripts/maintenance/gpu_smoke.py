"""Runs every call on a GPU, where there is one; says that it has not where there is none."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow.compat.v1 as tf  # noqa: E402
from check_gpu_kernels import SETTINGS, build_calls  # noqa: E402


def main():
    tf.disable_v2_behavior()
    tf.logging.set_verbosity(tf.logging.ERROR)
    if not tf.test.is_gpu_available():
        print("gpu_smoke.py: not run, since TensorFlow finds no GPU")
        return 0
    embeds, labels = np.random.RandomState(0).randn(12, 5), np.arange(12) % 5
    for setting in SETTINGS:
        with tf.Graph().as_default(), tf.device("/GPU:0"):
            batch, calls = build_calls(*setting)
            feed = dict(zip(batch, (embeds, labels, labels > 0)))
            with tf.Session(config=tf.ConfigProto(allow_soft_placement=True)) as session:
                session.run(tf.global_variables_initializer())
                for fetch in calls:
                    session.run(fetch, feed)
    print(f"gpu_smoke.py: ran {len(calls)} calls in {len(SETTINGS)} settings on a GPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
