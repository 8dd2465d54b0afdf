"""The only module that reads or writes variables, of either kind."""

import contextlib
from typing import Any

import tensorflow.compat.v1 as tf


def read_rows(variable: Any, rows: tf.Tensor) -> tf.Tensor:
    """Gathers rows of a variable, as they are after every control dependency in force."""
    with colocated(variable):
        # The tensor that a ref variable converts to was made with the variable, before any update.
        return tf.gather(variable.read_value() if is_ref(variable) else variable, rows)


def read_range(variable: Any, start: int, stop: int) -> tf.Tensor:
    """Reads the rows [start, stop) of a variable, and copies no others."""
    if (start, stop) != (0, variable.shape.as_list()[0]):
        return read_rows(variable, tf.range(start, stop))
    with colocated(variable):
        return variable.read_value()


def write_rows(variable: Any, rows: tf.Tensor, values: tf.Tensor) -> Any:
    """Overwrites rows of a variable; what it returns is for control dependencies only."""
    with colocated(variable):
        return tf.scatter_update(variable, rows, values)


def write_first_rows(variable: Any, values: tf.Tensor) -> Any:
    """Overwrites the first rows of a variable; returns what `write_rows` does."""
    values = tf.cast(values, variable.dtype.base_dtype)
    if values.shape.as_list()[0] == variable.shape.as_list()[0]:
        # The variable takes over the memory of the values.
        with colocated(variable):
            return tf.assign(variable, values)
    return write_rows(variable, tf.range(tf.shape(values)[0]), values)


def add_to_rows(variable: Any, rows: tf.Tensor, values: tf.Tensor) -> Any:
    """Adds to rows of a vector, safely among threads; returns what `write_rows` does."""
    # The plain scatter_add loses updates among threads.
    with colocated(variable):
        return tf.scatter_nd_add(variable, tf.expand_dims(rows, 1), values, use_locking=True)


def rows_at_run_time(variable: Any, dtype: tf.DType) -> Any:
    """How many rows a variable has when the graph runs; None if that cannot have changed.

    A checkpoint with fewer rows restores into a resource variable and changes its shape.
    """
    if is_ref(variable):
        return None
    with colocated(variable):
        shape = tf.raw_ops.VariableShape(input=variable.handle, out_type=dtype)
        return tf.unstack(shape, num=variable.shape.ndims)[0]


def outside_graphs() -> bool:
    """Whether variables are eager ones here: in TF2 code, or a `tf.function` of such code."""
    with tf.init_scope():
        return bool(tf.executing_eagerly())


def is_ref(variable: Any) -> bool:
    return bool(variable.dtype != variable.dtype.base_dtype)


def colocated(variable: Any) -> Any:
    """A context whose ops run on the device of the variable, whatever the current device."""
    # An op in a function cannot be colocated with one outside, but follows its resource anyway.
    if outside_graphs() or variable.op.graph is not tf.get_default_graph():
        return contextlib.nullcontext()
    return tf.get_default_graph().colocate_with(variable.op, ignore_existing=True)


def on_machine_of(variable: Any) -> Any:
    """A context whose ops run on the machine that holds the variable, on any device there.

    TensorFlow chooses the type of device, since not every op has a kernel for that of the variable.
    """
    spec = tf.DeviceSpec.from_string(variable.device or "")
    machine = tf.DeviceSpec(job=spec.job, replica=spec.replica, task=spec.task).to_string()
    stack = contextlib.ExitStack()
    if spec.job is not None and not outside_graphs():
        stack.enter_context(tf.device(None))  # forgets the worker's own device
        stack.enter_context(tf.device(machine))
    return stack
