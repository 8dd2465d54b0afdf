"""What the tests share: data, centers, sessions and a look at every bit of the state."""

import contextlib
import random
import socket

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import tf_centers

LOCK = {"use_locking": True}
# Every call with embeddings, labels and centers.
CALLS = {
    "get": lambda *batch: tf_centers.get_embed_centers(*batch[:2], MEAN, batch[2]),
    "update": lambda *batch: tf_centers.update_embed_centers(
        *batch[:2], None, batch[2], use_locking=True
    ),
    "lookup": lambda embeds, labels, centers: tf_centers.lookup_embed_centers(labels, centers),
    "nearest": lambda embeds, labels, centers: tf_centers.nearest_centers(embeds, centers, k=2),
    "distances": lambda embeds, labels, centers: tf_centers.center_distances(embeds, centers),
}
# All different, so that no mistake of an axis goes unseen.
B, C, D = 12, 7, 5
MEAN = tf_centers.CumulativeMean()


def make_ctrs(
    use_resource, shape=(C, D), dtype=tf.float32, initial=0.0, scope="embed", shards=None, **how
):
    """The variable that a legacy graph makes for itself, whole or in shards."""
    splits = tf.fixed_size_partitioner(shards) if shards else None
    how = {"trainable": False, **how}
    with tf.variable_scope(scope, use_resource=use_resource, partitioner=splits):
        initial = tf.constant(np.broadcast_to(initial, shape), dtype)
        return tf.get_variable("ctrs", initializer=initial, **how)


def make_centers(tf_centers, use_resource, num_classes=C, num_dims=D, shards=None, **kwargs):
    """`create_embed_centers` with the wanted kind of variables, whole or in shards."""
    splits = tf.fixed_size_partitioner(shards) if shards else None
    with tf.variable_scope(tf.get_variable_scope(), use_resource=use_resource, partitioner=splits):
        return tf_centers.create_embed_centers(num_classes, num_dims, **kwargs)


def placeholders(dims=D, labels=tf.int64, embeds=tf.float32):
    """Embeddings `[None, dims]` and labels `[None]`."""
    return tf.placeholder(embeds, [None, dims]), tf.placeholder(labels, [None])


@contextlib.contextmanager
def initialized_session():
    """A session with every variable initialized and the graph finalized."""
    init = tf.global_variables_initializer()
    with tf.Session() as session:
        session.run(init)
        session.graph.finalize()
        yield session


def slow_zero():
    """A tensor that takes long."""
    slow = tf.random_uniform([400, 400])
    for _ in range(8):
        slow = tf.matmul(slow, slow) * 1e-3
    return 0.0 * tf.cast(tf.is_finite(tf.reduce_sum(slow)), tf.float32)


def make_batch(seed, rows=B, classes=C, dims=D, absent=(2,)):
    """Asymmetric rows with repeated and absent classes: float64 `[rows, dims]`, int `[rows]`."""
    rng = np.random.RandomState(seed)
    present = [label for label in range(classes) if label not in absent]
    embeds = 2.0 * rng.randn(rows, dims) + np.linspace(-1, 3, dims)
    return embeds, rng.choice(present, rows)


def parts(variable):
    """The variables of a table or of counts, one or a shard each."""
    return list(variable) if hasattr(variable, "as_tensor") else [variable]


def read_state(session, centers):
    """Centers and counts, those of all shards in one piece."""
    found = session.run([parts(v) for v in centers if v is not None])
    return [np.concatenate(values) for values in found]


def state_bits(session, *variables):
    """The exact bits of variables, to see that nothing was written."""
    variables = [part for v in variables if v is not None for part in parts(v)]
    return [value.tobytes() for value in session.run(variables)]


def check_refused(session, fetch, feed, message, *variables, error=tf.errors.InvalidArgumentError):
    """A step is refused with this message, and not a bit of the variables, or of any, changes."""
    variables = variables or tf.global_variables()
    before = state_bits(session, *variables)
    with pytest.raises(error, match=message):
        session.run(fetch, feed)
        raise AssertionError(f"{message!r}: the step was not refused")
    assert state_bits(session, *variables) == before


def free_ports(count):
    """Ports nobody listens on; all are held until the last is found, so that they differ.

    Not from among those that the system gives to outgoing connections, which might be taken by the
    time a server is up.
    """
    draw = random.SystemRandom()
    with contextlib.ExitStack() as held:
        ports = []
        while len(ports) < count:
            one = held.enter_context(contextlib.closing(socket.socket()))
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", draw.randrange(10000, 32000)))
                ports.append(one.getsockname()[1])
        return ports
