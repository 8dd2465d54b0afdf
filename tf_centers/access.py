"""The only module that reads or writes variables, of either kind, or says where ops run.

What is read is a copy: it does not change if the variable is written later.
"""

import contextlib
import signal
import threading
import weakref
from typing import Any, Dict, Iterator, List, Tuple

import tensorflow.compat.v1 as tf

_notes: Any = weakref.WeakKeyDictionary()


def read_rows(variable: Any, rows: tf.Tensor) -> tf.Tensor:
    """Gathers rows of a variable, as they are after every control dependency in force."""
    with colocated(variable):
        # The tensor that a ref variable converts to was made with the variable, before any update.
        return tf.gather(variable.read_value() if is_ref(variable) else variable, rows)


def read_range(variable: Any, start: int, stop: int) -> tf.Tensor:
    """Reads the rows [start, stop) of a variable.

    All rows of a resource variable are those that it has at run time, even if they are more.
    """
    # The value of a ref variable is its memory, so it is gathered too.
    if is_ref(variable) or (start, stop) != (0, variable.shape.as_list()[0]):
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
    # As lists, since an unknown size of TensorFlow 1.15 differs from none.
    if values.shape.as_list()[:1] != variable.shape.as_list()[:1]:
        return write_rows(variable, tf.range(tf.shape(values)[0]), values)
    with colocated(variable):  # The variable takes over the memory of the values.
        return tf.assign(variable, values)


def add_to_rows(variable: Any, rows: tf.Tensor, values: tf.Tensor) -> Any:
    """Adds to rows of a vector, safely among threads; returns what `write_rows` does."""
    # The plain scatter_add loses updates among threads.
    with colocated(variable):
        return tf.scatter_nd_add(variable, tf.expand_dims(rows, 1), values, use_locking=True)


def take(values: tf.Tensor, rows: tf.Tensor, dense: bool) -> tf.Tensor:
    """Gathers rows `[R]` of a matrix; if `dense`, its gradient is so too."""
    if dense:  # Unlike those of a plain gather, gradients of indices with three axes are dense.
        return tf.squeeze(tf.gather_nd(values, rows[:, tf.newaxis, tf.newaxis]), axis=1)
    return tf.gather(values, rows)


def rows_at_run_time(variable: Any, dtype: tf.DType) -> tf.Tensor:
    """How many rows a resource variable has when the graph runs; not for graphs to be frozen.

    A checkpoint with another number of rows restores into it without a word.
    """
    with colocated(variable):
        shape = tf.raw_ops.VariableShape(input=variable.handle, out_type=dtype)
        return tf.unstack(shape, num=variable.shape.ndims)[0]


def is_ref(variable: Any) -> bool:
    return bool(variable.dtype != variable.dtype.base_dtype)


def in_tf2_code() -> bool:
    """Whether variables are eager ones here: in TF2 code, or a `tf.function` of such code."""
    with tf.init_scope():
        return bool(tf.executing_eagerly())


def on_tf2_server(variable: Any) -> bool:
    """Whether a parameter server of TF2 code holds a variable."""
    return in_tf2_code() and tf.DeviceSpec.from_string(variable.device or "").job == "ps"


def outermost_graph() -> tf.Graph:
    """The graph that variables belong to, outside of any control flow and function."""
    with tf.init_scope():
        return tf.get_default_graph()


def notes(kind: str) -> Dict[str, Any]:
    """What calls have noted of the tables of this graph, or of all TF2 code, by name."""
    # In TF2 code each thread has an outermost graph of its own.
    owner: Any = notes if in_tf2_code() else outermost_graph()
    return _notes.setdefault(owner, {}).setdefault(kind, {})  # type: ignore


def colocated(variable: Any) -> Any:
    """A context whose ops run on the device of the variable, whatever the current device."""
    # An op in a function cannot be colocated with one outside, but follows its resource anyway.
    return contextlib.nullcontext() if _is_outside(variable) else _beside(variable)


def on_device_of(variable: Any) -> Any:
    """As `colocated`, for ops that have no resource to follow."""
    return _only_on(variable.device) if _is_outside(variable) else _beside(variable)


def on_machine_of(variable: Any) -> Any:
    """A context whose ops run on the machine that holds the variable, on any device there.

    TensorFlow chooses the type of device, since not every op has a kernel for that of the variable.
    """
    spec = tf.DeviceSpec.from_string(variable.device or "")
    # TF2 code names the job of every eager variable, and functions that name it cannot be exported.
    if spec.job is None or (in_tf2_code() and spec.job != "ps"):
        return contextlib.nullcontext()
    return _only_on(tf.DeviceSpec(job=spec.job, replica=spec.replica, task=spec.task).to_string())


def on_host() -> Any:
    """A context whose ops run on the CPU of their machine: for labels and texts.

    Not every op has a GPU kernel for their dtypes. Use it for nothing larger, not even to read its
    shape.
    """
    return tf.device("/device:CPU:0")


def _is_outside(variable: Any) -> bool:
    return in_tf2_code() or variable.op.graph is not tf.get_default_graph()


def _beside(variable: Any) -> Any:
    return tf.get_default_graph().colocate_with(variable.op, ignore_existing=True)


def _only_on(device: str) -> Any:
    stack = contextlib.ExitStack()
    stack.enter_context(tf.device(None))  # forgets the device of the caller
    stack.enter_context(tf.device(device))
    return stack


def control_flow() -> Tuple[bool, Dict[str, str]]:
    """Where in the control flow of a graph the caller is.

    Returns:
      Whether it may run several times at once, as the body of a loop, of `Dataset.map` or of a
      function does, and the branches that it is in, by their conditions.
    """
    graph, is_tf2 = tf.get_default_graph(), in_tf2_code()
    repeats, branches = False, {}
    # Control flow of TensorFlow 2: graphs in graphs, whose names say what they are.
    while getattr(graph, "outer_graph", None) is not None:
        condition, _, branch = graph.name.rpartition("_")[0].rpartition("_")
        if branch in ("true", "false") or branch.startswith("branch"):
            branches[f"{getattr(graph.outer_graph, 'name', '')}/{condition}"] = branch
        else:  # In TF2 code, the iterations of a loop and the calls of a function run in order.
            repeats |= not is_tf2 or graph.name.startswith("Dataset_")
        graph = graph.outer_graph
    if not is_tf2:
        # Control flow of TensorFlow 1: a tensor from outside comes in by an op for each context.
        with tf.init_scope():
            outside = tf.constant(0)
        op = tf.identity(outside).op
        while op.inputs:
            tensor = op.inputs[0]
            op = tensor.op
            if op.type == "Enter":
                repeats |= op.get_attr("parallel_iterations") > 1
            elif op.type == "Switch":
                branches[op.inputs[1].name] = str(tensor.value_index)
    return repeats, branches


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait for eager code that must not stop half-way; a graph runs without Python."""
    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (tf.executing_eagerly() and in_main_thread and callable(handler)):
        yield
        return
    pending: List[Any] = []
    signal.signal(signal.SIGINT, lambda *args: pending.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for args in pending[:1]:
            handler(*args)
