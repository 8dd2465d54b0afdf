"""What is wrong only at run time: a message that tells, and no bit written, in no shard.

The copies of replicas are in replica_shapes_program.py.
"""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import (
    MEAN,
    B,
    C,
    D,
    check_refused,
    initialized_session,
    make_batch,
    make_centers,
    make_ctrs,
    parts,
    placeholders,
    read_state,
    state_bits,
)
from updaters import WITH_RATE

import tf_centers

InvalidArgumentError = tf.errors.InvalidArgumentError
EMBEDS, LABELS = make_batch(0)
KEEP = np.ones(B, bool)


def _with(embeds=EMBEDS, labels=LABELS, mask=KEEP):
    return embeds, labels, mask


def _with_label(value):
    return _with(labels=np.append(LABELS[:-1], value))


# What each input violates.
WRONG = {
    "label too large": (_with_label(C), r"\[0, 7\).*\[7\]"),
    "label negative": (_with_label(-1), r"\[0, 7\).*\[-1\]"),
    "fewer labels": (_with(labels=LABELS[:-1]), r"label_batch .*12 5\] \[11\]"),
    "one label": (_with(labels=[1]), r"label_batch .*12 5\] \[1\]"),
    "no labels": (_with(labels=[]), r"label_batch .*12 5\] \[0\]"),
    "labels a scalar": (_with(labels=3), r"label_batch of shape \[B\] or \[B, 1\]"),
    "labels in a row": (_with(labels=LABELS[None]), r"label_batch of shape .*1 12"),
    "one-hot": (_with(labels=np.zeros([B, C])), r"label_batch of shape .*12 7"),
    "labels of rank 3": (_with(labels=np.zeros([B, 1, 1])), r"label_batch of shape .*12 1 1"),
    "empty one-hot": (
        _with(embeds=np.zeros([0, D]), labels=np.zeros([0, C]), mask=np.ones([0], bool)),
        r"label_batch of shape .*0 7",
    ),
    "D": (_with(embeds=np.zeros([B, D + 1])), r"embed_batch of shape \[B, 5\].*12 6"),
    "one column": (_with(embeds=np.zeros([B, 1])), r"embed_batch of shape \[B, 5\].*12 1"),
    "embeds of rank 1": (_with(embeds=np.zeros([B])), r"embed_batch of shape \[B, 5\].*12"),
    "embeds of rank 3": (_with(embeds=np.zeros([B, D, 1])), r"embed_batch of shape .*12 5 1"),
    "embeds flat": (_with(embeds=np.zeros([B * D])), r"embed_batch of shape .*60"),
    "embeds of pairs": (_with(embeds=np.zeros([B // 2, 2, D])), r"embed_batch of shape .*6 2 5"),
    "embeds a step": (_with(embeds=np.zeros([1, B, D])), r"embed_batch of shape .*1 12 5"),
    "D beside a column": (
        _with(embeds=np.zeros([B, D + 1]), labels=LABELS[:, None]),
        r"embed_batch of shape \[B, 5\].*12 6",
    ),
    "mask too short": (_with(mask=np.ones([B - 1], bool)), r"mask .*\[12\] \[11\]"),
    "mask too long": (_with(mask=np.ones([B + 1], bool)), r"mask .*\[12\] \[13\]"),
    "mask of rank 2": (_with(mask=np.ones([B, 1], bool)), r"mask of shape \[B\].*12 1"),
}
NOT_FINITE = [
    _with(embeds=np.where(EMBEDS == EMBEDS[3, 2], value, EMBEDS))
    for value in (np.nan, np.inf, -np.inf, 1e300)
]
# What is known when building of embeddings, labels and mask; {} is no mask.
UNKNOWN = (None, None, None)
KNOWN = [
    ([B, None], [B], {}),
    ([B, None], None, {}),
    ([None, None], [None], [None]),
    ([None, None], [B, None], {}),
    (None, [B], {}),
    (None, None, {}),
]


@pytest.mark.parametrize(
    "training, known",
    [(how, UNKNOWN) for how in (True, False, "tensor", "not training tensor", "update")]
    + [(how, known) for how in (True, False) for known in KNOWN],
)
def test_a_wrong_batch(training, known, use_resource):
    """Is refused however much of the rest is static, and in a lookup too."""
    centers = make_centers(tf_centers, use_resource, initializer=np.arange(C * D).reshape(C, D))
    dtypes, masked = (tf.float64, tf.int64, tf.bool), known[2] != {}
    held = [tf.placeholder(dtype, shape or None) for dtype, shape in zip(dtypes, known)]
    name, how = "get_embed_centers", dict(updater=MEAN, centers=centers)
    if masked:
        how["mask"] = held[2]
    if training == "update":
        name = "update_embed_centers"
    elif isinstance(training, str):
        how["is_training"] = tf.placeholder_with_default(training == "tensor", [])
    else:
        how.update(is_training=training, use_locking=training)
    result = getattr(tf_centers, name)(*held[:2], **how)

    def refuse(values, message):
        fits = all(h.shape.is_compatible_with(np.shape(v)) for h, v in zip(held, values))
        if fits and (masked or "mask" not in message):
            message = f"(?s){name}: expected .*{message}"
            check_refused(session, result, dict(zip(held, values)), message)

    with initialized_session() as session:
        for values, message in WRONG.values():
            refuse(values, message)
        updates = training not in (False, "not training tensor")
        for values in NOT_FINITE if updates else []:
            refuse(values, "finite values")
            if masked:  # The same value in a masked row is nobody's business.
                before = state_bits(session, *centers)
                session.run(result, dict(zip(held, (*values[:2], np.arange(B) != 3))))
                assert state_bits(session, *centers) != before
                assert np.isfinite(session.run(centers.ctrs)).all()
        if known[1] != [B, None]:
            session.run(result, dict(zip(held, _with())))


@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_a_rate_out_of_range(name, use_resource):
    make_centers(tf_centers, use_resource, count_dtype=WITH_RATE[name].count_dtype)
    rate = tf.placeholder_with_default(0.5, [])
    result = tf_centers.get_embed_centers(EMBEDS, LABELS, WITH_RATE[name].make(rate))
    message = r"get_embed_centers: expected (decay|alpha) in \[0, 1[\])], found"
    with initialized_session() as session:
        for value in [1.5, -0.5, np.nan] + [1.0] * (name == "debiased"):
            check_refused(session, result, {rate: value}, message)
        session.run(result)


@pytest.mark.parametrize("shape", [None, [None, None]], ids=str)
@pytest.mark.parametrize("size", [(2, D - 2), (5, 1), (1, 2 * D)], ids=str)
@pytest.mark.parametrize("shards", [None, 2])
def test_rows_of_other_dims_without_checks(shape, size, shards, use_resource):
    """Rows are not cut anew: 5 rows of one dim are no row of 5."""
    make_centers(tf_centers, use_resource, shards=shards)
    embeds, labels = tf.placeholder(tf.float32, shape), tf.placeholder(tf.int64, [None])
    result = tf_centers.get_embed_centers(embeds, labels, MEAN, validate_args=False)
    errors = (InvalidArgumentError, tf.errors.InternalError)
    with initialized_session() as session:
        # As many labels as there are rows, and as there would be if they were cut anew.
        for rows in {size[0], max(1, size[0] * size[1] // D)}:
            feed = {embeds: np.ones(size), labels: [1, 5, 1, 5, 1][:rows]}
            check_refused(session, result, feed, "", error=errors)


def test_wrong_shapes_of_other_calls():
    make_ctrs(True)
    embeds, rows = tf.placeholder(tf.float32), tf.placeholder(tf.float32)
    nearest = tf_centers.nearest_centers(embeds).labels
    squares = tf_centers.center_distances(embeds)
    loss = tf_centers.center_loss(embeds, rows)
    with initialized_session() as session:
        for fetch, name, shape, other in (
            (nearest, "nearest_centers", [B, D + 1], [1]),
            (squares, "center_distances", [B, 2, D], [1]),
            (loss, "center_loss", [B, D], [1, D]),
            (loss, "center_loss", [B, D], [B, 1]),
            (loss, "center_loss", [B, D], [B + 1, D]),
        ):
            feed = {embeds: np.zeros(shape), rows: np.zeros(other)}
            check_refused(session, fetch, feed, f"{name}: expected embed_batch")


GET, UPDATE = tf_centers.get_embed_centers, tf_centers.update_embed_centers
ONES = np.ones([3, D], np.float32)
UPDATES = {
    "get": lambda labels, updater: GET(ONES, labels, updater),
    "before": lambda labels, updater: GET(ONES, labels, updater, read="before"),
    "locked": lambda labels, updater: GET(ONES, labels, updater, use_locking=True),
    "switch": lambda labels, updater: GET(
        ONES, labels, updater, is_training=tf.placeholder_with_default(True, [])
    ),
    "update": lambda labels, updater: UPDATE(ONES, labels, updater),
    "update locked": lambda labels, updater: UPDATE(ONES, labels, updater, use_locking=True),
}
LOOKUPS = {
    "no training": lambda labels, _: GET(ONES, labels, is_training=False),
    "lookup": lambda labels, _: tf_centers.lookup_embed_centers(labels),
}
SEARCHES = {
    "nearest labels": lambda *_: tf_centers.nearest_centers(ONES, k=8).labels,
    "nearest distances": lambda *_: tf_centers.nearest_centers(ONES, k=8).distances,
    "distances": lambda *_: tf_centers.center_distances(ONES),
}


class NoneTwice(tf_centers.Updater):
    """With bad weights for a class that has more than one row in the batch."""

    def __init__(self, needs_counts):
        self.needs_counts = needs_counts

    def row_weights(self, rows):
        return tf.where(rows.sizes > 1.5, 0.0 / (rows.sizes - rows.sizes), 1.0 / rows.sizes)


@pytest.mark.parametrize("needs_counts", [False, True])
@pytest.mark.parametrize("call", list(UPDATES))
def test_bad_weights_in_one_shard(call, needs_counts, use_resource):
    centers = make_centers(tf_centers, use_resource, 9, D, 3)
    labels = tf.placeholder(tf.int64, [None])
    result = UPDATES[call](labels, NoneTwice(needs_counts))
    with initialized_session() as session:
        for batch in ([1, 1, 8], [1, 5, 5], [8, 1, 8]):
            check_refused(session, result, {labels: batch}, "row_weights")
        session.run(result, {labels: [1, 5, 8]})
        assert read_state(session, centers)[1].tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1]


# Tables that have another number of classes at run time than the graph knows.


def resizing(variable):
    """Does to a resource variable what restoring a checkpoint of other rows does."""
    shape, value = variable.shape.as_list()[1:], tf.placeholder(variable.dtype)
    assign = tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    return lambda session, rows: session.run(assign, {value: np.ones([rows] + shape)})


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize("call", [*UPDATES, *LOOKUPS, *SEARCHES])
def test_a_table_that_is_larger(call, shards):
    """No label beyond the classes of the graph is taken, and no search finds one."""
    centers = make_centers(tf_centers, True, 8, D, shards, initial_counts=1)
    variables = list(zip(*[parts(variable) for variable in centers]))
    resize = [list(map(resizing, shard)) for shard in variables]
    labels = tf.placeholder(tf.int64, [None])
    result = {**UPDATES, **LOOKUPS, **SEARCHES}[call](labels, MEAN)
    message = "a table of . classes" if call in SEARCHES else r"label in \[0, 8\)"
    with initialized_session() as session:
        for shard in range(shards or 1):
            session.run(result, {labels: [1, 7, 2]})
            for variable in range(2):  # the centers alone, and the counts as well
                resize[shard][variable](session, 13)
                for bad in ([1, 8, 2], [12, 5, 2], [-1, 1, 2]):
                    check_refused(session, result, {labels: bad}, message)
            for variable in range(2):
                resize[shard][variable](session, 8 // (shards or 1))


@pytest.mark.parametrize("short", range(4))
@pytest.mark.parametrize("call", list(UPDATES))
def test_a_shard_that_is_shorter(call, short):
    """The last class of a shard, 3 or 7, has a row in the graph, and none at run time."""
    centers = make_centers(tf_centers, True, 8, D, 2)
    resize = resizing((parts(centers.ctrs) + parts(centers.counts))[short])
    labels, missing = tf.placeholder(tf.int64, [None]), [3, 7][short % 2]
    result = UPDATES[call](labels, MEAN)
    with initialized_session() as session:
        resize(session, 2)
        for bad in ([3, 7, 1], [7, 3, 1], [missing] * 3):
            check_refused(session, result, {labels: bad}, r"label in \[0, 8\)")
        resize(session, 4)
        session.run(result, {labels: [3, 7, 1]})


@pytest.mark.parametrize("shards", [None, 2])
def test_lookups_can_be_frozen(shards, use_resource, control_flow):
    """Whatever compares the classes with those at run time."""
    table = np.random.RandomState(0).randn(C, D).astype(np.float32)
    make_centers(tf_centers, use_resource, shards=shards, initializer=table)
    embeds, labels = placeholders()
    found = [
        tf_centers.lookup_embed_centers(labels),
        tf_centers.get_embed_centers(embeds, labels, is_training=False),
    ]
    with initialized_session() as session:
        names = [one.op.name for one in found]
        frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, names)
    with tf.Graph().as_default(), tf.Session() as session:
        held = [one.name for one in (embeds, labels)]
        found = tf.import_graph_def(frozen, return_elements=[one.name for one in found], name="")
        for one in found:
            rows = session.run(one, dict(zip(held, (table[:2], [5, 0]))))
            np.testing.assert_array_equal(rows, table[[5, 0]])
            with pytest.raises(InvalidArgumentError, match=r"label in \[0, 7\)"):
                session.run(one, dict(zip(held, (table[:2], [5, 7]))))
