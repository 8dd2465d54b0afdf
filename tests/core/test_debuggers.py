"""TensorFlow's debuggers find no NaN and no Inf inside a call whose inputs are finite."""

import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import MEAN, B, make_batch, make_centers, placeholders
from tf2_code import as_called, eager_centers, eager_or_function, in_tf2
from updaters import UPDATERS, WITH_RATE, Weighted

import tf_centers


def holder(value):
    return tf.placeholder_with_default(value, [])


def get(embeds, labels, centers, updater=MEAN, **kwargs):
    return tf_centers.get_embed_centers(embeds, labels, updater, centers, **kwargs)


def then(call):
    """What a call makes of centers that have just been updated."""

    def build(embeds, labels, centers):
        with tf.control_dependencies([get(embeds, labels, centers)]):
            return call(embeds, centers)

    return build


def distances(embeds, centers):
    return tf.gradients(tf_centers.center_distances(embeds, centers), embeds)


def updated_by(make, rate):
    return lambda *batch: get(*batch, make(rate))


CALLS = {
    **{name: updated_by(entry.make, entry.rate) for name, entry in UPDATERS.items()},
    **{f"{name} at 0": updated_by(entry.make, 0.0) for name, entry in WITH_RATE.items()},
    "window at 1": updated_by(tf_centers.ExponentialWindow, 1.0),
    "tensor": lambda *batch: get(*batch, UPDATERS["debiased"].make(holder(0.0))),
    "own": lambda *batch: get(*batch, Weighted(lambda n, k, later: 0.5 / (k + n))),
    "masked": lambda *batch: get(*batch, mask=batch[1] > 1),
    "before": lambda *batch: get(*batch, read="before"),
    "switch": lambda *batch: get(*batch, is_training=holder(True)),
    "locked": lambda *batch: get(*batch, use_locking=True),
    "steps": lambda embeds, labels, centers: get(embeds[None], labels[None], centers),
    "gradient": lambda *batch: tf.gradients(get(*batch, stop_gradient=False), batch[0])[0],
    "loss": lambda *batch: tf.gradients(tf_centers.center_loss(batch[0], get(*batch)), batch[0]),
    "update": lambda *batch: tf_centers.update_embed_centers(*batch[:2], MEAN, batch[2]),
    "lookup": lambda embeds, labels, centers: tf_centers.lookup_embed_centers(labels, centers),
    "distances": then(distances),
    "nearest": then(lambda embeds, centers: tf_centers.nearest_centers(embeds, centers).distances),
    "summary": lambda embeds, labels, centers: tf_centers.summarize_centers(centers),
}


def run(use_resource, debugger=lambda session: session, more=lambda: (), calls=CALLS):
    """Runs every call on a table of zeros, with repeated labels and on an empty batch too."""
    embeds, labels = placeholders()
    fetches, counts = [], []
    for name, call in sorted(calls.items()):
        entry = UPDATERS.get(name.split(" at ")[0])
        how = {"count_dtype": entry.count_dtype} if entry else {}
        centers = make_centers(tf_centers, use_resource, scope=name.replace(" ", "_"), **how)
        fetches.append(call(embeds, labels, centers))
        counts += [] if name in ("lookup", "summary") else [centers.counts]
    fetches.append(more())
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        debugged = debugger(session)
        for rows in (B, 0, B):
            values = make_batch(rows, rows)
            debugged.run(fetches, {embeds: values[0], labels: values[1]})
        assert all(found.any() for found in session.run(counts))


def test_add_check_numerics_ops(use_resource):
    run(use_resource, more=tf.add_check_numerics_ops)


@pytest.fixture
def check_numerics():
    if not hasattr(tensorflow.debugging, "enable_check_numerics"):
        pytest.skip("TensorFlow 2.x only")
    tensorflow.debugging.enable_check_numerics()
    yield
    tensorflow.debugging.disable_check_numerics()


def test_enable_check_numerics(check_numerics):
    run(use_resource=True)  # it does not take ref variables


@in_tf2
@eager_or_function
@pytest.mark.parametrize("training", [True, False])
def test_enable_check_numerics_in_tf2_code(training, how, check_numerics):
    centers = eager_centers()

    def step(embeds, labels):
        return get(embeds, labels, centers, is_training=training)

    embeds, labels = make_batch(0)
    rows = as_called(how, step)(tf.constant(embeds, tf.float32), tf.constant(labels))
    assert rows.numpy().any() == training


def test_tfdbg(tmp_path):
    """What its filter `has_inf_or_nan` finds in every tensor of a run."""
    debug = pytest.importorskip("tensorflow.python.debug")
    names = "DumpingDebugWrapperSession", "DebugDumpDir", "has_inf_or_nan"
    if not all(hasattr(debug, name) for name in names):
        pytest.skip("tfdbg is no public part of TensorFlow")
    run(False, lambda session: debug.DumpingDebugWrapperSession(session, str(tmp_path)))
    dumps = [debug.DebugDumpDir(str(folder)) for folder in tmp_path.iterdir()]
    assert len(dumps) == 3
    assert all(dump.size > 20 * len(CALLS) for dump in dumps)
    assert [dump.find(debug.has_inf_or_nan) for dump in dumps] == [[]] * len(dumps)


def test_an_alarm_is_heard(use_resource):
    """The debuggers do look at these graphs."""
    alarm = {"lookup": lambda embeds, *_: tf.log(tf.zeros_like(embeds))}
    with pytest.raises(tf.errors.InvalidArgumentError, match="Tensor had Inf"):
        run(use_resource, more=tf.add_check_numerics_ops, calls=alarm)
