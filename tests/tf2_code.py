"""What tests of TF2 code share."""

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import C, D

import tf_centers

needs_tf2 = pytest.mark.skipif(
    not tf.executing_eagerly(), reason="TensorFlow 1.15 starts in graph mode"
)
needs_gathers = pytest.mark.skipif(
    not hasattr(tensorflow.distribute.ReplicaContext, "all_gather"),
    reason="TensorFlow before 2.4 cannot gather within replicas",
)
eager_or_function = pytest.mark.parametrize("how", ["eager", "function"])


def in_tf2(test):
    """Marks a test of TF2 code, which TensorFlow 1.15 skips."""
    return pytest.mark.eager(needs_tf2(test))


def as_called(how, step, **kwargs):
    """A step as it is, or as a `tf.function`."""
    return step if how == "eager" else tensorflow.function(step, **kwargs)


def eager_centers(count_dtype="int64"):
    """The variables of TF2 code, at zero."""
    return tf_centers.EmbedCenters(
        tensorflow.Variable(np.zeros([C, D], np.float32)),
        tensorflow.Variable(np.zeros([C], count_dtype)),
    )
