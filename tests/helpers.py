"""What the tests share: data, centers, sessions and a look at every bit of the state."""

import contextlib
import random
import socket

import numpy as np
import tensorflow.compat.v1 as tf

# All different, so that no mistake of an axis goes unseen.
B, C, D = 12, 7, 5


def make_ctrs(use_resource, shape=(C, D), dtype=tf.float32, initial=None, scope="embed"):
    """The variable that a legacy graph makes for itself."""
    initial = np.zeros(shape) if initial is None else initial
    with tf.variable_scope(scope):
        return tf.get_variable(
            "ctrs",
            shape,
            dtype,
            tf.constant_initializer(initial),
            trainable=False,
            use_resource=use_resource,
        )


def make_centers(tf_centers, use_resource, num_classes=C, num_dims=D, **kwargs):
    """`create_embed_centers` with the wanted kind of variables."""
    with tf.variable_scope(tf.get_variable_scope(), use_resource=use_resource):
        return tf_centers.create_embed_centers(num_classes, num_dims, **kwargs)


@contextlib.contextmanager
def initialized_session():
    """A session with every variable initialized and the graph finalized."""
    init = tf.global_variables_initializer()
    with tf.Session() as session:
        session.run(init)
        session.graph.finalize()
        yield session


def make_batch(seed, rows=B, classes=C, dims=D, absent=(2,)):
    """Asymmetric rows with repeated and absent classes: float64 `[rows, dims]`, int `[rows]`."""
    rng = np.random.RandomState(seed)
    present = [label for label in range(classes) if label not in absent]
    embeds = 2.0 * rng.randn(rows, dims) + np.linspace(-1, 3, dims)
    return embeds, rng.choice(present, rows)


def state_bits(session, *variables):
    """The exact bits of variables, to see that nothing was written."""
    return [value.tobytes() for value in session.run([v for v in variables if v is not None])]


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
