"""Checks that every op of the calls has a GPU kernel. Needs a TensorFlow with CUDA, but no GPU.

The lock and ops placed on the host need none, and no op on a table or on rows may be placed there.
"""

import ctypes
import functools
import itertools
import sys

import tensorflow.compat.v1 as tf
from tensorflow.core.framework import kernel_def_pb2

import tf_centers

_DTYPES, _BOTH = (tf.float16, tf.bfloat16, tf.float32, tf.float64), (False, True)
# Whole tables, and those in two shards, without and with the lock (-2).
SETTINGS = [*itertools.product(_DTYPES, (tf.int32, tf.int64), _BOTH, (1,))]
SETTINGS += itertools.product(_DTYPES, (tf.int64,), _BOTH, (2, -2))


def build_calls(dtype, label_dtype, use_resource, shards):
    """The placeholders of a batch (embeddings, labels, mask), and the calls on it."""
    embeds, labels = tf.placeholder(dtype, [None, 5]), tf.placeholder(label_dtype, [None])
    mask, training = tf.placeholder(tf.bool, [None]), tf.placeholder_with_default(True, [])
    partitioner = tf.fixed_size_partitioner(abs(shards)) if shards != 1 else None
    with tf.variable_scope("", use_resource=use_resource, partitioner=partitioner):
        centers = tf_centers.create_embed_centers(13, 5, dtype=dtype)
        unit = dict(constraint=lambda c: tf.nn.l2_normalize(c, axis=1), count_dtype=tf.float64)
        fading = tf_centers.create_embed_centers(13, 5, "fading", dtype, **unit)
    where, window = dict(centers=centers, use_locking=shards < 0), tf_centers.ExponentialWindow
    get, args = tf_centers.get_embed_centers, (embeds, labels)
    updaters = [window(0.9, duplicates=way) for way in ("sequential", "mean", "sum")]
    updaters += [tf_centers.CumulativeMean(), tf_centers.WenUpdate(), window(0.9, debias=True)]
    given = dict(mask=mask, is_training=training, **where)
    calls = [get(*args, updater, **given) for updater in updaters]
    calls += [get(*args, tf_centers.FadingMean(), **dict(given, centers=fading))]
    calls += [tf.gradients(get(*args, None, fading, stop_gradient=False), embeds)]
    calls += [tf_centers.nearest_centers(embeds, fading)]
    calls += [get(*args, mask=mask, read="before", **where)]
    calls += [get(embeds[:, tf.newaxis], labels[:, tf.newaxis], **where)]
    calls += [tf.gradients(get(*args, stop_gradient=False, **where), embeds)]
    calls += [tf_centers.update_embed_centers(*args, **where)]
    rows = tf_centers.lookup_embed_centers(labels, centers)
    calls += [tf.gradients(tf_centers.center_loss(embeds, rows), embeds)]
    calls += [tf_centers.nearest_centers(embeds, centers, k=2)]
    calls += [tf.gradients(tf_centers.center_distances(embeds, centers), embeds)]
    return (embeds, labels, mask), calls


@functools.lru_cache(maxsize=None)
def allowed_dtypes(library, kind):
    """For each kernel of a type of op for GPUs, or for any device: the dtypes of its attributes."""
    buffer = library.TF_GetRegisteredKernelsForOp(kind.encode(), library.status)
    data = ctypes.string_at(*(ctypes.c_size_t * 2).from_address(buffer))
    listed = kernel_def_pb2.KernelList.FromString(data).kernel
    kernels = [kernel for kernel in listed if kernel.device_type in ("GPU", "DEFAULT")]
    return [{c.name: set(c.allowed_values.list.type) for c in k.constraint} for k in kernels]


def main():
    tf.disable_v2_behavior()
    tf.logging.set_verbosity(tf.logging.ERROR)
    library = ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2")
    library.TF_NewStatus.restype = library.TF_GetRegisteredKernelsForOp.restype = ctypes.c_void_p
    library.status, kinds, lacking = ctypes.c_void_p(library.TF_NewStatus()), set(), set()
    for setting in SETTINGS:
        with tf.Graph().as_default() as graph:
            build_calls(*setting)
        for op in graph.get_operations():
            dtypes = {name: {a.type, *a.list.type} - {0} for name, a in op.node_def.attr.items()}
            tensors = [*op.inputs, *op.outputs]
            on_rows = any(t.dtype == tf.resource or (t.shape.rank or 0) > 1 for t in tensors)
            allowed = allowed_dtypes(library, op.type)
            has_kernel = any(all(dtypes[n] <= found[n] for n in found) for found in allowed)
            kinds.add(op.type)
            if "Mutex" not in op.type and (on_rows if "CPU" in op.device else not has_kernel):
                lacking.add(f"\nlacks {op.type} of {[t.dtype.name for t in tensors]}")
    print(f"TensorFlow {tf.__version__}, {len(kinds)} kinds of ops", *sorted(lacking))
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
