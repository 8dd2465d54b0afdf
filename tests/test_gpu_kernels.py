"""The check for GPU kernels reads the registry rightly; whether it passes depends on the wheel."""

import os
import sys

import pytest
import tensorflow.compat.v1 as tf
from test_benchmark import ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "scripts"))

import check_gpu_kernels  # noqa: E402
from kernel_calls import Setting, build_calls, holds_rows  # noqa: E402
from kernel_registry import Kernel, Registry, parse_kernels  # noqa: E402

MESSAGE = """No OpKernel was registered to support Op 'Max' used by {{node x}}
Registered devices: [CPU]
Registered kernels:
  device='GPU'; T in [DT_FLOAT]; Tidx in [DT_INT32, DT_INT64]
  device='CPU'; label='host'; T in [DT_HALF]
  device='DEFAULT'

\t [[x]]"""
SETTING = Setting(13, tf.float32, tf.int64, True, 1, False)


def test_kernels_in_a_message():
    assert parse_kernels(MESSAGE) == (
        Kernel("GPU", {"T": {"DT_FLOAT"}, "Tidx": {"DT_INT32", "DT_INT64"}}),
        Kernel("DEFAULT", {}),
    )
    with pytest.raises(ValueError, match="expected a message that lists registered kernels"):
        parse_kernels("Could not satisfy")


def test_dtypes_are_compared():
    registry = Registry()
    registry._kernels["Max"] = parse_kernels(MESSAGE)[:1]
    found = {}
    for dtype in (tf.float32, tf.uint32):
        op = tf.reduce_max(tf.zeros([2], dtype)).op
        found[dtype] = [registry.has_kernel(op, device) for device in ("GPU", "CPU")]
    assert found == {tf.float32: [True, False], tf.uint32: [False, False]}


def test_this_tensorflow_has_a_cpu_kernel_for_every_op(use_resource, control_flow):
    registry = Registry()
    build_calls(SETTING._replace(use_resource=use_resource, shards=3, use_locking=True))
    ops = tf.get_default_graph().get_operations()
    assert {op.type for op in ops} >= {
        "MatMul",
        "GatherV2",
        "UniqueWithCounts",
        "MutexLock",
        "DynamicStitch",
    }
    for op in ops:
        assert registry.has_kernel(op, "CPU"), op.type
    product = next(op for op in ops if op.type == "MatMul")
    assert not registry.has_kernel(product, "TOASTER")
    assert check_gpu_kernels.lists_gpu_kernels(registry) is tf.test.is_built_with_cuda()


def test_host_is_asked_for_labels_and_messages_alone(use_resource):
    setting = Setting(10007, tf.float32, tf.int64, use_resource)
    with tf.device("/job:worker/task:1"):
        build_calls(setting)
    pinned, ops = [], tf.get_default_graph().get_operations()
    for op in ops:
        tensors = list(op.inputs) + list(op.outputs)
        device = tf.DeviceSpec.from_string(op.device)
        if device.device_type == "CPU":
            assert (device.job, device.task) == ("worker", 1), op.name
            assert not any(map(holds_rows, tensors)), op.name
            pinned.append(op.type)
        elif op.type != "Placeholder":
            assert tf.string not in [tensor.dtype for tensor in tensors], op.name
            assert op.type != "Max" or tensors[0].dtype != tf.uint64, op.name
            assert op.type != "SplitV" or tensors[0].dtype != tf.int64, op.name
    assert {"Max", "Assert", "SplitV"} <= set(pinned)


def test_what_holds_rows(use_resource):
    table = tf.get_variable("x", [7], use_resource=use_resource).op.outputs[0]
    rows, unknown = tf.placeholder(tf.float32, [None, 5]), tf.placeholder(tf.float32)
    assert all(map(holds_rows, (table, rows, unknown)))
    assert not any(map(holds_rows, (tf.placeholder(tf.int64, [None]), tf.constant(1.0))))


class Lacking:
    """A registry that lacks the GPU kernels of one type of op."""

    def __init__(self, kind):
        self.kind = kind

    def has_kernel(self, op, device):
        assert device == "GPU"
        return op.type != self.kind


@pytest.mark.parametrize("kind, code", [("MatMul", 1), ("MutexLock", 0), ("NoSuchOp", 0)])
def test_what_is_lacking_is_told(kind, code, capsys):
    findings = {}
    check_gpu_kernels.examine(SETTING._replace(use_locking=True), Lacking(kind), findings)
    assert check_gpu_kernels.report(findings) == code
    lines = [line for line in capsys.readouterr().out.splitlines() if "LACKING" in line]
    assert [line.split()[0] for line in lines] == [kind] * code


def test_wheel_without_gpu_kernels_is_refused():
    if tf.test.is_built_with_cuda():
        pytest.skip("this wheel has GPU kernels")
    code, output, errors = run_script(script="check_gpu_kernels.py")
    assert code == 2 and not output
    assert "expected a TensorFlow with GPU kernels" in errors.strip().splitlines()[-1]


def test_argument():
    code, output, errors = run_script("all", script="check_gpu_kernels.py")
    assert code == 2 and not output
    assert errors.strip().splitlines()[-1].endswith("expected no arguments, found 'all'")
