"""A TF2 program whose updaters keep eager tensors, run by test_locks_wait.py."""

import numpy as np
import tensorflow
import tensorflow.compat.v1 as tf

tf.enable_v2_behavior()

import tf_centers  # noqa: E402


class Kept(tf_centers.Updater):
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def row_weights(self, rows):
        value = next(iter(vars(self).values()))
        return (value[0] if isinstance(value, list) else value) / rows.sizes


def check(updater, how):
    centers = tf_centers.EmbedCenters(
        tensorflow.Variable(np.zeros([4, 2], np.float32)),
        tensorflow.Variable(np.zeros([4], np.int64)),
    )

    def step():
        return tf_centers.get_embed_centers([[4.0, 8.0]], [3], updater, centers, use_locking=True)

    rows = (tensorflow.function(step) if how == "function" else step)()
    np.testing.assert_array_equal(rows.numpy(), [[2.0, 4.0]])


for call in ("eager", "function"):
    rate = tensorflow.constant(0.5)
    for updater in (
        Kept(scale=rate),
        Kept(scales=[rate]),
        Kept(variable=tensorflow.Variable(0.5)),
        tf_centers.ExponentialWindow(rate),
        tf_centers.WenUpdate(2 * rate),
    ):
        check(updater, call)
print("all well")
