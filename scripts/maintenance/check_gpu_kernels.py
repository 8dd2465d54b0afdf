"""Checks that every op of the calls has a GPU kernel. Does not need a GPU.

  python scripts/maintenance/check_gpu_kernels.py

Builds the graphs of every call with every updater, for all dtypes, both kinds of variables, tables
whole and in shards, with and without locks, and asks TensorFlow for the kernels of each op. Needs
the wheel with CUDA (`pip install tensorflow`): `tensorflow-cpu` has no GPU kernels to list.

Prints a table of op types, and exits with 1 if a GPU kernel is missing. Ops placed on the host and
the ops of the lock need none. An op on a table or rows must not be placed on the host, and its
kernel must work in GPU memory.
"""

import os
import sys
from typing import Dict, List, NamedTuple, Set, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow.compat.v1 as tf  # noqa: E402
from absl import app  # noqa: E402
from kernel_calls import Setting, build_calls, holds_rows, settings  # noqa: E402
from kernel_registry import Registry  # noqa: E402
from tqdm import tqdm  # noqa: E402

# It works on the host, and the documents say so.
_LOCK = {"MutexV2", "MutexLock", "ConsumeMutexLock"}
# They touch no element of a table or a row, so that a kernel for all devices is as good.
_HAND_ON = {"Placeholder", "VarHandleOp", "ReadVariableOp", "VarIsInitializedOp", "VariableShape"}
_HAND_ON |= {"Enter", "NextIteration", "Exit", "Switch", "Merge", "Identity"}


class Finding(NamedTuple):
    """What was found of the ops of one type, on tables and rows or on labels and the like.

    Each set is of the dtypes that ops take and give; `examples` are some of those in `lacking`.
    """

    dtypes: Set[str]
    lacking: Set[str]
    on_host: Set[str]
    examples: List[str]


# By the type of op, and by whether it touches a table or a tensor [B, D].
Findings = Dict[Tuple[str, bool], Finding]


def examine(setting: Setting, registry: Registry, findings: Findings) -> None:
    """Adds what is found of the graphs of one setting."""
    with tf.Graph().as_default() as graph:
        build_calls(setting)
        for op in graph.get_operations():
            tensors = list(op.inputs) + list(op.outputs)
            rows = any(map(holds_rows, tensors))
            dtypes = " ".join(dict.fromkeys(t.dtype.base_dtype.name for t in tensors))
            finding = findings.setdefault((op.type, rows), Finding(set(), set(), set(), []))
            finding.dtypes.add(dtypes)
            placed = tf.DeviceSpec.from_string(op.device).device_type == "CPU"
            its_own = rows and op.type not in _HAND_ON
            if registry.has_kernel(op, "GPU", its_own) and not (placed and rows):
                continue
            if op.type in _LOCK or (placed and not rows):
                finding.on_host.add(dtypes)
                continue
            if dtypes not in finding.lacking:
                finding.examples.append(f"{op.name} of {[str(t.shape) for t in tensors]}")
            finding.lacking.add(dtypes)


def lists_gpu_kernels(registry: Registry) -> bool:
    """Whether this TensorFlow has GPU kernels at all."""
    with tf.Graph().as_default():
        return registry.has_kernel(tf.matmul(tf.zeros([1, 1]), tf.zeros([1, 1])).op, "GPU")


def main(argv: List[str]) -> int:
    """Runs the script."""
    if argv[1:]:
        print(f"check_gpu_kernels.py: expected no arguments, found {argv[1]!r}", file=sys.stderr)
        return 2
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    registry = Registry()
    if not lists_gpu_kernels(registry):
        print(
            "check_gpu_kernels.py: expected a TensorFlow with GPU kernels, such as "
            f"`pip install tensorflow`, found {tf.__version__} without any",
            file=sys.stderr,
        )
        return 2
    findings: Findings = {}
    for setting in tqdm(list(settings()), desc="graphs", disable=None):
        examine(setting, registry, findings)
    return report(findings)


def report(findings: Findings) -> int:
    """Prints the table; returns 1 where a kernel is lacking, else 0."""
    print(f"TensorFlow {tf.__version__}\n{'op':<28}{'touches':<16}GPU kernel")
    for (kind, rows), finding in sorted(findings.items()):
        result = "yes"
        if finding.lacking:
            result = "LACKING for " + ", ".join(sorted(finding.lacking))
        elif finding.on_host:
            dtypes = ", ".join(sorted(finding.on_host))
            result = "none: the lock" if kind in _LOCK else f"placed on the host for {dtypes}"
        print(f"{kind:<28}{'table or rows' if rows else 'labels, sizes':<16}{result}")
        for example in finding.examples:
            print(f"{'':<28}  {example}")
    lacking = sum(bool(finding.lacking) for finding in findings.values())
    print(
        f"{len(findings)} kinds of ops, {lacking} of them without a GPU kernel they ought to have"
    )
    return 1 if lacking else 0


if __name__ == "__main__":
    app.run(main)
