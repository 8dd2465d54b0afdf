"""Finds the kernels of an op, through public API only and without the devices.

TensorFlow lists every kernel registered for a type of op when it refuses one that asks for a label
(the attribute `_kernel`) that no kernel has. The build with CUDA registers its GPU kernels on every
machine.
"""

import re
from typing import Dict, List, NamedTuple, Set, Tuple

import tensorflow.compat.v1 as tf

# Kernels of this device type serve every type of device that has none of its own; where they
# compute, they do so in the memory of the host.
_ANY_DEVICE = "DEFAULT"


class Kernel(NamedTuple):
    """A registered kernel: its type of device, and the dtypes that each attribute may have."""

    device: str
    allowed: Dict[str, Set[str]]


class Registry:
    """The kernels of this TensorFlow, asked for once for each type of op."""

    def __init__(self) -> None:
        self._kernels: Dict[str, Tuple[Kernel, ...]] = {}

    def has_kernel(self, op: tf.Operation, device: str, its_own: bool = False) -> bool:
        """Whether the op, with the dtypes it has, has a kernel for a type of device.

        Args:
          op: what is to run.
          device: "CPU", "GPU" ...
          its_own: whether it has to be one for this type alone, and not for every type of device.
        """
        if op.type not in self._kernels:
            self._kernels[op.type] = parse_kernels(_refusal(op))
        dtypes = _attribute_dtypes(op.node_def)
        return any(
            kernel.device in ((device,) if its_own else (device, _ANY_DEVICE))
            and all(dtypes[name] <= values for name, values in kernel.allowed.items())
            for kernel in self._kernels[op.type]
        )


def parse_kernels(message: str) -> Tuple[Kernel, ...]:
    """The kernels in the message by which TensorFlow refuses an op without a fitting one.

    Raises:
      ValueError: a message of another form.
    """
    _, found, listed = message.partition("Registered kernels:")
    if not found:
        raise ValueError(f"expected a message that lists registered kernels, found {message!r}")
    kernels: List[Kernel] = []
    for line in listed.splitlines():
        match = re.match(r"\s*device='(\w+)'(.*)", line)
        if match and "label=" not in match.group(2):
            allowed = re.findall(r"(\w+) in \[([^\]]*)\]", match.group(2))
            kernels.append(
                Kernel(match.group(1), {name: set(values.split(", ")) for name, values in allowed})
            )
    return tuple(kernels)


def _attribute_dtypes(node: tf.NodeDef) -> Dict[str, Set[str]]:
    return {
        name: set(re.findall(r"DT_\w+", str(value)))
        for name, value in node.attr.items()
        if value.WhichOneof("value") in ("type", "list")
    }


def _refusal(op: tf.Operation) -> str:
    """What TensorFlow says when it is to run such an op by a kernel of a label that none has."""
    graph = tf.GraphDef()
    graph.versions.CopyFrom(op.graph.graph_def_versions)
    probe = graph.node.add()
    probe.CopyFrom(op.node_def)
    probe.name, probe.device = "probe", ""
    # What belongs to another place: colocation, and how control flow is to be taken apart.
    for name in [name for name in probe.attr if name.startswith("_")]:
        del probe.attr[name]
    probe.attr["_kernel"].s = b"none"
    if any(value.HasField("func") for value in probe.attr.values()):
        graph.library.CopyFrom(op.graph.as_graph_def().library)
    del probe.input[:]
    for place, tensor in enumerate(op.inputs):
        given = graph.node.add()
        given.name = f"input_{place}"
        is_ref = tensor.dtype != tensor.dtype.base_dtype
        given.op = "VariableV2" if is_ref else "Placeholder"
        given.attr["dtype"].type = tensor.dtype.base_dtype.as_datatype_enum
        if is_ref:
            given.attr["shape"].shape.CopyFrom(tf.TensorShape([]).as_proto())
        probe.input.append(given.name)
    with tf.Graph().as_default() as alone:
        tf.import_graph_def(graph, name="")
        with tf.Session() as session:
            try:
                session.run(alone.get_operation_by_name("probe"))
            except tf.errors.OpError as error:
                return str(error.message)
    raise ValueError(f"expected TensorFlow to refuse {op.type} with a label that no kernel has")
