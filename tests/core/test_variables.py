"""State: what is made where, how it is found, and what a checkpoint holds."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from helpers import MEAN, C, D, initialized_session, make_centers, make_ctrs, parts, read_state

import tf_centers


def _variables():
    return {v.name: v.shape.as_list() for v in tf.global_variables()}


def _update(centers="embed", updater=MEAN, label=1):
    return tf_centers.update_embed_centers([[1.0] * D], [label], updater, centers)


@pytest.mark.parametrize("dtype", [None, tf.bfloat16, "float64", np.float16])
def test_create_makes_both_variables(dtype, use_resource, session):
    centers = make_centers(tf_centers, use_resource, **({"dtype": dtype} if dtype else {}))
    assert _variables() == {"embed/ctrs:0": [C, D], "embed/ctrs_count:0": [C]}
    assert centers.ctrs.dtype.base_dtype == tf.as_dtype(dtype or tf.float32)
    assert centers.counts.dtype.base_dtype == tf.int64
    assert tf.trainable_variables() == []
    assert [v.dtype == v.dtype.base_dtype for v in centers] == [use_resource] * 2
    assert not session.run(centers.ctrs).astype(np.float32).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: [[3.0] * D] * C,
        lambda: tf.constant_initializer(3.0),
        lambda: tf.fill([C, D], tf.constant(3.0, tf.float64)),
        lambda: lambda shape, dtype, partition_info=None: tf.fill(shape, tf.cast(3, dtype)),
    ],
    ids=["list", "initializer", "float64 tensor", "function"],
)
def test_create_initializer(make, use_resource, session):
    centers = make_centers(tf_centers, use_resource, initializer=make())
    assert centers.ctrs.dtype.base_dtype == tf.float32
    np.testing.assert_array_equal(session.run(centers.ctrs), np.full([C, D], 3.0))


@pytest.mark.parametrize(
    "given, expected, shards",
    [(0, [0] * C, None), (np.int32(4), [4] * C, 3), (range(C), list(range(C)), 3)],
)
def test_initial_counts(given, expected, shards, use_resource, session):
    initial = np.arange(C * D, dtype=np.float32).reshape([C, D])
    how = {"initializer": initial, "initial_counts": given}
    centers = make_centers(tf_centers, use_resource, shards=shards, **how)
    nearest = tf_centers.nearest_centers(initial).labels
    update = tf_centers.update_embed_centers([[1000.0] * D], [C - 1], MEAN)
    rows = tf_centers.lookup_embed_centers([C - 1])
    assert read_state(session, centers)[1].tolist() == expected
    # A class counts as seen from 1 on, and a new row weighs as one among N + 1.
    labels = session.run(nearest)[:, 0]
    assert [label for label in range(C) if labels[label] == label] == np.flatnonzero(
        expected
    ).tolist()
    session.run(update)
    row = initial[-1] + (1000.0 - initial[-1]) / (expected[-1] + 1)
    np.testing.assert_allclose(session.run(rows)[0], row, rtol=1e-5)


def test_create_in_scopes(use_resource):
    with tf.variable_scope("model"), tf.name_scope("tower"):
        centers = make_centers(tf_centers, use_resource, scope="people")
        _update("people")
    _update("model/people")
    with tf.variable_scope("other"):
        _update("model/people")
    root = make_centers(tf_centers, use_resource, scope="")
    _update("")
    assert centers.ctrs.name == "model/people/ctrs:0" and root.ctrs.name == "ctrs:0"
    assert set(_variables()) == {
        scope + name for scope in ("", "model/people/") for name in ("ctrs:0", "ctrs_count:0")
    }


@pytest.mark.parametrize("shards", [None, 3])
def test_create_twice_is_refused_unless_the_scope_reuses(shards, use_resource):
    centers = make_centers(tf_centers, use_resource, shards=shards)
    with pytest.raises(ValueError, match="^create_embed_centers: .*embed/ctrs already exists"):
        make_centers(tf_centers, use_resource, shards=shards)
    legacy = make_ctrs(use_resource, scope="legacy")
    with tf.variable_scope("", reuse=True):
        taken = make_centers(tf_centers, use_resource, scope="legacy")
    assert taken.ctrs is legacy and taken.counts.name == "legacy/ctrs_count:0"
    before = _variables()
    for reuse in (True, tf.AUTO_REUSE):
        with tf.variable_scope("", reuse=reuse):
            again = make_centers(tf_centers, use_resource, shards=shards)
            for first, second in zip(centers, again):
                assert [id(v) for v in parts(first)] == [id(v) for v in parts(second)]
            with pytest.raises(ValueError, match=r"^create_embed_centers: .*shape \[7, 6\]"):
                make_centers(tf_centers, use_resource, num_dims=D + 1, shards=shards)
            with pytest.raises(ValueError, match="expected embed/ctrs with a constraint"):
                make_centers(tf_centers, use_resource, shards=shards, constraint=tf.identity)
            with pytest.raises(ValueError, match="counts of embed/ctrs of float64, found int64"):
                make_centers(tf_centers, use_resource, shards=shards, count_dtype=tf.float64)
    assert _variables() == before


@pytest.mark.parametrize("shards", [None, 2])
def test_relative_scope_comes_first(shards, use_resource, session):
    make_ctrs(use_resource)
    with tf.variable_scope("tower"):
        inner = make_centers(tf_centers, use_resource, shards=shards, initializer=np.ones([C, D]))
        rows = tf_centers.lookup_embed_centers([0])
        _update()
    assert all(v.name.startswith("tower/embed/ctrs") for v in parts(inner.ctrs))
    assert "embed/ctrs_count:0" not in _variables()
    assert session.run(rows).all()


@pytest.mark.parametrize("dtype, reuse", [(tf.float32, False), (tf.bfloat16, True)])
def test_count_is_made_on_demand(dtype, reuse, use_resource):
    ctrs = make_ctrs(use_resource, dtype=dtype)
    _update(updater=None)
    _update(updater=tf_centers.WenUpdate())
    tf_centers.get_embed_centers([[1.0] * D], [1], MEAN, is_training=False)
    assert len(_variables()) == 1
    with tf.variable_scope("", reuse=reuse), tf.name_scope("deep/inside"), tf.device("/cpu:0"):
        _update(updater=tf_centers.ExponentialWindow(debias=True))
        _update(updater=MEAN)
    assert _variables() == {"embed/ctrs:0": [C, D], "embed/ctrs_count:0": [C]}
    (counts,) = [v for v in tf.global_variables() if v is not ctrs]
    assert counts.dtype.base_dtype == tf.int64 and counts not in tf.trainable_variables()
    assert (counts.dtype == tf.int64) == use_resource


def test_count_of_a_variable_made_anyhow(use_resource, session):
    ctrs = tf.Variable(tf.zeros([C, D]), name="table", use_resource=use_resource)
    counts = tf.get_variable("mine", initializer=np.zeros([C], int), use_resource=use_resource)
    own = _update(tf_centers.EmbedCenters(ctrs, counts), None)
    assert _variables() == {"table:0": [C, D], "mine:0": [C]}
    _update(ctrs)
    _update(tf_centers.EmbedCenters(ctrs))
    assert _variables() == {"table:0": [C, D], "mine:0": [C], "table_count:0": [C]}
    session.run(own)
    assert session.run(counts).tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_the_scope_of_a_call_does_not_touch_the_count(use_resource):
    make_ctrs(use_resource)

    def refuse(getter, name, *args, **kwargs):
        raise AssertionError(f"{name} asked for")

    with tf.variable_scope("elsewhere", custom_getter=refuse, regularizer=tf.nn.l2_loss):
        _update()
    assert sorted(_variables()) == ["embed/ctrs:0", "embed/ctrs_count:0"]
    with tf.variable_scope("", regularizer=tf.nn.l2_loss):
        make_centers(tf_centers, use_resource, scope="other")
    assert not tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)


@pytest.mark.parametrize("shards, import_scope", [(None, None), (1, None), (3, None), (3, "copy")])
def test_imported_graph(shards, import_scope, use_resource, tmp_path):
    """With an update that locks, behind a switch."""
    path, training = str(tmp_path / "graph"), tf.placeholder_with_default(False, [])
    with tf.variable_scope("model"):
        make_centers(tf_centers, use_resource, shards=shards)
        how = {"is_training": training, "use_locking": True}
        step = tf_centers.get_embed_centers([[5.0] * D], [C - 1], MEAN, **how)
    step, training = (f"{import_scope or ''}/{one.name}".lstrip("/") for one in (step, training))
    tf.train.export_meta_graph(path)
    with tf.Graph().as_default():
        tf.train.import_meta_graph(path, import_scope=import_scope)
        before = _variables()
        with tf.variable_scope("copy/model" if import_scope else "model"):
            update = tf_centers.update_embed_centers([[1.0] * D, [3.0] * D], [1, C - 1], MEAN)
            rows = tf_centers.lookup_embed_centers([C - 1, 0, 1])
            nearest = tf_centers.nearest_centers([[2.9] * D]).labels
            if not import_scope:  # Or the scope of the variables would be that of the import.
                with tf.variable_scope(tf.get_variable_scope(), reuse=True):
                    again = tf_centers.create_embed_centers(C, D)
                tf_centers.lookup_embed_centers([0], again)
        assert _variables() == before
        with initialized_session() as session:
            session.run(update)
            found, labels = session.run([rows, nearest])
            np.testing.assert_array_equal(found[:, 0], [3.0, 0.0, 1.0])
            assert labels.tolist() == [[C - 1]]
            for value, expected in ((False, 3.0), (True, 4.0)):
                assert session.run(step, {training: value}).tolist() == [[expected] * D]


def test_shards_that_belong_together_by_name_alone_are_none(use_resource):
    with tf.variable_scope("embed/ctrs", use_resource=use_resource):
        for part in range(2):
            tf.get_variable(f"part_{part}", [C, D])
    with pytest.raises(ValueError, match="^lookup_embed_centers: no variable embed/ctrs"):
        tf_centers.lookup_embed_centers([0])


@pytest.mark.parametrize("shards", [None, 2])
def test_a_missing_name_is_told_what_there_is(shards, use_resource):
    make_ctrs(use_resource)
    with tf.variable_scope("model"):
        make_centers(tf_centers, use_resource, shards=shards, scope="people")
    found = "embed/ctrs, model/people/ctrs; pass centers='embed', or the variable itself"
    # Nothing of create_embed_centers, which would make another table.
    message = f"^lookup_embed_centers: no variable people/ctrs in this graph, but {found}$"
    with pytest.raises(ValueError, match=message):
        tf_centers.lookup_embed_centers([0], "people")
    tf_centers.lookup_embed_centers([0], "model/people")


def test_count_whose_name_is_taken(use_resource):
    ctrs = make_ctrs(use_resource)
    tf.constant(0, name="embed/ctrs_count")
    for _ in range(2):
        with pytest.raises(ValueError, match="^update_embed_centers: .*embed/ctrs_count.*name"):
            _update()
    assert tf.global_variables() == [ctrs]
    make_ctrs(use_resource, scope="other")
    tf.get_variable("other/ctrs_count", [C], use_resource=use_resource)
    tf_centers.lookup_embed_centers([1], "other")  # to which it does not matter
    with pytest.raises(TypeError, match="^update_embed_centers: counts must be int64"):
        _update("other")


def test_checkpoint_without_counts_restores_into_a_legacy_graph(use_resource, tmp_path):
    make_ctrs(use_resource, initial=np.ones([C, D]))
    path, saver = str(tmp_path / "old"), tf.train.Saver()
    with initialized_session() as session:
        saver.save(session, path)
    with tf.Graph().as_default(), tf.Session() as session:
        ctrs = make_ctrs(use_resource)
        update = _update(updater=None)
        tf.train.Saver().restore(session, path)
        session.run(update)
        assert session.run(ctrs).all()
