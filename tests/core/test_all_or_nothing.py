"""What is wrong only at run time: a message that tells, and no bit written, in no shard.

The copies of replicas are in test_replica_errors.py.
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
    make_batch,
    make_centers,
    make_ctrs,
    parts,
    read_state,
    state_bits,
)
from updaters import WITH_RATE

import tf_centers

GET, UPDATE = tf_centers.get_embed_centers, tf_centers.update_embed_centers
InvalidArgumentError = tf.errors.InvalidArgumentError
EMBEDS, LABELS = make_batch(0)
KEEP = np.ones(B, bool)


def _with(embeds=EMBEDS, labels=LABELS, mask=KEEP):
    return embeds, labels, mask


# What each input violates.
WRONG = {
    "label too large": (_with(labels=np.append(LABELS[:-1], C)), r"\[0, 7\).*\[7\]"),
    "label negative": (_with(labels=np.append(LABELS[:-1], -1)), r"\[0, 7\).*\[-1\]"),
    "fewer labels": (_with(labels=LABELS[:-1]), r"label_batch .*12 5\] \[11\]"),
    "no labels": (_with(labels=[]), r"label_batch .*12 5\] \[0\]"),
    "labels a scalar": (_with(labels=3), r"label_batch of shape \[B\] or \[B, 1\]"),
    "one-hot": (_with(labels=np.zeros([B, C])), r"label_batch of shape .*12 7"),
    "empty one-hot": (
        _with(embeds=np.zeros([0, D]), labels=np.zeros([0, C]), mask=np.ones([0], bool)),
        r"label_batch of shape .*0 7",
    ),
    "D": (_with(embeds=np.zeros([B, D + 1])), r"embed_batch of shape \[B, 5\].*12 6"),
    "one column": (_with(embeds=np.zeros([B, 1])), r"embed_batch of shape \[B, 5\].*12 1"),
    "embeds of rank 1": (_with(embeds=np.zeros([B])), r"embed_batch of shape \[B, 5\].*12"),
    "embeds a step": (_with(embeds=np.zeros([1, B, D])), r"embed_batch of shape .*1 12 5"),
    "mask too short": (_with(mask=np.ones([B - 1], bool)), r"mask .*\[12\] \[11\]"),
    "mask of rank 2": (_with(mask=np.ones([B, 1], bool)), r"mask of shape \[B\].*12 1"),
}
NOT_FINITE = [
    _with(embeds=np.where(EMBEDS == EMBEDS[3, 2], value, EMBEDS))
    for value in (np.nan, np.inf, -np.inf, 1e300)
]
# What is known when building of embeddings, labels and mask; {} is no mask.
UNKNOWN = (None, None, None)
HOW = {
    "locked": dict(use_locking=True),
    "in shards": dict(shards=3),
    "update in shards": dict(shards=3, use_locking=True),
    "no training": dict(is_training=False),
    "training tensor": dict(is_training=True),
    "no training tensor": dict(is_training=False),
}


@pytest.mark.parametrize(
    "way, known",
    [
        *[(way, UNKNOWN) for way in HOW],
        ("locked", ([B, None], [B], {})),
        ("no training", ([B, None], None, {})),
        ("in shards", ([None, None], [None], [None])),
        ("locked", ([None, None], [B, None], {})),
        ("no training", (None, [B], {})),
        ("locked", (None, None, {})),
    ],
)
def test_a_wrong_batch(way, known, use_resource, session):
    """Is refused however much of the rest is static, and in a lookup too."""
    how = dict(HOW[way])
    initial = np.arange(C * D).reshape(C, D)
    shards = how.pop("shards", None)
    centers = make_centers(tf_centers, use_resource, shards=shards, initializer=initial)
    dtypes, masked = (tf.float64, tf.int64, tf.bool), known[2] != {}
    held = [tf.placeholder(dtype, shape or None) for dtype, shape in zip(dtypes, known)]
    if masked:
        how["mask"] = held[2]
    if "tensor" in way:
        how["is_training"] = tf.placeholder_with_default(how["is_training"], [])
    call = UPDATE if "update" in way else GET
    result = call(*held[:2], MEAN, centers, **how)

    def refuse(values, message):
        fits = all(h.shape.is_compatible_with(np.shape(v)) for h, v in zip(held, values))
        if fits and (masked or "mask" not in message):
            message = f"(?s){call.__name__}: expected .*{message}"
            check_refused(session, result, dict(zip(held, values)), message)

    for values, message in WRONG.values():
        refuse(values, message)
    for values in NOT_FINITE if "no training" not in way else []:
        refuse(values, "finite values")
        if masked:  # The same value in a masked row is nobody's business.
            before = state_bits(session, *centers)
            session.run(result, dict(zip(held, (*values[:2], np.arange(B) != 3))))
            assert state_bits(session, *centers) != before
            assert np.isfinite(read_state(session, centers)[0]).all()
    if known[1] != [B, None]:  # A lock is free again.
        session.run(result, dict(zip(held, _with())))


@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_a_rate_or_a_switch_that_is_wrong(name, use_resource, session):
    make_centers(tf_centers, use_resource, count_dtype=WITH_RATE[name].count_dtype)
    rate, switch = tf.placeholder(tf.float32), tf.placeholder(tf.bool)
    result = GET(EMBEDS, LABELS, WITH_RATE[name].make(rate), is_training=switch)
    out_of_range = [1.5, -0.5, np.nan] + [1.0] * (name == "debiased")
    wrong = [({rate: value}, r"(decay|alpha) in \[0, 1[\])], found") for value in out_of_range]
    wrong += [({rate: [0.5]}, r"(decay|alpha) of shape \[\], found shape")]
    wrong += [({switch: [True, True]}, r"is_training of shape \[\], found shape")]
    for feed, message in wrong:
        feed = {rate: 0.5, switch: True, **feed}
        check_refused(session, result, feed, "get_embed_centers: expected " + message)
    session.run(result, {rate: 0.5, switch: True})


@pytest.mark.parametrize("shape", [None, [None, None]], ids=str)
@pytest.mark.parametrize("shards", [None, 2])
def test_rows_of_other_dims_without_checks(shape, shards, use_resource, session):
    """Rows are not cut anew: 5 rows of one dim are no row of 5."""
    make_centers(tf_centers, use_resource, shards=shards)
    embeds, labels = tf.placeholder(tf.float32, shape), tf.placeholder(tf.int64, [None])
    result = GET(embeds, labels, MEAN, validate_args=False)
    errors = (InvalidArgumentError, tf.errors.InternalError)
    for rows, dims in ((2, D - 2), (5, 1), (1, 2 * D)):
        # As many labels as there are rows, and as there would be if they were cut anew.
        for size in (rows, max(1, rows * dims // D)):
            feed = {embeds: np.ones([rows, dims]), labels: [1, 5, 1, 5, 1][:size]}
            check_refused(session, result, feed, "", error=errors)


def test_wrong_embeddings_of_a_search(session):
    make_ctrs(True)
    embeds = tf.placeholder(tf.float32)
    nearest = tf_centers.nearest_centers(embeds).labels
    squares = tf_centers.center_distances(embeds)
    for fetch, name, shape in (
        (nearest, "nearest_centers", [B, D + 1]),
        (squares, "center_distances", [B, 2, D]),
    ):
        check_refused(session, fetch, {embeds: np.zeros(shape)}, f"{name}: expected embed_batch")


ONES = np.ones([3, D], np.float32)
UPDATES = {
    "get": lambda labels, updater: GET(ONES, labels, updater),
    "before": lambda labels, updater: GET(ONES, labels, updater, read="before"),
    "locked": lambda labels, updater: GET(ONES, labels, updater, use_locking=True),
    "switch": lambda labels, updater: GET(
        ONES, labels, updater, is_training=tf.placeholder_with_default(True, [])
    ),
    "update": lambda labels, updater: UPDATE(ONES, labels, updater, use_locking=True),
}


class BadTwice(tf_centers.Updater):
    """With bad weights for a class that has more than one row in the batch."""

    def __init__(self, bad, needs_counts):
        self.bad, self.needs_counts = bad, needs_counts

    def row_weights(self, rows):
        return tf.where(rows.sizes > 1.5, self.bad + 0 * rows.sizes, 1 / rows.sizes)


@pytest.mark.parametrize(
    "call, bad, needs_counts",
    [
        ("get", np.nan, False),
        ("before", np.inf, True),
        ("locked", -1.0, True),
        ("switch", np.nan, False),
        ("update", np.inf, False),
    ],
)
def test_bad_weights_in_one_shard(call, bad, needs_counts, use_resource, session):
    centers = make_centers(tf_centers, use_resource, 9, D, 3)
    labels = tf.placeholder(tf.int64, [None])
    result = UPDATES[call](labels, BadTwice(bad, needs_counts))
    for batch in ([1, 1, 8], [1, 5, 5], [8, 1, 8]):
        message = "_embed_centers: expected BadTwice.row_weights to return finite weights"
        check_refused(session, result, {labels: batch}, message)
    session.run(result, {labels: [1, 5, 8]})
    assert read_state(session, centers)[1].tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1]


def resizing(variable):
    """Does to a resource variable what restoring a checkpoint of other rows does."""
    shape, value = variable.shape.as_list()[1:], tf.placeholder(variable.dtype)
    assign = tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    return lambda session, rows: session.run(assign, {value: np.ones([rows] + shape)})


@pytest.mark.parametrize("shards", [1, 2])
def test_a_table_of_another_size_than_the_graph_knows(shards, session):
    """No label without a row is taken, none beyond the classes of the graph, and none is found."""
    centers = make_centers(tf_centers, True, 8, D, shards, initial_counts=1)
    labels = tf.placeholder(tf.int64, [None])
    updates = [call(labels, MEAN) for call in UPDATES.values()]
    lookups = [GET(ONES, labels, is_training=False), tf_centers.lookup_embed_centers(labels)]
    searches = [tf_centers.nearest_centers(ONES, k=8), tf_centers.center_distances(ONES)]
    size = 8 // shards
    resizes = [[resizing(part) for part in parts(variable)] for variable in centers]
    message, has = r"label in \[0, 8\)", "the table has" if shards == 1 else "each shard has"
    for shard, resize in enumerate(zip(*resizes)):
        last = (shard + 1) * size - 1
        for which in (0, 1):  # the centers and the counts
            resize[which](session, 2)
            for bad in ([last, 0, 1], [0, last, 1], [last] * 3):
                for update in updates:
                    told = rf"(?s){message}.*while {has} at run time\] .*\[rows"
                    check_refused(session, update, {labels: bad}, told)
            resize[which](session, size)
        for which in (0, 1):  # the centers alone, and the counts as well
            resize[which](session, 13)
            for bad in ([1, 8, 2], [12, 5, 2], [-1, 1, 2]):
                for result in updates + lookups:
                    check_refused(session, result, {labels: bad}, message)
            for search in searches:
                check_refused(session, search, {}, "a table of . classes")
        for which in (0, 1):
            resize[which](session, size)
        session.run([updates, lookups, searches], {labels: [1, 7, 2]})
