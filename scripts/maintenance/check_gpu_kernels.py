"""Checks that every op of the calls has a GPU kernel. Needs a TensorFlow with CUDA, but no GPU.

The lock and ops placed on the host need none, and no op on a table or on rows may be placed there.
"""

import ctypes
import itertools

import tensorflow.compat.v1 as tf

import tf_centers

_DTYPES = tf.float16, tf.bfloat16, tf.float32, tf.float64
SETTINGS = [*itertools.product(_DTYPES, (tf.int32, tf.int64), (False, True), (1, 2, -2))]


def build_calls(dtype, label_dtype, use_resource, shards):
    """The placeholders of a batch, and the calls on it; -2 shards are two with the lock."""
    embeds, labels = args = tf.placeholder(dtype, [None, 5]), tf.placeholder(label_dtype, [None])
    mask, training = tf.placeholder(tf.bool, [None]), tf.placeholder_with_default(True, [])
    partitioner = tf.fixed_size_partitioner(abs(shards)) if shards != 1 else None
    with tf.variable_scope("", use_resource=use_resource, partitioner=partitioner):
        centers = tf_centers.create_embed_centers(13, 5, dtype=dtype)
        unit = dict(constraint=lambda c: tf.nn.l2_normalize(c, axis=1), count_dtype=tf.float64)
        fading = tf_centers.create_embed_centers(13, 5, "fading", dtype, **unit)
    get, window = tf_centers.get_embed_centers, tf_centers.ExponentialWindow
    updaters = [window(0.9, duplicates=way) for way in ("sequential", "mean", "sum")]
    updaters += [tf_centers.CumulativeMean(), tf_centers.WenUpdate(), window(0.9, debias=True)]
    tables = [(updater, centers) for updater in updaters] + [(tf_centers.FadingMean(), fading)]
    lock = dict(use_locking=shards < 0)
    calls = [get(*args, *table, mask, training, **lock) for table in tables]
    calls += [get(*args, None, centers, mask, read="before", **lock)]
    calls += [get(embeds[:, tf.newaxis], labels[:, tf.newaxis], None, centers, **lock)]
    calls += [tf_centers.update_embed_centers(*args, None, centers, **lock)]
    rows = [get(*args, None, table, stop_gradient=False, **lock) for table in (centers, fading)]
    rows += [tf_centers.center_loss(embeds, tf_centers.lookup_embed_centers(labels, centers))]
    rows += [tf_centers.center_distances(embeds, centers)]
    calls += [tf.gradients(row, embeds) for row in rows]
    calls += [tf_centers.nearest_centers(embeds, *how) for how in ((centers, 2), (fading, 1))]
    return (*args, mask), calls


def list_kernels():
    """Of each type of op, for each kernel on GPUs or any device: the dtypes of its attributes."""
    library = ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2")
    library.TF_NewStatus.restype = library.TF_GetAllRegisteredKernels.restype = ctypes.c_void_p
    buffer = library.TF_GetAllRegisteredKernels(ctypes.c_void_p(library.TF_NewStatus()))

    def decode(data, kind, *keys):
        return tf.io.decode_proto(data, f"tensorflow.{kind}", keys, [tf.string] * len(keys)).values

    data = ctypes.string_at(*(ctypes.c_size_t * 2).from_address(buffer))
    (listed,) = decode(data, "KernelList", "kernel")
    kinds, devices, constraints = decode(listed, "KernelDef", "op", "device_type", "constraint")
    attributes = decode(constraints, "KernelDef.AttrConstraint", "name", "allowed_values")
    kernels = {}
    for kind, device, *two in zip(*(f.numpy() for f in (kinds, devices, *attributes))):
        if device[0] in (b"GPU", b"DEFAULT"):
            lists = ((n[0].decode(), tf.AttrValue.FromString(v[0]).list.type) for n, v in zip(*two))
            kernels.setdefault(kind[0].decode(), []).append({n: {*each} for n, each in lists if n})
    return kernels


if __name__ == "__main__":
    tf.disable_control_flow_v2()  # as in TensorFlow 1
    tf.logging.set_verbosity(tf.logging.ERROR)
    kernels, kinds, lacking = list_kernels(), set(), set()
    for setting in SETTINGS:
        with tf.Graph().as_default() as graph:
            build_calls(*setting)
        for op in graph.get_operations():
            dtypes = {name: {a.type, *a.list.type} - {0} for name, a in op.node_def.attr.items()}
            tensors = [*op.inputs, *op.outputs]
            on_rows = any(t.dtype == tf.resource or (t.shape.rank or 0) > 1 for t in tensors)
            has_kernel = any(all(dtypes[n] <= k[n] for n in k) for k in kernels.get(op.type, []))
            kinds.add(op.type)
            if "Mutex" not in op.type and (on_rows if "CPU" in op.device else not has_kernel):
                lacking.add(f"\nlacks {op.type} of {[t.dtype.name for t in tensors]}")
    print(f"TensorFlow {tf.__version__}, {len(kinds)} kinds of ops", *sorted(lacking))
    raise SystemExit(1 if lacking else 0)
