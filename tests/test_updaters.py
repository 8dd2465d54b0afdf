"""Every updater against the oracle, and wrong formulas that must not pass for it."""

import functools

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import initialized_session, make_centers

import tf_centers
from tf_centers.updaters import Classes, Updater

UPDATERS = {
    "cumulative": (tf_centers.CumulativeMean(), reference.cumulative_mean),
    "default": (None, reference.exponential_window),
    "window": (
        tf_centers.ExponentialWindow(0.7),
        functools.partial(reference.exponential_window, decay=0.7),
    ),
    "debiased": (
        tf_centers.ExponentialWindow(0.9, debias=True),
        functools.partial(reference.debiased_window, decay=0.9),
    ),
    "summed": (
        tf_centers.ExponentialWindow(0.99, duplicates="sum"),
        functools.partial(reference.summed_window, decay=0.99),
    ),
    "wen": (tf_centers.WenUpdate(), reference.wen_update),
    "wen 0.2": (
        tf_centers.WenUpdate(alpha=0.2),
        functools.partial(reference.wen_update, alpha=0.2),
    ),
}


def check_against_reference(
    updater, rule, use_resource, rows=200, classes=11, dims=6, tolerance=1e-4
):
    """Twelve batches: the returned rows, the centers and the counts are the oracle's."""
    rng = np.random.RandomState(classes)
    initial = rng.randn(classes, dims)
    centers = make_centers(tf_centers, use_resource, classes, dims, initializer=initial)
    embeds = tf.placeholder(tf.float32, [None, dims])
    labels = tf.placeholder(tf.int32, [None])
    result = tf_centers.get_embed_centers(embeds, labels, updater, centers)
    ctrs, counts = initial, np.zeros(classes, np.int64)
    with initialized_session() as session:
        for _ in range(12):
            # The last class is absent throughout, and some are rare.
            batch_labels = (rng.rand(rows) ** 2 * (classes - 1)).astype(np.int32)
            batch = rng.randn(rows, dims) + batch_labels[:, None] * np.linspace(-1, 2, dims)
            found = session.run(result, {embeds: batch, labels: batch_labels})
            ctrs, counts = reference.apply(rule, ctrs, counts, batch, batch_labels)
            found_ctrs, found_counts = session.run(list(centers))
            np.testing.assert_allclose(found, ctrs[batch_labels], rtol=0, atol=tolerance)
            np.testing.assert_allclose(found_ctrs, ctrs, rtol=0, atol=tolerance)
            np.testing.assert_array_equal(found_counts, counts)
            np.testing.assert_array_equal(found_ctrs[-1], initial[-1].astype(np.float32))


@pytest.mark.parametrize("classes", [3, 11, 50])
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_agrees_with_reference(name, classes, use_resource, formulation):
    updater, rule = UPDATERS[name]
    check_against_reference(updater, rule, use_resource, classes=classes)


@pytest.mark.parametrize("classes, dims", [(16, 16), (17, 16), (16, 17), (65, 17)])
@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_agrees_with_reference_at_the_sizes_where_the_formulation_changes(name, classes, dims):
    updater, rule = UPDATERS[name]
    check_against_reference(updater, rule, True, classes=classes, dims=dims)


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_nothing_on_the_way_alarms_a_debugger(name, use_resource):
    # Also not what comes of a class that no row has ever had.
    updater, _ = UPDATERS[name]
    centers = make_centers(tf_centers, use_resource, 7, 5)
    result = tf_centers.get_embed_centers(np.ones([2, 5]), [1, 1], updater, centers)
    checks = tf.add_check_numerics_ops()
    with initialized_session() as session:
        session.run([result, checks])


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_the_rows_of_a_class_weigh_together_what_it_weighs(name):
    updater = UPDATERS[name][0] or tf_centers.ExponentialWindow()
    sizes, seen = np.array([1, 2, 3, 40, 1000]), np.array([0, 10**6, 0, 7, 5], np.int64)
    index = np.repeat(np.arange(5), sizes)
    later = np.concatenate([np.arange(size)[::-1] for size in sizes])
    classes = Classes(tf.constant(sizes, tf.int32), tf.constant(seen))
    later = tf.constant(later, tf.int32) if updater.orders_rows else None
    with tf.Session() as session:
        together, each = session.run(updater.weigh(classes, index, later))
        np.testing.assert_allclose(session.run(updater.class_weights(classes)), together, 1e-14)
    np.testing.assert_allclose(np.bincount(index, each), together, rtol=1e-12)


def _per_class(weigh):
    """An updater whose rows weigh one function of N and k each."""

    class PerClass(Updater):
        needs_counts = True

        def class_weights(self, classes):
            seen, sizes = tf.cast(classes.seen, tf.float64), tf.cast(classes.sizes, tf.float64)
            return sizes * weigh(seen, sizes)

    return PerClass()


def _window(power, decay=0.95, correction=None):
    """An exponential window whose exponent is a function of k - j and k."""

    class Window(Updater):
        needs_counts = True
        orders_rows = True

        def class_weights(self, classes):
            index = tf.range(tf.size(classes.sizes))
            return self.weigh(classes, index, tf.zeros_like(index))[1]  # of a row that is alone

        def weigh(self, classes, index, later):
            sizes = tf.gather(tf.cast(classes.sizes, tf.float64), index)
            seen = tf.gather(tf.cast(classes.seen, tf.float64), index)
            weights = (1 - decay) * decay ** power(tf.cast(later, tf.float64), sizes)
            if correction is not None:
                weights /= 1 - decay ** correction(seen, sizes)
            number = tf.size(classes.sizes)
            return tf.math.unsorted_segment_sum(weights, index, number), weights

    return Window()


class _OneRow(tf_centers.ExponentialWindow):
    def class_weights(self, classes):
        return super().class_weights(classes._replace(sizes=tf.ones_like(classes.sizes)))


WRONG = {
    "cumulative: k forgotten": (_per_class(lambda n, k: 1 / (n + 1)), "cumulative"),
    "cumulative: off by one": (_per_class(lambda n, k: 1 / (n + k + 1)), "cumulative"),
    "cumulative: N forgotten": (_per_class(lambda n, k: 1 / k), "cumulative"),
    "cumulative: sign": (_per_class(lambda n, k: -1 / (n + k)), "cumulative"),
    "window: order reversed": (_window(lambda later, k: k - 1 - later), "default"),
    "window: off by one": (_window(lambda later, k: later + 1), "default"),
    "window: as if one row": (_window(lambda later, k: 0 * later), "default"),
    "window: decay for 1 - decay": (_window(lambda later, k: later, decay=0.05), "default"),
    "window: a class weighs as one row": (_OneRow(), "default"),
    "debiased: a class weighs as one row": (_OneRow(0.9, debias=True), "debiased"),
    "debiased: not at all": (_window(lambda later, k: later, 0.9), "debiased"),
    "debiased: N alone": (
        _window(lambda later, k: later, 0.9, lambda n, k: n + 1),
        "debiased",
    ),
    "debiased: k alone": (_window(lambda later, k: later, 0.9, lambda n, k: k), "debiased"),
    "summed: sequential": (tf_centers.ExponentialWindow(0.99), "summed"),
    "summed: mean": (_per_class(lambda n, k: 0.01 / k), "summed"),
    "wen: k for k + 1": (_per_class(lambda n, k: 0.5 / k), "wen"),
    "wen: not divided": (_per_class(lambda n, k: 0.5 + 0 * k), "wen"),
    "wen: N counted": (_per_class(lambda n, k: 0.5 / (1 + n + k)), "wen"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_formula_is_caught(name, formulation):
    wrong, updater = WRONG[name]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_against_reference(wrong, UPDATERS[updater][1], use_resource=True)


def test_cumulative_mean_by_hand(use_resource, formulation):
    # Class 1 had the rows 1 and 2 (mean 1.5); with 6 and 9 it has the mean 18 / 4.
    centers = make_centers(tf_centers, use_resource, 3, 1)
    embeds = tf.placeholder(tf.float32, [2, 1])
    result = tf_centers.get_embed_centers(embeds, [1, 1], tf_centers.CumulativeMean(), centers)
    with initialized_session() as session:
        assert session.run(result, {embeds: [[1], [2]]}).tolist() == [[1.5], [1.5]]
        assert session.run(result, {embeds: [[6], [9]]}).tolist() == [[4.5], [4.5]]
        assert session.run(centers.counts).tolist() == [0, 4, 0]


def test_debiased_window_by_hand(use_resource, formulation):
    # (0.25 * 2 + 0.5 * 4) / (0.25 + 0.5) = 10 / 3, then (0.125 * 2 + 0.25 * 4 + 0.5 * 10) / 0.875
    centers = make_centers(tf_centers, use_resource, 3, 1)
    embeds, labels = tf.placeholder(tf.float32, [None, 1]), tf.placeholder(tf.int64, [None])
    updater = tf_centers.ExponentialWindow(0.5, debias=True)
    result = tf_centers.get_embed_centers(embeds, labels, updater, centers)
    with initialized_session() as session:
        found = session.run(result, {embeds: [[2], [4]], labels: [1, 1]})
        np.testing.assert_allclose(found, [[10 / 3]] * 2, rtol=1e-6)
        found = session.run(result, {embeds: [[10]], labels: [1]})
        np.testing.assert_allclose(found, [[50 / 7]], rtol=1e-6)


def test_a_center_does_not_drift_from_rows_that_are_all_alike(use_resource, formulation):
    # If w and 1 - w were rounded apart, the window would settle beside the rows.
    centers = make_centers(tf_centers, use_resource, 2, 1, initializer=[[0.7], [0.7]])
    updater = tf_centers.ExponentialWindow(0.999)
    update = tf_centers.update_embed_centers([[0.7]], [1], updater, centers)
    with initialized_session() as session:
        for _ in range(3000):
            session.run(update)
        np.testing.assert_allclose(session.run(centers.ctrs)[1], 0.7, rtol=2e-7)


@pytest.mark.parametrize("updater", [None, tf_centers.CumulativeMean()])
def test_precision_of_many_rows_far_from_zero(updater, use_resource, formulation):
    # 300 batches of 64 rows around 100: a float32 sum of the rows would be off by far more.
    rng = np.random.RandomState(3)
    batches = (100 + rng.randn(300, 64, 3)).astype(np.float32)
    centers = make_centers(tf_centers, use_resource, 4, 3)
    embeds = tf.placeholder(tf.float32, [64, 3])
    update = tf_centers.update_embed_centers(embeds, [2] * 64, updater, centers)
    rule = reference.exponential_window if updater is None else reference.cumulative_mean
    expected = rule(np.zeros(3), 0, batches.reshape(-1, 3).astype(np.float64))
    with initialized_session() as session:
        for batch in batches:
            session.run(update, {embeds: batch})
        np.testing.assert_allclose(session.run(centers.ctrs)[2], expected, rtol=2e-6)


def test_precision_of_a_million_rows(formulation):
    # 1,000 batches of 1,000 rows of one class around 100. One rounding per row instead of one per
    # batch, as scatter_sub makes, is off by 2e-5.
    rng = np.random.RandomState(4)
    centers = tf_centers.create_embed_centers(2, 2)
    embeds = tf.placeholder(tf.float32, [None, 2])
    update = tf_centers.update_embed_centers(
        embeds, tf.ones([1000], tf.int32), tf_centers.CumulativeMean(), centers
    )
    total = np.zeros(2)
    with initialized_session() as session:
        for _ in range(1000):
            batch = (100 + rng.randn(1000, 2)).astype(np.float32)
            total += batch.sum(axis=0, dtype=np.float64)
            session.run(update, {embeds: batch})
        assert session.run(centers.counts).tolist() == [0, 10**6]
        np.testing.assert_allclose(session.run(centers.ctrs)[1], total / 10**6, rtol=3e-6)


@pytest.mark.parametrize(
    "updater", [tf_centers.CumulativeMean(), tf_centers.WenUpdate(1.0), tf_centers.WenUpdate(0.4)]
)
def test_precision_of_one_large_group(updater, use_resource, formulation):
    # Added one by one in float32, 50,000 rows of 0.1 are off by 5e-4.
    centers = make_centers(tf_centers, use_resource, 2, 1)
    embeds = tf.placeholder(tf.float32, [None, 1])
    result = tf_centers.get_embed_centers(embeds, tf.ones([50000], tf.int32), updater, centers)
    expected = 0.1 if updater.needs_counts else updater.alpha * 0.1 * 50000 / 50001
    with initialized_session() as session:
        found = session.run(result, {embeds: np.full([50000, 1], 0.1)})
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("initial", [1e10, -3e38])
def test_the_first_row_is_the_mean_whatever_the_initial_value(initial, use_resource, formulation):
    centers = make_centers(tf_centers, use_resource, 1, 1, initializer=[[initial]])
    result = tf_centers.get_embed_centers([[3.0]], [0], tf_centers.CumulativeMean(), centers)
    with initialized_session() as session:
        assert session.run(result).tolist() == [[3.0]]


@pytest.mark.parametrize("decay", [0.0, 0.95])
def test_finite_rows_never_make_an_infinite_center(decay, use_resource, formulation):
    centers = make_centers(tf_centers, use_resource, 1, 1, initializer=[[-3e38]])
    updater = tf_centers.ExponentialWindow(decay)
    result = tf_centers.get_embed_centers([[3e38]], [0], updater, centers)
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(result), [[3e38 - decay * 6e38]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_centers_are_summed_in_full(dtype, use_resource, formulation):
    # 600 weights of 1 / 600 each, and their products, would be off by percents in half precision.
    centers = make_centers(tf_centers, use_resource, 2, 1, dtype=dtype)
    rows = np.linspace(1.0, 3.0, 600)[:, None]
    result = tf_centers.get_embed_centers(
        tf.constant(rows, tf.float32), [1] * 600, tf_centers.CumulativeMean(), centers
    )
    expected = rows.astype(dtype.as_numpy_dtype).astype(np.float64).mean()
    with initialized_session() as session:
        found = session.run(result).astype(np.float64)
    step = {tf.float16: 2**-9, tf.bfloat16: 2**-6}[dtype]  # to the next value of the dtype
    np.testing.assert_allclose(found, expected, atol=0.6 * step)


@pytest.mark.parametrize("kind", ["placeholder", "variable", "float64"])
def test_rate_as_tensor(kind, use_resource):
    def schedule():
        if kind == "variable":
            return tf.get_variable("rate", initializer=0.25, use_resource=use_resource)
        return tf.constant(0.25, tf.float64 if kind == "float64" else tf.float32)

    centers = make_centers(tf_centers, use_resource, 3, 1, initializer=[[8.0], [8.0], [8.0]])
    rate = schedule()
    if kind == "placeholder":
        rate = tf.placeholder_with_default(rate, [])
    window = tf_centers.get_embed_centers(
        [[4.0]], [1], tf_centers.ExponentialWindow(rate), centers, is_training=True
    )
    with tf.control_dependencies([window]):
        wen = tf_centers.get_embed_centers([[4.0]], [2], tf_centers.WenUpdate(rate), centers)
    with initialized_session() as session:
        found = session.run([window, wen])
    # 0.25 * 8 + 0.75 * 4, and 8 - 0.25 * (8 - 4) / 2
    assert [rows.tolist() for rows in found] == [[[5.0]], [[7.5]]]


def test_decay_keeps_its_digits(formulation):
    # In float32, 1 - 0.9999 is off by 2e-4 of itself.
    centers = tf_centers.create_embed_centers(2, 1)
    result = tf_centers.get_embed_centers(
        [[1.0]], [0], tf_centers.ExponentialWindow(0.9999), centers
    )
    with initialized_session() as session:
        np.testing.assert_allclose(session.run(result), [[1e-4]], rtol=1e-6)


@pytest.mark.parametrize("decay, expected", [(0.0, 9.0), (1.0, 2.0), (0, 9.0), (1, 2.0)])
def test_decay_at_the_ends_of_its_range(decay, expected, formulation):
    centers = tf_centers.create_embed_centers(2, 1, initializer=[[2.0], [2.0]])
    updater = tf_centers.ExponentialWindow(decay)
    result = tf_centers.get_embed_centers([[5.0], [9.0]], [1, 1], updater, centers)
    with initialized_session() as session:
        assert session.run(result).tolist() == [[expected], [expected]]


@pytest.mark.parametrize("rate, window, wen", [(0.0, 9.0, 2.0), (1.0, 2.0, 5.5)])
def test_rate_as_tensor_at_the_ends_of_its_range(rate, window, wen):
    # By a schedule that ends at a bound; 2 + 1 * (9 - 2) / (1 + 1) with an alpha of 1.
    holder = tf.placeholder(tf.float32, [])
    updaters = [tf_centers.ExponentialWindow(holder), tf_centers.WenUpdate(holder)]
    found = []
    for updater in updaters:
        with tf.variable_scope(type(updater).__name__):
            centers = tf_centers.create_embed_centers(2, 1, initializer=[[2.0], [2.0]])
        found.append(tf_centers.get_embed_centers([[9.0]], [1], updater, centers))
    with initialized_session() as session:
        assert session.run(found, {holder: rate}) == [[[window]], [[wen]]]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tf_centers.ExponentialWindow(1.5), r"ExponentialWindow: decay .*\[0, 1\].*1\.5"),
        (lambda: tf_centers.ExponentialWindow(-0.1), r"ExponentialWindow: decay .*\[0, 1\].*-0\.1"),
        (lambda: tf_centers.ExponentialWindow(float("nan")), r"ExponentialWindow: decay .*nan"),
        (lambda: tf_centers.ExponentialWindow("0.9"), r"ExponentialWindow: decay .*'0\.9'"),
        (lambda: tf_centers.ExponentialWindow(None), r"ExponentialWindow: decay .*None"),
        (lambda: tf_centers.ExponentialWindow(True), r"ExponentialWindow: decay .*True"),
        (lambda: tf_centers.ExponentialWindow(1.0, debias=True), r"decay .*\[0, 1\), got 1\.0"),
        (lambda: tf_centers.ExponentialWindow(tf.constant([0.9])), r"decay .*scalar.*\(1,\)"),
        (lambda: tf_centers.ExponentialWindow(tf.constant(1)), r"decay .*scalar float.*int32"),
        (lambda: tf_centers.ExponentialWindow(duplicates="mean"), r"duplicates .*'mean'"),
        (lambda: tf_centers.ExponentialWindow(0.9, "sum"), r"debias must be True or False.*'sum'"),
        (
            lambda: tf_centers.ExponentialWindow(0.9, debias=True, duplicates="sum"),
            r"ExponentialWindow: debias",
        ),
        (lambda: tf_centers.WenUpdate(1.01), r"WenUpdate: alpha .*\[0, 1\], got 1\.01"),
        (lambda: tf_centers.WenUpdate(-1), r"WenUpdate: alpha .*\[0, 1\], got -1"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_repr_tells_the_parameters():
    assert repr(tf_centers.CumulativeMean()) == "CumulativeMean()"
    assert repr(tf_centers.WenUpdate(0.2)) == "WenUpdate(alpha=0.2)"
    assert repr(tf_centers.ExponentialWindow()) == (
        "ExponentialWindow(decay=0.95, debias=False, duplicates='sequential')"
    )
