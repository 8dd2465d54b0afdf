"""Writes the checkpoint that test_sharding.py restores, with the TensorFlow it is run with.

python tests/make_checkpoint.py tests/checkpoints/tensorflow-VERSION
"""

import os
import sys

import numpy as np
import tensorflow.compat.v1 as tf

import tf_centers

CLASSES, DIMS, SHARDS = 7, 3, 2
ROWS = np.arange(30.0).reshape(10, DIMS) ** 1.5
LABELS = [0, 6, 6, 3, 2, 4, 4, 4, 1, 0]


def main(folder):
    tf.disable_v2_behavior()
    os.makedirs(folder, exist_ok=True)
    with tf.variable_scope("", partitioner=tf.fixed_size_partitioner(SHARDS)):
        centers = tf_centers.create_embed_centers(CLASSES, DIMS)
    embeds = tf.constant(ROWS, tf.float32)
    update = tf_centers.update_embed_centers(embeds, LABELS, tf_centers.CumulativeMean(), centers)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        session.run(update)
        path = os.path.join(folder, "model")
        tf.train.Saver().save(session, path, write_meta_graph=False, write_state=False)


if __name__ == "__main__":
    main(sys.argv[1])
