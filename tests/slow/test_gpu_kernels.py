"""The check for GPU kernels reads the registry rightly; whether it passes depends on the wheel."""

import os

import check_gpu_kernels
import pytest
import tensorflow.compat.v1 as tf
from kernel_calls import Setting, build_calls, holds_rows
from kernel_registry import Kernel, Registry, parse_kernels
from programs import SCRIPTS

SCRIPT = os.path.join(SCRIPTS, "maintenance", "check_gpu_kernels.py")

MESSAGE = """No OpKernel was registered to support Op 'Max' used by {{node x}}
Registered devices: [CPU]
Registered kernels:
  device='GPU'; T in [DT_FLOAT]; Tidx in [DT_INT32, DT_INT64]
  device='CPU'; label='host'; T in [DT_HALF]
  device='DEFAULT'

\t [[x]]"""
SETTING = Setting(13, 5, tf.float32, tf.int64, True, 1, False)


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


def test_kernel_for_any_device_is_no_gpu_kernel_of_its_own():
    registry = Registry()
    op = tf.reduce_max(tf.zeros([2], tf.uint32)).op
    registry._kernels["Max"] = parse_kernels(MESSAGE)
    assert registry.has_kernel(op, "GPU") and not registry.has_kernel(op, "GPU", its_own=True)


@pytest.mark.parametrize("shards", [1, 3])
def test_this_tensorflow_has_a_cpu_kernel_for_every_op(shards, use_resource, control_flow):
    locking = shards > 1
    build_calls(Setting(13, 5, tf.float32, tf.int64, use_resource, shards, locking))
    registry, ops = Registry(), tf.get_default_graph().get_operations()
    kinds = {"MatMul", "GatherV2", "TopKV2"}
    assert {op.type for op in ops} >= kinds | ({"MutexLock", "DynamicStitch"} if locking else set())
    for op in ops:
        assert registry.has_kernel(op, "CPU"), op.type
    product = next(op for op in ops if op.type == "MatMul")
    assert not registry.has_kernel(product, "TOASTER")
    assert check_gpu_kernels.lists_gpu_kernels(registry) is tf.test.is_built_with_cuda()


def test_host_is_asked_for_labels_and_messages_alone(use_resource):
    setting = Setting(10007, 17, tf.float32, tf.int64, use_resource)
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
            assert tf.string not in [tensor.dtype for tensor in op.outputs], op.name
            # Not every TensorFlow has kernels for them on a GPU, which there is not here.
            assert op.type != "Max" or tensors[0].dtype != tf.int64, op.name
    assert {"Max", "Less", "Const"} <= set(pinned)


def test_what_holds_rows(use_resource):
    table = tf.get_variable("x", [7], use_resource=use_resource).op.outputs[0]
    rows, unknown = tf.placeholder(tf.float32, [None, 5]), tf.placeholder(tf.float32)
    assert all(map(holds_rows, (table, rows, unknown)))
    assert not any(map(holds_rows, (tf.placeholder(tf.int64, [None]), tf.constant(1.0))))


class Lacking:
    """A registry that lacks the GPU kernels of one type of op."""

    def __init__(self, kind):
        self.kind = kind

    def has_kernel(self, op, device, its_own):
        assert device == "GPU"
        return op.type != self.kind


@pytest.mark.parametrize("kind, code", [("MatMul", 1), ("MutexLock", 0), ("NoSuchOp", 0)])
def test_what_is_lacking_is_told(kind, code, capsys):
    findings = {}
    check_gpu_kernels.examine(SETTING._replace(use_locking=True), Lacking(kind), findings)
    assert check_gpu_kernels.report(findings) == code
    lines = [line for line in capsys.readouterr().out.splitlines() if "LACKING" in line]
    assert [line.split()[0] for line in lines] == [kind] * code


class CpuForGpu(Registry):
    """The kernels of this TensorFlow, where the CPU stands for a GPU: every wheel has them."""

    def has_kernel(self, op, device, its_own):
        assert device == "GPU"
        return super().has_kernel(op, "CPU", its_own)


def make_rows(setting):
    return tf.placeholder(setting.dtype, [None, 5])


def gpu_only(setting):
    tf.raw_ops.NcclAllReduce(
        input=make_rows(setting), reduction="sum", num_devices=1, shared_name=""
    )


def cpu_only(setting):
    tf.random.shuffle(make_rows(setting))


def by_the_host_of_any_device(setting):
    tf.raw_ops.ParallelDynamicStitch(indices=[[0]], data=[make_rows(setting)])


def rows_on_host(setting):
    with tf.device("/device:CPU:0"):
        make_rows(setting) * 2.0


def labels_by_the_cpu_alone(setting):
    tf.reduce_max(tf.placeholder(tf.uint64, [None]))


def labels_on_host(setting):
    with tf.device("/device:CPU:0"):
        labels_by_the_cpu_alone(setting)


def judge(monkeypatch, capsys, build, registry):
    """What the script ends with on such graphs, and the types of ops that it names."""
    monkeypatch.setattr(check_gpu_kernels, "build_calls", build)
    findings = {}
    check_gpu_kernels.examine(SETTING, registry, findings)
    code = check_gpu_kernels.report(findings)
    lines = capsys.readouterr().out.splitlines()
    return code, [line.split()[0] for line in lines if "LACKING" in line]


@pytest.mark.parametrize(
    "build, expected",
    [
        (build_calls, (0, [])),
        (gpu_only, (1, ["NcclAllReduce"])),
        (rows_on_host, (1, ["Mul", "Placeholder"])),
    ],
)
@pytest.mark.parametrize("control_flow", ["control flow v1"], indirect=True)
def test_wrong_graph_fails(build, expected, control_flow, monkeypatch, capsys):
    assert judge(monkeypatch, capsys, build, CpuForGpu()) == expected


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="this wheel has no GPU kernels")
@pytest.mark.parametrize(
    "build, expected",
    [
        (build_calls, (0, [])),
        (gpu_only, (0, [])),
        (cpu_only, (1, ["RandomShuffle"])),
        (by_the_host_of_any_device, (1, ["ParallelDynamicStitch"])),
        (rows_on_host, (1, ["Mul", "Placeholder"])),
        (labels_by_the_cpu_alone, (1, ["Max"])),
        (labels_on_host, (0, [])),
    ],
)
@pytest.mark.parametrize("control_flow", ["control flow v1"], indirect=True)
def test_wrong_graph_fails_by_the_kernels_of_gpus(
    build, expected, control_flow, monkeypatch, capsys
):
    assert judge(monkeypatch, capsys, build, Registry()) == expected


def test_wheel_without_gpu_kernels_is_refused(start):
    if tf.test.is_built_with_cuda():
        pytest.skip("this wheel has GPU kernels")
    run = start(SCRIPT, apart=True)
    assert run.end(2) == ""
    assert "expected a TensorFlow with GPU kernels" in run.errors.strip().splitlines()[-1]


def test_argument(start):
    run = start(SCRIPT, "all", apart=True)
    assert run.end(2) == ""
    assert run.errors.strip().splitlines()[-1].endswith("expected no arguments, found 'all'")
