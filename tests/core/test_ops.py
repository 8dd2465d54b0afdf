"""What get, update and lookup do with centers, whatever the updater."""

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import B, C, D, initialized_session, make_batch, make_centers, make_ctrs

import tf_centers

WINDOW = reference.exponential_window
SHAPES = {
    "static": ([B, D], [B]),
    "static column": ([B, D], [B, 1]),
    "no batch": ([None, D], [None]),
    "embeds static": ([B, D], [None]),
    "labels static": ([None, D], [B]),
    "column": ([None, D], [None, 1]),
    "nothing but rank": ([None, None], [None, None]),
    "nothing": (None, None),
    "labels unknown": ([None, D], None),
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_known_or_not(name, use_resource, control_flow):
    embeds_shape, labels_shape = SHAPES[name]
    make_ctrs(use_resource)
    embeds = tf.placeholder(tf.float32, embeds_shape)
    labels = tf.placeholder(tf.int64, labels_shape)
    result = tf_centers.get_embed_centers(embeds, labels)
    found = tf_centers.lookup_embed_centers(labels)
    nearest = tf_centers.nearest_centers(embeds, k=2)
    loss = tf_centers.center_loss(embeds, result)
    known = B if B in (embeds_shape or [])[:1] + (labels_shape or [])[:1] else None
    assert result.shape.as_list() == [known, D]
    assert found.shape.as_list() == [(labels_shape or [None])[0], D]
    batch, batch_labels = make_batch(0)
    column = labels_shape is None or len(labels_shape) == 2
    feed = {embeds: batch, labels: batch_labels[:, None] if column else batch_labels}
    expected, _ = reference.apply(WINDOW, np.zeros([C, D]), np.zeros(C), batch, batch_labels)
    expected_loss = 0.5 * ((batch - expected[batch_labels]) ** 2).sum(axis=1)
    with initialized_session() as session:
        rows, losses = session.run([result, loss], feed)
        np.testing.assert_allclose(rows, expected[batch_labels], atol=1e-6)
        np.testing.assert_allclose(losses, expected_loss, rtol=1e-5)
        np.testing.assert_array_equal(session.run(found, feed), rows)
        assert session.run(nearest.labels, feed).shape == (B, 2)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "uint32", "int32", "int64", "uint64"]
)
def test_label_dtypes(dtype, use_resource):
    make_ctrs(use_resource)
    embeds, labels = tf.placeholder(tf.float32), tf.placeholder(dtype)
    results = [
        tf_centers.get_embed_centers(embeds, labels),
        tf_centers.get_embed_centers(embeds, labels, is_training=False),
        tf_centers.lookup_embed_centers(labels),
    ]
    batch, batch_labels = make_batch(1)
    expected, _ = reference.apply(WINDOW, np.zeros([C, D]), np.zeros(C), batch, batch_labels)
    with initialized_session() as session:
        for result in results:
            rows = session.run(result, {embeds: batch, labels: batch_labels.astype(dtype)})
            np.testing.assert_allclose(rows, expected[batch_labels], atol=1e-6)


def _ancestors(op):
    found, open_ops = set(), [op]
    while open_ops:
        op = open_ops.pop()
        for before in [tensor.op for tensor in op.inputs] + list(op.control_inputs):
            if before not in found:
                found.add(before)
                open_ops.append(before)
    return found


def _reads(variable, ops):
    """The gathers that read a variable itself."""
    values = {variable.op} | {op for op in ops if "Read" in op.name or op.name.endswith("read")}
    return [op for op in ops if "Gather" in op.type and op.inputs[0].op in values]


def test_nothing_is_written_before_the_rows_of_before_are_read(use_resource):
    # A session would seldom show it: the read is ready long before the writes are.
    ctrs = make_ctrs(use_resource)
    embeds = tf.placeholder(tf.float32, [4, D])
    tf_centers.get_embed_centers(embeds, [1, 2, 2, 3], read="before")
    ops = tf.get_default_graph().get_operations()
    writes = [op for op in ops if "Scatter" in op.type]
    reads = _reads(ctrs, ops)
    assert writes and reads
    for write in writes:
        assert set(reads) <= _ancestors(write)


@pytest.mark.parametrize(
    "updater", [tf_centers.CumulativeMean(), tf_centers.ExponentialWindow(0.9, debias=True)]
)
def test_rows_are_counted_after_the_count_is_read(updater, use_resource):
    centers = make_centers(tf_centers, use_resource)
    update = tf_centers.update_embed_centers(
        tf.placeholder(tf.float32, [4, D]), [1, 2, 2, 3], updater, centers
    )
    needed = _ancestors(update)
    (add,) = [op for op in needed if "Scatter" in op.type and "Add" in op.type]
    (read,) = [
        op
        for op in needed
        if op.type in ("ResourceGather", "GatherV2", "ReadVariableOp")
        and op.outputs[0].dtype == tf.int64
        and centers.counts.op in _ancestors(op)
        and not any(
            before.outputs and before.outputs[0].dtype == tf.int64 and "Gather" in before.type
            for before in _ancestors(op)
        )
    ]
    assert read in _ancestors(add)


@pytest.mark.parametrize("read", ["after", "before"])
@pytest.mark.parametrize("training", ["True", "tensor"])
@pytest.mark.parametrize("masked", [False, True])
def test_read_after_and_before(read, training, masked, use_resource, control_flow):
    initial = np.arange(C * D).reshape(C, D) / 10.0
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    embeds = tf.placeholder(tf.float32, [None, D])
    labels = tf.placeholder(tf.int32, [None])
    mask = tf.placeholder(tf.bool, [None]) if masked else None
    switch = True if training == "True" else tf.placeholder_with_default(True, [])
    result = tf_centers.get_embed_centers(
        embeds, labels, tf_centers.CumulativeMean(), centers, mask, switch, read
    )
    ctrs, counts = initial, np.zeros(C, int)
    with initialized_session() as session:
        for step in range(3):
            batch, batch_labels = make_batch(step)
            keep = np.random.RandomState(step).rand(B) < 0.6 if masked else np.ones(B, bool)
            old = ctrs
            ctrs, counts = reference.apply(
                reference.cumulative_mean, ctrs, counts, batch, batch_labels, keep
            )
            feed = {embeds: batch, labels: np.where(keep, batch_labels, -1)}
            if masked:
                feed[mask] = keep
            rows = session.run(result, feed)
            looked_up = (ctrs if read == "after" else old)[batch_labels]
            expected = np.where(keep[:, None], looked_up, batch)
            np.testing.assert_allclose(rows, expected, atol=1e-5)
            # Nothing but the rows was fetched, and the update has been applied all the same.
            found = session.run(list(centers))
            np.testing.assert_allclose(found[0], ctrs, atol=1e-5)
            np.testing.assert_array_equal(found[1], counts)


@pytest.mark.parametrize("training", ["False", "tensor"])
@pytest.mark.parametrize("read", ["after", "before"])
def test_not_training_is_a_lookup(training, read, use_resource, control_flow):
    initial = np.arange(C * D).reshape(C, D)
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    embeds = tf.placeholder(tf.float32, [None, D])
    switch = False if training == "False" else tf.placeholder(tf.bool, [])
    labels = [3, 0, 3]
    mask = [True, True, False]
    updater = tf_centers.CumulativeMean()
    result = tf_centers.get_embed_centers(embeds, labels, updater, centers, mask, switch, read=read)
    with initialized_session() as session:
        # Not even a NaN matters to a lookup, and the masked row keeps its own embedding.
        feed = {embeds: [[np.nan] * D, [1.0] * D, [7.5] * D]}
        if training == "tensor":
            feed[switch] = False
        rows = session.run(result, feed)
        np.testing.assert_array_equal(rows, [initial[3], initial[0], [7.5] * D])
        ctrs, counts = session.run(list(centers))
        np.testing.assert_array_equal(ctrs, initial)
        assert not counts.any()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("ctrs_dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_dtypes(dtype, ctrs_dtype, use_resource):
    ctrs = make_ctrs(use_resource, dtype=ctrs_dtype)
    embeds = tf.placeholder(dtype, [None, D])
    labels = tf.placeholder(tf.int32, [None])
    updater = tf_centers.CumulativeMean()
    mask = tf.placeholder_with_default(np.array([True] * (B - 1) + [False]), [None])
    switch = tf.placeholder_with_default(True, [])
    result = tf_centers.get_embed_centers(embeds, labels, updater, ctrs, mask, switch)
    loss = tf_centers.center_loss(embeds, result)
    distances = tf_centers.nearest_centers(embeds, ctrs).distances
    assert result.dtype == ctrs_dtype and distances.dtype == ctrs_dtype
    batch, batch_labels = make_batch(4)
    batch = np.round(batch * 8) / 8  # exact in every dtype
    expected, _ = reference.apply(
        reference.cumulative_mean, np.zeros([C, D]), np.zeros(C), batch[:-1], batch_labels[:-1]
    )
    tolerance = {tf.float16: 4e-3, tf.bfloat16: 4e-2, tf.float32: 1e-6, tf.float64: 1e-13}
    with initialized_session() as session:
        feed = {embeds: batch.astype(dtype.as_numpy_dtype), labels: batch_labels}
        rows, found_loss = session.run([result, loss], feed)
        rows = rows.astype(np.float64)  # NumPy has no bfloat16 of its own
        np.testing.assert_allclose(
            rows[:-1], expected[batch_labels[:-1]], atol=tolerance[ctrs_dtype]
        )
        np.testing.assert_array_equal(rows[-1], batch[-1])
        assert float(found_loss[-1]) == 0.0


def test_half_precision_network_gets_full_precision_centers(use_resource):
    # In float16 the window stalls at 0.995 of the way.
    ctrs = make_ctrs(use_resource)
    embeds = tf.ones([4, D], tf.float16)
    update = tf_centers.update_embed_centers(embeds, [1, 1, 1, 1], centers=ctrs)
    with initialized_session() as session:
        for _ in range(100):
            session.run(update)
        np.testing.assert_allclose(session.run(ctrs)[1], 1.0, atol=1e-6)


@pytest.mark.parametrize("empty", ["no rows", "all masked"])
@pytest.mark.parametrize("training", ["True", "False", "tensor"])
def test_empty_batch(empty, training, use_resource):
    initial = np.arange(C * D).reshape(C, D) / 7.0
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    rows = 0 if empty == "no rows" else 3
    embeds = tf.placeholder(tf.float32, [None, D])
    labels = tf.placeholder(tf.int32, [None])
    mask = tf.zeros([rows], tf.bool) if rows else None
    switch = {"True": True, "False": False, "tensor": tf.placeholder_with_default(True, [])}
    updaters = [
        tf_centers.CumulativeMean(),
        tf_centers.ExponentialWindow(),
        tf_centers.ExponentialWindow(debias=True),
        tf_centers.ExponentialWindow(duplicates="sum"),
        tf_centers.WenUpdate(),
    ]
    results = [
        tf_centers.get_embed_centers(embeds, labels, updater, centers, mask, switch[training])
        for updater in updaters
    ]
    losses = [tf_centers.center_loss(embeds, result) for result in results]
    batch = np.full([rows, D], np.nan)
    feed = {embeds: batch, labels: [-1] * rows}
    with initialized_session() as session:
        for result, loss in zip(results, losses):
            np.testing.assert_array_equal(session.run(result, feed), batch)
            assert session.run(loss, feed).shape == (rows,)
        ctrs, counts = session.run(list(centers))
        np.testing.assert_array_equal(ctrs, initial.astype(np.float32))
        assert not counts.any()


def test_empty_lookup_and_nearest(use_resource):
    make_ctrs(use_resource)
    labels, embeds = tf.placeholder(tf.int64), tf.placeholder(tf.float32)
    rows = tf_centers.lookup_embed_centers(labels)
    nearest = tf_centers.nearest_centers(embeds, k=2)
    with initialized_session() as session:
        assert session.run(rows, {labels: []}).shape == (0, D)
        found = session.run(nearest, {embeds: np.zeros([0, D])})
        assert found.labels.shape == found.distances.shape == (0, 2)


def test_no_gradient_but_to_the_embeddings(use_resource):
    ctrs = make_ctrs(use_resource, initial=np.ones([C, D]))
    embeds = tf.constant(make_batch(5)[0], tf.float32)
    labels = tf.constant(make_batch(5)[1])
    mask = tf.constant([False] + [True] * (B - 1))
    rows = tf_centers.get_embed_centers(embeds, labels, None, ctrs, mask)
    looked_up = tf_centers.lookup_embed_centers(labels, ctrs)
    distances = tf_centers.nearest_centers(embeds, ctrs).distances
    loss = tf_centers.center_loss(embeds, rows)
    assert tf.gradients(rows, [embeds, ctrs]) == [None, None]
    assert tf.gradients(looked_up, [ctrs]) == [None]
    assert tf.gradients(distances, [embeds, ctrs]) == [None, None]
    assert tf.gradients(loss, [ctrs, rows]) == [None, None]
    gradient = tf.gradients(loss, [embeds])[0]
    with initialized_session() as session:
        found, x, c = session.run([gradient, embeds, rows])
        np.testing.assert_allclose(found, x - c, rtol=1e-6)
        assert not found[0].any() and found[1:].all()


def test_update_returns_an_op_that_does_it(use_resource):
    centers = make_centers(tf_centers, use_resource)
    batch, labels = make_batch(6)
    keep = np.arange(B) % 3 > 0
    update = tf_centers.update_embed_centers(
        batch, labels, tf_centers.WenUpdate(), centers, mask=keep
    )
    assert isinstance(update, tf.Operation)
    ctrs, counts = np.zeros([C, D]), np.zeros(C, int)
    with initialized_session() as session:
        for _ in range(2):
            assert session.run(update) is None
            ctrs, counts = reference.apply(reference.wen_update, ctrs, counts, batch, labels, keep)
        found = session.run(list(centers))
        np.testing.assert_allclose(found[0], ctrs, atol=1e-6)
        np.testing.assert_array_equal(found[1], counts)


def test_rows_of_absent_classes_keep_their_bits(use_resource):
    initial = np.random.RandomState(8).randn(C, D).astype(np.float32)
    initial[2] = [np.nan, np.inf, -0.0, 1e-42, 3.0]
    centers = make_centers(tf_centers, use_resource, initializer=initial)
    batch, labels = make_batch(7, absent=(2, 4))
    updates = [
        tf_centers.update_embed_centers(batch, labels, updater, centers)
        for updater in (None, tf_centers.CumulativeMean(), tf_centers.WenUpdate())
    ]
    with initialized_session() as session:
        before = session.run(centers.ctrs)
        for update in updates:
            session.run(update)
        after = session.run(centers.ctrs)
    for label in (2, 4):
        assert after[label].tobytes() == before[label].tobytes()
    assert np.isfinite(after[[0, 1, 3, 5, 6]]).all()


def test_two_calls_keep_one_count(use_resource):
    # The mean of the first call makes the counts, and the window of the second keeps them.
    ctrs = make_ctrs(use_resource)
    first = tf_centers.update_embed_centers([[1.0] * D], [3], tf_centers.CumulativeMean())
    with tf.control_dependencies([first]):
        second = tf_centers.get_embed_centers([[4.0] * D], [3])
    (counts,) = [v for v in tf.global_variables() if v is not ctrs]
    with initialized_session() as session:
        # The mean of 1.0 alone, then 0.95 * 1 + 0.05 * 4
        np.testing.assert_allclose(session.run(second), [[1.15] * D], rtol=1e-6)
        assert session.run(counts).tolist() == [0, 0, 0, 2, 0, 0, 0]


def test_validate_args_false_drops_the_run_time_checks(use_resource):
    make_ctrs(use_resource)
    embeds, labels = tf.placeholder(tf.float32), tf.placeholder(tf.int32)
    rate = tf.placeholder_with_default(0.95, [])
    for updater in (tf_centers.ExponentialWindow(rate), tf_centers.WenUpdate(rate)):
        for mask in (None, tf.placeholder(tf.bool)):
            tf_centers.get_embed_centers(embeds, labels, updater, mask=mask, validate_args=False)
    checks = [op for op in tf.get_default_graph().get_operations() if "Check" in op.type]
    checks += [op for op in tf.get_default_graph().get_operations() if op.type == "Assert"]
    assert not checks
    result = tf_centers.get_embed_centers(embeds, labels, validate_args=False)
    with initialized_session() as session:
        rows = session.run(result, {embeds: [[np.nan] * D], labels: [1]})
        assert np.isnan(rows).all()


def test_order_of_labels_does_not_matter_for_other_classes(use_resource):
    # Two classes interleaved in every way give what each gives alone.
    centers = make_centers(tf_centers, use_resource, 3, 1)
    embeds, labels = tf.placeholder(tf.float32, [4, 1]), tf.placeholder(tf.int32, [4])
    result = tf_centers.get_embed_centers(
        embeds, labels, tf_centers.ExponentialWindow(0.5), centers, is_training=True
    )
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [2, 0, 3, 1], [2, 3, 0, 1]):
        batch = np.array([[2.0], [4.0], [10.0], [20.0]])[order]
        batch_labels = np.array([0, 0, 2, 2])[order]
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            session.run(result, {embeds: batch, labels: batch_labels})
            # 0.5 * (0.5 * 0 + 0.5 * 2) + 0.5 * 4, and 0.5 * 5 + 0.5 * 20
            assert session.run(centers.ctrs).tolist() == [[2.5], [0.0], [12.5]]


def test_defaults_are_the_window_and_the_scope_embed(use_resource):
    make_ctrs(use_resource)
    batch, labels = make_batch(9)
    one = tf_centers.get_embed_centers(tf.constant(batch, tf.float32), labels, read="before")
    ctrs, _ = reference.apply(WINDOW, np.zeros([C, D]), np.zeros(C), batch, labels)
    with initialized_session() as session:
        assert not session.run(one).any()
        found = session.run(tf.global_variables()[0])
    np.testing.assert_allclose(found, ctrs, atol=1e-6)
