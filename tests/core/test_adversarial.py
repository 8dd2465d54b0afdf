"""Input at the ends of every range: what must be refused leaves every bit, the rest is exact."""

import functools

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch, make_centers, state_bits

import tf_centers

MEAN = tf_centers.CumulativeMean()
UPDATERS = {
    "debiased": (
        tf_centers.ExponentialWindow(0.9, debias=True),
        functools.partial(reference.debiased_window, decay=0.9),
    ),
    "wen": (tf_centers.WenUpdate(), reference.wen_update),
}
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def refused(session, fetch, feed, message, *state):
    """Sees that a step is refused with this message, and that not a bit of the state changed."""
    before = state_bits(session, *state)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        session.run(fetch, feed)
    assert state_bits(session, *state) == before


def every_variable():
    return tf.global_variables()


def placeholders(labels_dtype=tf.int64, embeds_dtype=tf.float32):
    return tf.placeholder(embeds_dtype, [None, D]), tf.placeholder(labels_dtype, [None])


def beyond(dtype):
    """The ends of an integer type, and what a narrower one would take for 0 or 1: not in [0, C)."""
    ends = np.iinfo(dtype)
    values = {ends.min, ends.max}
    for bits in (8, 16, 31, 32, 63):
        values |= {-(2**bits), 2**bits, 2**bits + 1}
    return sorted(value for value in values if ends.min <= value <= ends.max and value % 2**64 >= C)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_at_the_ends_of_their_type(dtype, use_resource):
    centers = make_centers(tf_centers, use_resource)
    embeds, labels = placeholders(dtype)
    calls = {
        "get_embed_centers": tf_centers.get_embed_centers(embeds, labels, MEAN, centers),
        "update_embed_centers": tf_centers.update_embed_centers(embeds, labels, MEAN, centers),
        "lookup_embed_centers": tf_centers.lookup_embed_centers(labels, centers),
    }
    batch, good = make_batch(0)
    values = beyond(dtype)
    assert values
    with initialized_session() as session:
        for value in values:
            for name, call in calls.items():
                bad = np.array(good, dtype)
                bad[value % B] = value
                message = rf"{name}: expected every label in \[0, 7\), found\] \[{value}\]"
                refused(session, call, {embeds: batch, labels: bad}, message, *centers)
        session.run(calls["get_embed_centers"], {embeds: batch, labels: good.astype(dtype)})
        np.testing.assert_array_equal(session.run(centers.counts), np.bincount(good, minlength=C))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_the_last_class_may_be_the_end_of_the_type(dtype, use_resource):
    last = np.iinfo(dtype).max
    centers = make_centers(tf_centers, use_resource, last + 1, D)
    embeds, labels = placeholders(dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers)
    with initialized_session() as session:
        found = session.run(rows, {embeds: [[3.0] * D, [5.0] * D], labels: [last, last]})
        np.testing.assert_array_equal(found, [[4.0] * D] * 2)
        assert session.run(centers.counts).tolist() == [0] * last + [2]


def test_python_integers_beyond_32_and_64_bits(use_resource):
    centers = make_centers(tf_centers, use_resource)
    one = [[1.0] * D]
    calls = {
        value: tf_centers.get_embed_centers(one, [value], MEAN, centers)
        for value in (2**31, -(2**31) - 1, 2**63 - 1)
    }
    with pytest.raises(TypeError, match="^get_embed_centers: label_batch must be .*36893488147"):
        tf_centers.get_embed_centers(one, [2**65], MEAN, centers)
    with initialized_session() as session:
        for value, rows in calls.items():
            refused(session, rows, {}, rf"found\] \[{value}\]", *centers)


SIZES = [(1, 7, 5), (1, 1, 1), (12, 1, 5), (12, 7, 1), (3000, 3, 2), (3000, 1, 1)]


@pytest.mark.parametrize("rows, classes, dims", SIZES)
def test_sizes_at_the_ends(rows, classes, dims, use_resource):
    rng = np.random.RandomState(rows + classes)
    static = rows < 12
    embeds = tf.placeholder(tf.float32, [rows if static else None, dims])
    labels = tf.placeholder(tf.int32, [rows, 1] if static else [None])
    batches = [(2 * rng.randn(rows, dims) + 1, rng.randint(0, classes, rows)) for _ in range(2)]
    tables, results = [], []
    for name in sorted(UPDATERS):
        tables.append(make_centers(tf_centers, use_resource, classes, dims, scope=name))
        results.append(tf_centers.get_embed_centers(embeds, labels, UPDATERS[name][0], tables[-1]))
    states = [(np.zeros([classes, dims]), np.zeros(classes, int))] * len(tables)
    with initialized_session() as session:
        for batch, batch_labels in batches:
            feed = {embeds: batch, labels: batch_labels[:, None] if static else batch_labels}
            found = session.run(results, feed)
            for place, name in enumerate(sorted(UPDATERS)):
                rule = UPDATERS[name][1]
                states[place] = reference.apply(rule, *states[place], batch, batch_labels)
                expected = states[place][0]
                np.testing.assert_allclose(found[place], expected[batch_labels], atol=3e-5)
                ctrs, counts = session.run(list(tables[place]))
                np.testing.assert_allclose(ctrs, expected, atol=3e-5)
                np.testing.assert_array_equal(counts, states[place][1])
        # One bad row at the end of them all.
        bad = dict(feed)
        bad[embeds] = np.where(np.arange(rows)[:, None] == rows - 1, np.nan, batch)
        for result in results:
            refused(session, result, bad, "expected finite values", *every_variable())


@pytest.mark.parametrize("use_locking", [False, True])
@pytest.mark.parametrize("shards", [0, 3])
def test_all_rows_masked(shards, use_locking, use_resource):
    splits = {"partitioner": tf.fixed_size_partitioner(shards)} if shards else {}
    with tf.variable_scope("", use_resource=use_resource, **splits):
        centers = tf_centers.create_embed_centers(C, D, initializer=np.ones([C, D]))
    embeds, labels = placeholders(tf.uint64, tf.float64)
    rows = tf_centers.get_embed_centers(
        embeds, labels, MEAN, centers, tf.zeros(tf.shape(labels), tf.bool), use_locking=use_locking
    )
    batch = np.array([[np.nan] * D, [np.inf] * D, [1e300] * D, [1e-310] * D])
    ends = np.array([2**64 - 1, 2**63, 2**31, C], np.uint64)
    with initialized_session() as session:
        before = state_bits(session, *every_variable())
        with np.errstate(over="ignore"):
            own = batch.astype(np.float32)
        found = session.run(rows, {embeds: batch, labels: ends})
        np.testing.assert_allclose(found, own, atol=np.finfo(np.float32).tiny)
        assert state_bits(session, *every_variable()) == before


@pytest.mark.parametrize("updater", ["mean", "window", "wen"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("classes", [C, 65, 2049])
def test_constants_without_a_row(classes, masked, updater, use_resource):
    # TensorFlow's optimizer divided by the number of rows, which ends the process.
    rate = tf.placeholder_with_default(0.9, [])
    updaters = {"window": tf_centers.ExponentialWindow(rate), "wen": tf_centers.WenUpdate(rate)}
    updater = updaters.get(updater, MEAN)
    centers = make_centers(tf_centers, use_resource, classes, D)
    rows = 3 if masked else 0
    batch = np.ones([rows, D], np.float32), np.ones([rows], np.int64)
    mask = np.zeros([rows], bool) if masked else None
    fetches = [
        tf_centers.get_embed_centers(*batch, updater, centers, mask),
        tf_centers.get_embed_centers(*batch, updater, centers, mask, read="before"),
        tf_centers.update_embed_centers(*batch, updater, centers, mask),
    ]
    with initialized_session() as session:
        before = state_bits(session, *every_variable())
        for fetch in fetches:
            found = session.run(fetch)
            assert found is None or found.tolist() == batch[0].tolist()
        assert state_bits(session, *every_variable()) == before


NOT_FINITE = [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, 3e38], [-np.inf, 1e-42]]


@pytest.mark.parametrize("static", [False, True])
def test_one_value_among_many(static, use_resource):
    # So many that those of many classes are worked at in parts, of which one is written first.
    rows, dims, classes = 600, 64, 50
    centers = make_centers(tf_centers, use_resource, classes, dims)
    embeds = tf.placeholder(tf.float32, [rows if static else None, dims])
    labels = np.arange(rows) % (classes - 1)
    result = tf_centers.update_embed_centers(
        embeds, labels if static else tf.placeholder_with_default(labels, [None]), MEAN, centers
    )
    rng = np.random.RandomState(1)
    batches = [rng.randn(rows, dims), 3e38 * rng.uniform(-1, 1, [rows, dims])]
    with initialized_session() as session:
        for batch in batches:
            session.run(result, {embeds: batch})
            assert np.isfinite(session.run(centers.ctrs)).all()
            for place, values in enumerate(NOT_FINITE):
                for row in (0, rows // 2, rows - 1):
                    bad = np.array(batch)
                    bad[row, place : place + len(values)] = values
                    message = "update_embed_centers: expected finite values of float32"
                    refused(session, result, {embeds: bad}, message, *centers)


# The dtypes of embeddings and centers, the largest that fits, and the least that rounds to Inf.
OVERFLOWS = [
    ("float32", "float16", 65519.0, 65520.0),
    ("float64", "float16", 65519.0, 65520.0),
    ("bfloat16", "float16", 65280.0, 65536.0),
    ("float32", "bfloat16", 3.39e38, 3.4e38),
    ("float64", "float32", 3.4028235e38, 3.4028236e38),
    ("float16", "float32", 65504.0, np.inf),
    ("float16", "float16", 65504.0, np.inf),
    ("bfloat16", "float64", 3.3895e38, np.inf),
]


@pytest.mark.parametrize("dtype, ctrs_dtype, fits, overflows", OVERFLOWS)
def test_overflow_on_the_way_in(dtype, ctrs_dtype, fits, overflows, use_resource):
    ctrs_dtype, dtype = tf.as_dtype(ctrs_dtype), tf.as_dtype(dtype)
    centers = make_centers(tf_centers, use_resource, dtype=ctrs_dtype)
    embeds, labels = placeholders(embeds_dtype=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, MEAN, centers)
    batch = np.ones([3, D]).astype(dtype.as_numpy_dtype)
    with initialized_session() as session:
        for value in (overflows, -overflows):
            batch[1, 2] = value
            message = f"get_embed_centers: expected finite values of {ctrs_dtype.name}"
            refused(session, rows, {embeds: batch, labels: [1, 4, 1]}, message, *centers)
        batch[1, 2] = fits
        found = session.run(rows, {embeds: batch, labels: [1, 4, 1]})
        expected = batch.astype(ctrs_dtype.as_numpy_dtype)
        np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))
        assert np.isfinite(found.astype(np.float64)).all()


@pytest.mark.parametrize("dtype, value", [("float32", 1e-41), ("float64", 1e-310)])
def test_denormals(dtype, value, use_resource):
    # TensorFlow may take them for zero; nothing larger may come of them, and no refusal.
    tiny = np.finfo(dtype).tiny
    centers = make_centers(
        tf_centers, use_resource, dtype=tf.as_dtype(dtype), initializer=np.full([C, D], value)
    )
    embeds, labels = placeholders(embeds_dtype=dtype)
    rows = tf_centers.get_embed_centers(embeds, labels, tf_centers.WenUpdate(), centers)
    batch = np.array([[value] * D, [-value] * D, [1.0] * D, [tiny] * D], dtype)
    batch_labels = [0, 0, 3, 5]
    expected, _ = reference.apply(
        reference.wen_update, np.full([C, D], value), np.zeros(C), batch, batch_labels
    )
    with initialized_session() as session:
        feed = {embeds: batch, labels: batch_labels}
        untouched = session.run(centers.ctrs)[[1, 2, 4, 6]].tobytes()
        found = session.run(rows, feed)
        np.testing.assert_allclose(found, expected[batch_labels], rtol=1e-6, atol=tiny)
        assert session.run(centers.ctrs)[[1, 2, 4, 6]].tobytes() == untouched
        batch[1, 3] = np.nan
        refused(session, rows, feed, "expected finite values", *centers)


def test_half_precision_denormals_are_exact(use_resource):
    # 2^-24 and 3 * 2^-24 are denormal in float16, and their mean is 2^-23.
    centers = make_centers(tf_centers, use_resource, dtype=tf.float16)
    rows = tf_centers.get_embed_centers(
        tf.constant([[2.0**-24] * D, [3 * 2.0**-24] * D], tf.float16), [2, 2], MEAN, centers
    )
    with initialized_session() as session:
        found = session.run(rows).astype(np.float64)
        np.testing.assert_array_equal(found, [[2.0**-23] * D] * 2)


def bad_batches():
    """Each with the message it is refused with, and a good one of the same rows."""
    batch, labels = make_batch(3)
    for value in (2**31, 2**63 - 1, -(2**63), C):
        bad = np.array(labels, np.int64)
        bad[-1] = value
        yield batch, bad, rf"found\] \[{value}\]"
    for value in (np.nan, np.inf, 1e39):
        bad = np.array(batch)
        bad[-1, -1] = value
        yield bad, labels, "expected finite values"


@pytest.fixture
def enterable(use_resource, control_flow):
    """The kind of variable, where it may enter the control flow at all."""
    if not use_resource and control_flow.endswith("v2"):
        pytest.skip("TensorFlow refuses ref variables in its new control flow")
    return use_resource


def test_refused_in_cond(enterable):
    centers = make_centers(tf_centers, enterable)
    embeds, labels = placeholders()
    taken = tf.placeholder(tf.bool, [])

    def update():
        return tf_centers.get_embed_centers(embeds, labels, MEAN, centers)

    rows = tf.cond(taken, update, lambda: tf.zeros_like(embeds))
    good, good_labels = make_batch(0)
    with initialized_session() as session:
        session.run(rows, {embeds: good, labels: good_labels, taken: True})
        assert session.run(centers.counts).sum() == B
        for batch, batch_labels, message in bad_batches():
            feed = {embeds: batch, labels: batch_labels}
            refused(session, rows, {**feed, taken: True}, message, *centers)
            before = state_bits(session, *centers)
            session.run(rows, {**feed, taken: False})
            assert state_bits(session, *centers) == before
        session.run(rows, {embeds: good, labels: good_labels, taken: True})
        assert session.run(centers.counts).sum() == 2 * B


def test_refused_in_while_loop(enterable):
    """A bad batch of a loop leaves what the iterations before it wrote, and nothing of its own."""
    centers = make_centers(tf_centers, enterable)
    embeds, labels = tf.placeholder(tf.float32, [None, B, D]), tf.placeholder(tf.int64, [None, B])

    def body(step, previous):
        with tf.control_dependencies([previous]):
            one = tf.identity(embeds[step])
            rows = tf_centers.get_embed_centers(one, labels[step], MEAN, centers)
        return step + 1, rows

    last = tf.while_loop(
        lambda step, _: step < tf.shape(embeds)[0],
        body,
        [tf.constant(0), tf.zeros([B, D])],
        parallel_iterations=1,
    )[1]
    good, good_labels = make_batch(0)
    init = tf.global_variables_initializer()
    with initialized_session() as session:
        session.run(last, {embeds: [good] * 2, labels: [good_labels] * 2})
        expected = state_bits(session, *centers)
        assert session.run(centers.counts).sum() == 2 * B
        for batch, batch_labels, message in bad_batches():
            session.run(init)
            feed = {embeds: [good, good, batch, good]}
            feed[labels] = [good_labels, good_labels, batch_labels, good_labels]
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                session.run(last, feed)
            assert state_bits(session, *centers) == expected


def test_refused_in_one_of_two_towers(use_resource):
    """Towers one after the other: a good one before the bad one counts, one after it does not."""
    holders, previous = [], []
    for tower in range(2):
        with tf.variable_scope("", reuse=tf.AUTO_REUSE), tf.name_scope(f"tower_{tower}"):
            centers = make_centers(tf_centers, use_resource)
            holders.append(placeholders())
            with tf.control_dependencies(previous):
                embeds = tf.identity(holders[-1][0])
                previous = [tf_centers.get_embed_centers(embeds, holders[-1][1], MEAN, centers)]
    init = tf.global_variables_initializer()
    good = make_batch(0)

    def feed(*batches):
        return {
            holder: value
            for pair, batch in zip(holders, batches)
            for holder, value in zip(pair, batch)
        }

    empty = np.zeros([0, D]), np.zeros([0])
    with initialized_session() as session:
        session.run(previous, feed(good, empty))
        first_alone = state_bits(session, *centers)
        assert session.run(centers.counts).sum() == B
        for batch, batch_labels, message in bad_batches():
            bad = batch, batch_labels
            refused(session, previous, feed(bad, good), message, *centers)
            session.run(init)
            with pytest.raises(tf.errors.InvalidArgumentError, match="tower_1"):
                session.run(previous, feed(good, bad))
            assert state_bits(session, *centers) == first_alone
