"""docs/beyond_means.md: each block against the published rule in NumPy, and digits."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from beyond_means_digits import FOUND, train_codebook, unknown_found
from helpers import C, D, check_refused, initialized_session, make_batch, make_centers

import tf_centers

MEAN, FADES = tf_centers.CumulativeMean(), {"count_dtype": tf.float64}
INITIAL = np.random.RandomState(8).randn(C, D)
BATCHES = [make_batch(seed) for seed in range(3)]


def table(rows=C, dims=D, scope="embed", **how):
    return make_centers(tf_centers, True, rows, dims, scope=scope, dtype=tf.float64, **how)


def holders():
    return tf.placeholder(tf.float64, [None, D]), tf.placeholder(tf.int64, [None])


def run_all(fetch, batch, *state):
    """What each batch returns, and the state in the end."""
    with initialized_session() as session:
        found = [session.run(fetch, dict(zip(batch, values))) for values in BATCHES]
        return found, session.run(list(state))


def near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_codebook():
    codes = table(initializer=INITIAL, initial_counts=1, **FADES)
    embeds = tf.placeholder(tf.float64, [None, D])
    passed, loss, labels = FOUND["quantize"](embeds, codes, 0.9)
    gradient = tf.gradients(tf.reduce_sum(3.0 * passed), embeds)[0]
    ctrs, sizes = INITIAL, np.ones(C)
    with initialized_session() as session:
        for rows, _ in BATCHES:
            found = session.run([passed, loss, labels, gradient], {embeds: rows})
            squares = ((rows[:, None] - ctrs) ** 2).sum(axis=2)
            own = squares.argmin(axis=1)
            for value, expected in zip(found, (ctrs[own], squares.min(axis=1) / 2, own, 3.0)):
                near(value, expected * np.ones_like(value))
            sums, sizes = 0.9 * sizes[:, None] * ctrs, 0.9 * sizes
            np.add.at(sums, own, rows)
            np.add.at(sizes, own, 1)
            ctrs = sums / sizes[:, None]
        near(session.run(codes.ctrs), ctrs)


@pytest.mark.parametrize("size, restarted", [(2, [1, 3]), (9, [1, 3, 4, 5])])
def test_restart_of_unused_codes(size, restarted):
    codes = table(initializer=INITIAL, initial_counts=[3, 0, 2, 0, 0, 0, 1], **FADES)
    rows = 100.0 + np.arange(size * D).reshape(size, D)
    step = FOUND["restart_unused"](tf.constant(rows), codes)
    with initialized_session() as session:
        session.run(step)
        ctrs, counts = session.run(list(codes))
    moved = (ctrs != INITIAL).any(axis=1)
    assert moved.nonzero()[0].tolist() == restarted and (counts[restarted] == 1).all()
    taken = {row[0] for row in ctrs[restarted]}
    assert taken <= set(rows[:, 0]) and len(taken) == len(restarted)


def test_k_means():
    centers, batch = table(initializer=INITIAL, initial_counts=1), holders()
    update = FOUND["cluster"](batch[0], centers)
    ctrs, sizes = INITIAL.copy(), np.ones(C)
    for rows, _ in BATCHES:
        own = ((rows[:, None] - ctrs) ** 2).sum(axis=2).argmin(axis=1)
        for row, label in zip(rows, own):  # as in the paper, at a rate of 1 / N a row
            sizes[label] += 1
            ctrs[label] += (row - ctrs[label]) / sizes[label]
    near(run_all(update, batch, centers.ctrs)[1][0], ctrs)


@pytest.mark.parametrize("kind", ["variances", "covariances", "tied", "fading"])
def test_variance_and_covariance(kind):
    (embeds, labels), updater = holders(), MEAN if kind != "fading" else tf_centers.FadingMean(0.5)
    how = FADES if kind == "fading" else {}
    means, shape = table(**how), {"variances": [C, D], "tied": [1, D * D]}.get(kind, [C, D * D])
    second = table(*shape, scope="second", **how)
    name = "update_variances" if kind == "variances" else "update_covariances"
    more = {"tied": True} if kind == "tied" else {}
    update = FOUND[name](embeds, labels, means, second, updater, **more)
    _, (ctrs, found) = run_all(update, (embeds, labels), means.ctrs, second.ctrs)
    rows, own = (np.concatenate(column) for column in zip(*BATCHES))
    weigh = np.repeat([0.25, 0.5, 1.0] if kind == "fading" else [1.0] * 3, len(rows) // 3)
    within = np.zeros([D, D])
    for label in set(own):
        w = weigh * (own == label)
        centered = rows - (w[:, None] * rows).sum(axis=0) / w.sum()
        near(ctrs[label], (rows - centered)[0])
        scatter = (w[:, None] * centered).T @ centered
        within += scatter
        if kind != "tied":
            one = scatter / w.sum()
            near(found[label], np.diag(one) if kind == "variances" else one.ravel())
    if kind == "tied":
        near(found[0], within.ravel() / len(rows))


def test_mahalanobis():
    rng = np.random.RandomState(0)
    root = rng.randn(D, D)
    means = table(initializer=INITIAL)
    tied = table(1, D * D, scope="tied", initializer=(root @ root.T).reshape(1, -1))
    rows = rng.randn(4, D)
    score = FOUND["mahalanobis"](tf.constant(rows), means, tied, C, ridge=0.1)
    inverse = np.linalg.inv(root @ root.T + 0.1 * np.eye(D))
    pairs = rows[:, None] - INITIAL
    with initialized_session() as session:
        near(session.run(score), np.einsum("bcd,de,bce->bc", pairs, inverse, pairs))


def test_prototypes():
    prototypes, (embeds, labels) = FOUND["create_prototypes"](C, D), holders()
    rows = FOUND["update_prototypes"](embeds, labels, prototypes, 0.9)
    ctrs = np.zeros([C, D])
    for batch, own in BATCHES:
        for row, label in zip(batch, own):
            ctrs[label] = 0.9 * ctrs[label] + 0.1 * row / np.linalg.norm(row)
        for label in set(own):
            ctrs[label] /= np.linalg.norm(ctrs[label])
    found, state = run_all(rows, (embeds, labels), prototypes.ctrs)
    np.testing.assert_allclose(state[0], ctrs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[-1], ctrs[BATCHES[-1][1]], rtol=0, atol=1e-6)


def test_profiles():
    centers, batch = table(initializer=INITIAL), holders()
    update = tf_centers.update_embed_centers(*batch, FOUND["MeanOfAtMost"](3), centers)
    ctrs, seen = INITIAL.copy(), np.zeros(C)
    for rows, own in BATCHES:
        for label in set(own):
            same = rows[own == label]
            weigh = max(min(seen[label] + len(same), 3), len(same))
            ctrs[label] += (same - ctrs[label]).sum(axis=0) / weigh
            seen[label] += len(same)
    near(run_all(update, batch, centers.ctrs)[1][0], ctrs)


def test_names(tmp_path):
    path = str(tmp_path / "model")

    def build():
        names, centers = FOUND["create_names"](), table(4)
        given, probe = tf.placeholder(tf.string, [None]), tf.placeholder(tf.string, [None])
        labels = FOUND["number_names"](given, names, 4)
        update = tf_centers.update_embed_centers(tf.ones([tf.size(labels), D]), labels, MEAN)
        return given, update, probe, names.lookup(probe), centers, tf.train.Saver()

    given, update, probe, known, _, saver = build()
    with initialized_session() as session:
        for batch in (["b", "a", "b"], ["c"], []):
            session.run(update, {given: batch})
        check_refused(session, update, {given: ["d", "a", "e"]}, "too many names")
        assert session.run(known, {probe: ["d", "e"]}).tolist() == [-1, -1]
        saver.save(session, path)
    with tf.Graph().as_default():
        _, _, probe, known, centers, saver = build()
        with initialized_session() as session:
            saver.restore(session, path)
            assert session.run(known, {probe: ["a", "b", "c", "?"]}).tolist() == [1, 0, 2, -1]
            assert session.run(centers.counts).tolist() == [2, 1, 1, 0]


def test_weights():
    (embeds, labels), weights = holders(), np.linspace(0.1, 3.0, len(BATCHES[0][0]))
    centers = table(C, D + 1)
    means = FOUND["weighted_means"](embeds, tf.constant(weights), labels, MEAN, centers)
    found, _ = run_all(means, (embeds, labels))
    rows, own = (np.concatenate(column) for column in zip(*BATCHES))
    expected = {n: np.average(rows[own == n], 0, np.tile(weights, 3)[own == n]) for n in set(own)}
    near(found[-1], [expected[label] for label in BATCHES[-1][1]])


def test_leave_one_out():
    batch, labels = BATCHES[0][0], np.arange(len(BATCHES[0][0])) % 4
    holder, centers = tf.placeholder(tf.float64, [None, D]), table(**FADES)
    rows = FOUND["leave_one_out"](holder, tf.constant(labels), centers)
    gradient = tf.gradients(rows[0, 0], holder)[0]
    others = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    with initialized_session() as session:
        for _ in range(2):  # which the table does not remember
            found, slope = session.run([rows, gradient], {holder: batch})
            near(found, [batch[own].mean(axis=0) for own in others])
            near(slope[:, 0], others[0] / others[0].sum())


def test_memory():
    memory, classes = table(5), table(5, 1, scope="labels")
    batch, step = holders(), tf.placeholder(tf.int64, [])
    update = FOUND["remember"](*batch, memory, classes, step)
    with initialized_session() as session:
        for number in range(4):
            labels = 10 * number + np.arange(3)
            rows = np.repeat(labels[:, None] / 10, D, axis=1)
            session.run(update, {batch[0]: rows, batch[1]: labels, step: number})
        # Twelve rows went round a ring of five.
        ring = np.array([31, 32, 21, 22, 30])
        near(session.run(memory.ctrs), np.repeat(ring[:, None] / 10, D, axis=1))
        near(session.run(classes.ctrs)[:, 0], ring)


def test_thresholds():
    average = table(1, C + 1, initializer=np.full([1, C + 1], 1 / C))
    holder = tf.placeholder(tf.float64, [None, C])
    found = FOUND["adaptive_thresholds"](holder, average, 0.9)
    p, confidence = np.full(C, 1 / C), 1 / C
    with initialized_session() as session:
        for seed in range(3):
            q = np.random.RandomState(seed).dirichlet(np.arange(1, C + 1), 6)
            confidence = 0.9 * confidence + 0.1 * q.max(axis=1).mean()
            p = 0.9 * p + 0.1 * q.mean(axis=0)
            near(session.run(found, {holder: q}), p / p.max() * confidence)


# What they do to digits.


def test_restarts_let_all_codes_be_used():
    (used, lost, _), (all_used, less_lost, _) = (train_codebook(0, how) for how in (False, True))
    assert used < 0.85 < 0.95 < all_used
    assert less_lost < lost - 0.02


def test_the_mahalanobis_distance_tells_unknown_digits():
    mahalanobis, euclidean = unknown_found()
    assert mahalanobis > 0.84 > 0.8 > euclidean > 0.7
