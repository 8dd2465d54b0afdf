"""One check on two replicas, named by the argument; run by test_replica_shapes.py.

A process for each, since TensorFlow wants one strategy a process.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow
import tensorflow.compat.v1 as tf

import tf_centers

CPUS = tensorflow.config.list_physical_devices("CPU")
tensorflow.config.set_logical_device_configuration(
    CPUS[0], 2 * [tensorflow.config.LogicalDeviceConfiguration()]
)
STRATEGY = tensorflow.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
MEAN = tf_centers.CumulativeMean()
EMBEDS = np.float32([[1, 2], [3, 4], [5, 0], [7, 7]]), np.float32([[8, 8], [2, 6]])
LABELS = [1, 3, 1, 0], [3, 3]
MASKS = [True, True, False, True], [True, True]


def make():
    with STRATEGY.scope():
        return tf_centers.create_embed_centers(4, 2)


def copies(centers):
    return [STRATEGY.experimental_local_results(variable) for variable in centers]


def state(centers):
    return [copy.numpy().tobytes() for found in copies(centers) for copy in found]


def run(call):
    """What `call(id)` returns on each replica, in a `tf.function`."""

    def on_replica():
        context = tensorflow.distribute.get_replica_context()
        return call(int(tf.get_static_value(context.replica_id_in_sync_group)))

    function = tensorflow.function(lambda: STRATEGY.run(on_replica))
    return STRATEGY.experimental_local_results(function())


def hide(value, shape):
    return tf.placeholder_with_default(value, shape)


def check_unlike(change, masked=False, three_axes=False, labels=LABELS):
    """The same as in a single process, where one replica knows less than the other."""
    for changed in (0, 1):
        centers = make()

        def call(place, changed=changed, centers=centers):
            batch = {
                "embed_batch": tf.constant(EMBEDS[place]),
                "label_batch": tf.constant(labels[place], tf.int64),
                "mask": tf.constant(MASKS[place]),
            }
            if three_axes:
                batch = {name: value[:, tf.newaxis] for name, value in batch.items()}
                batch = {name: tf.concat([value, value], 1) for name, value in batch.items()}
            if place == changed:
                batch = change(**batch)
            if not masked:
                del batch["mask"]
            return tf_centers.get_embed_centers(updater=MEAN, centers=centers, **batch)

        rows = run(call)
        plain = tf_centers.create_embed_centers(4, 2)
        times = 2 if three_axes else 1
        expected = tf_centers.get_embed_centers(
            np.repeat(np.concatenate(EMBEDS), times, 0),
            np.repeat(np.concatenate(LABELS), times),
            MEAN,
            plain,
            np.repeat(np.concatenate(MASKS), times) if masked else None,
        ).numpy()
        found = np.concatenate([np.reshape(part, [-1, 2]) for part in rows])
        np.testing.assert_array_equal(found, expected)
        for whole, parts in zip(plain, copies(centers)):
            for part in parts:
                assert part.numpy().tobytes() == whole.numpy().tobytes()


def changing(**shapes):
    def change(**batch):
        return {
            name: hide(value, shapes[name]) if name in shapes else value
            for name, value in batch.items()
        }

    return change


def as_int32(**batch):
    return dict(batch, label_batch=tf.cast(batch["label_batch"], tf.int32))


def as_column(**batch):
    return dict(batch, label_batch=hide(batch["label_batch"][:, tf.newaxis], [None, None]))


UNLIKE = {
    "rows of embed_batch": dict(change=changing(embed_batch=[None, 2])),
    "rows of label_batch": dict(change=changing(label_batch=[None])),
    "rows of mask": dict(change=changing(mask=[None]), masked=True),
    "rows of all": dict(
        change=changing(embed_batch=[None, 2], label_batch=[None], mask=[None]), masked=True
    ),
    "dims": dict(change=changing(embed_batch=[None, None])),
    "rank of embed_batch": dict(change=changing(embed_batch=None)),
    "rank of label_batch": dict(change=changing(label_batch=None)),
    "rank of mask": dict(change=changing(mask=None), masked=True),
    "rank of all": dict(change=changing(embed_batch=None, label_batch=None, mask=None)),
    "T": dict(change=changing(embed_batch=[None, None, 2], label_batch=None), three_axes=True),
    "T of labels": dict(change=changing(label_batch=[None, None]), three_axes=True),
    "dtype of label_batch": dict(change=as_int32),
    "a column of labels": dict(change=as_column),
}


def refused(centers, call, message):
    before = state(centers)
    try:
        run(call)
    except tf.errors.InvalidArgumentError as error:
        assert message in str(error), str(error)
    else:
        raise AssertionError("passed")
    assert state(centers) == before


def check_faults():
    """What is wrong on a replica raises there and on the other, whatever either knows."""
    centers = make()
    run(lambda place: tf_centers.get_embed_centers(EMBEDS[place], LABELS[place], MEAN, centers))
    for hidden in (0, 1):
        for wrong in (0, 1):

            def call(place, hidden=hidden, wrong=wrong, fault=""):
                embeds, labels = tf.constant(EMBEDS[place]), list(LABELS[place])
                if place == wrong and fault == "label":
                    labels[1] = 4
                if place == wrong and fault == "length":
                    labels = labels + [0]
                labels = tf.constant(labels, tf.int64)
                if place == hidden or fault == "length":
                    labels = hide(labels, [None])
                return tf_centers.get_embed_centers(embeds, labels, MEAN, centers)

            refused(centers, lambda place: call(place, fault="label"), "every label in [0, 4)")
            refused(centers, lambda place: call(place, fault="length"), "label_batch")


class WrongOnOne(tf_centers.Updater):
    def __init__(self, place, wrong, bad):
        self.factor = bad if place == wrong else 1.0

    def row_weights(self, rows):
        return self.factor / rows.sizes


def check_weights():
    """Weights that are wrong on one replica leave the copies of all as they were."""
    for bad in (-1.0, np.nan):
        for wrong in (0, 1):
            for locking in (False, True):
                centers = make()
                call = lambda place: tf_centers.get_embed_centers(  # noqa: E731
                    EMBEDS[place],
                    LABELS[place],
                    WrongOnOne(place, wrong, bad),  # noqa: B023
                    centers,  # noqa: B023
                    use_locking=locking,  # noqa: B023
                )
                refused(centers, call, "row_weights")


def check_short_copy():
    """A copy that has fewer rows than the graph knows."""
    for variable in (0, 1):
        for wrong in (0, 1):
            centers = make()
            copy = copies(centers)[variable][wrong]
            short = tf.zeros([2] + copy.shape.as_list()[1:], copy.dtype)
            tf.raw_ops.AssignVariableOp(resource=copy.handle, value=short)
            call = lambda place: tf_centers.get_embed_centers(  # noqa: E731
                EMBEDS[place],
                LABELS[place],
                MEAN,
                centers,  # noqa: B023
            )
            refused(centers, call, "get_embed_centers: expected every label")


CHECKS = {name: lambda how=how: check_unlike(**how) for name, how in UNLIKE.items()}
CHECKS.update(faults=check_faults, weights=check_weights)
CHECKS["a short copy"] = check_short_copy

if __name__ == "__main__":
    CHECKS[sys.argv[1]]()
    print("all well")
