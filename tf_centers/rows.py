"""Rows of a variable, of either kind: the only module that reads or writes one."""

import contextlib
from typing import Any

import tensorflow.compat.v1 as tf


def read_rows(variable: Any, rows: tf.Tensor) -> tf.Tensor:
    """Gathers rows of a variable, as they are after every control dependency in force."""
    if not is_ref(variable):
        return tf.gather(variable, rows)
    # The tensor that a ref variable converts to was made with the variable, before any update.
    with colocated(variable):
        return tf.gather(variable.read_value(), rows)


def read_all_rows(variable: Any) -> tf.Tensor:
    """Reads a small variable whole, as `read_rows` does."""
    if not is_ref(variable):
        return variable.read_value()
    # What a ref variable reads as is no copy, and changes when it is written.
    return read_rows(variable, tf.range(variable.shape.as_list()[0]))


def write_rows(variable: Any, rows: tf.Tensor, values: tf.Tensor) -> Any:
    """Overwrites rows of a variable; what it returns is for control dependencies only."""
    if is_ref(variable) and variable.dtype.base_dtype.is_integer:
        # The other op has no GPU kernel here, and a table on the GPU would follow its counts to
        # the host.
        return tf.scatter_nd_update(variable, tf.expand_dims(rows, 1), values)
    return tf.scatter_update(variable, rows, values)


def add_to_rows(variable: Any, rows: tf.Tensor, values: tf.Tensor) -> Any:
    """Adds to rows of a variable, any of them more than once; returns what `write_rows` does."""
    if is_ref(variable) and variable.dtype.base_dtype.is_integer:
        return tf.scatter_nd_add(variable, tf.expand_dims(rows, 1), values)
    return tf.scatter_add(variable, rows, values)


def outside_graphs() -> bool:
    """Whether variables are eager ones here: in TF2 code, or a `tf.function` of such code."""
    with tf.init_scope():
        return bool(tf.executing_eagerly())


def is_ref(variable: Any) -> bool:
    return bool(variable.dtype != variable.dtype.base_dtype)


def colocated(variable: Any) -> Any:
    # An op that takes a resource follows it by itself; one that reads a ref variable's value
    # would otherwise have the whole table sent to its own device.
    if outside_graphs():
        return contextlib.nullcontext()
    return tf.get_default_graph().colocate_with(variable.op, ignore_existing=True)


def on_machine_of(variable: Any) -> Any:
    """A context whose ops run on the machine that holds the variable, on whichever device there.

    The type of device is left to TensorFlow: not every op has a kernel for that of the variable.
    """
    spec = tf.DeviceSpec.from_string(variable.device or "")
    machine = tf.DeviceSpec(job=spec.job, replica=spec.replica, task=spec.task).to_string()
    stack = contextlib.ExitStack()
    if spec.job is not None and not outside_graphs():
        stack.enter_context(tf.device(None))  # forgets the worker's own device
        stack.enter_context(tf.device(machine))
    return stack


def loop_value(variable: Any) -> Any:
    """What `read_rows` can read inside a loop: a ref variable itself cannot enter every kind."""
    if variable is None or not is_ref(variable):
        return variable
    with colocated(variable):
        return variable.read_value()
