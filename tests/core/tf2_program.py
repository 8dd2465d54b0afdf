"""A TF2 program that calls the package, run by test_contexts.py in a process of its own.

TensorFlow 1.15 runs it too, once told to behave as TF2.
"""

import numpy as np
import tensorflow
import tensorflow.compat.v1 as tf

tf.enable_v2_behavior()

import tf_centers  # noqa: E402

CENTERS = tf_centers.EmbedCenters(
    tensorflow.Variable(np.zeros([7, 5], np.float32)), tensorflow.Variable(np.zeros([7], np.int64))
)


@tensorflow.function
def step(embeds, labels, wanted):
    total = tensorflow.zeros([])
    if wanted > 0:
        rows = tf_centers.get_embed_centers(embeds, labels, tf_centers.CumulativeMean(), CENTERS)
        total += tensorflow.reduce_sum(rows)
    return total


embeds, labels = tensorflow.ones([2, 5]), tensorflow.constant([1, 2])
assert float(step(embeds, labels, tensorflow.constant(0))) == 0.0
assert not CENTERS.counts.numpy().any()
assert float(step(embeds, labels, tensorflow.constant(1))) == 10.0
for bad in (tensorflow.constant([1, 7]), tensorflow.constant([-1, 2])):
    try:
        step(embeds, bad, tensorflow.constant(1))
    except tf.errors.InvalidArgumentError as error:
        assert "get_embed_centers: expected every label in [0, 7)" in str(error)
    else:
        raise AssertionError("a bad label passed")
with tensorflow.GradientTape() as tape:
    tape.watch(embeds)
    rows = tf_centers.get_embed_centers(embeds, labels, None, CENTERS, read="before")
    loss = tf_centers.center_loss(3.0 * embeds, rows)
gradient, none = tape.gradient(loss, [embeds, CENTERS.ctrs])
assert none is None
np.testing.assert_array_equal(gradient.numpy(), np.full([2, 5], 6.0))  # 3 * (3 - 1)
# The window counts its rows too, where counts are kept.
assert CENTERS.counts.numpy().tolist() == [0, 2, 2, 0, 0, 0, 0]
assert tf_centers.nearest_centers(embeds, CENTERS, k=3).labels.numpy().tolist() == [[1, 2, -1]] * 2
# A schedule is a variable, and batches of any size share one trace.
DECAY, TRACES = tensorflow.Variable(0.5), []


@tensorflow.function(
    input_signature=[
        tensorflow.TensorSpec([None, 5], tensorflow.float32),
        tensorflow.TensorSpec([None], tensorflow.int64),
    ]
)
def window(embeds, labels):
    TRACES.append(1)
    return tf_centers.get_embed_centers(
        embeds, labels, tf_centers.ExponentialWindow(DECAY), CENTERS
    )


assert window(tensorflow.fill([1, 5], 4.0), tensorflow.constant([6], tensorflow.int64))[0, 0] == 2
DECAY.assign(0.75)
rows = window(tensorflow.fill([2, 5], 6.0), tensorflow.constant([6, 6], tensorflow.int64))
assert rows[0, 0] == rows[1, 0] == 3.75  # 2 -> 3 -> 3.75
assert window(tensorflow.zeros([0, 5]), tensorflow.zeros([0], tensorflow.int64)).shape == (0, 5)
assert CENTERS.ctrs.numpy()[6].tolist() == [3.75] * 5 and TRACES == [1]
print("all well")
