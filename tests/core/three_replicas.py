"""Three replicas on logical CPUs, for tests that run in a process of their own."""

import functools

import check_replicas
import tensorflow
import tensorflow.compat.v1 as tf
from check_replicas import bits, distribute
from helpers import MEAN
from programs import in_own_process
from tf2_code import needs_gathers

import tf_centers

REPLICAS = 3


@functools.lru_cache(maxsize=None)
def strategy():
    """The one strategy of a process."""
    return check_replicas.make_strategy(REPLICAS)


def on_three_replicas(test):
    return needs_gathers(in_own_process(test))


def make(**how):
    with strategy().scope():
        return tf_centers.create_embed_centers(4, 2, **how)


def run(call, *columns):
    """What `call` returns on each replica for its part of every column, in a `tf.function`."""
    parts = [distribute(strategy(), [tf.constant(part) for part in column]) for column in columns]
    function = tensorflow.function(lambda *given: strategy().run(call, given))
    return strategy().experimental_local_results(function(*parts))


def get(centers, updater=MEAN, **how):
    return lambda embeds, labels: tf_centers.get_embed_centers(
        embeds, labels, updater, centers, **how
    )


def copies(centers):
    return [strategy().experimental_local_results(variable) for variable in centers]


def state(centers):
    return [bits(copy) for found in copies(centers) for copy in found]
