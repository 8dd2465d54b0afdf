"""The Keras layer: with Keras 3, with Keras 2 in TF2, and with the graphs of TensorFlow 1.15."""

import functools
import json

import numpy as np
import pytest
import tensorflow
import tensorflow.compat.v1 as tf
from helpers import B, C, D
from keras_models import (
    IN_TF2,
    WEIGHT,
    Subclassed,
    batches,
    check_learning,
    check_tracking,
    compiled,
    dense_model,
    half_squares,
    layer_of,
    plain_model,
    unchanged,
)
from tensorflow import keras

import tf_centers
import tf_centers.keras
from tf_centers.keras import ComputeCenter

pytestmark = [
    pytest.mark.eager,
    pytest.mark.filterwarnings("ignore:The model does not have any trainable weights"),
]
IN_KERAS3 = getattr(keras, "__version__", "0") >= "3"
# What Keras 3 makes of a name that ends in .keras, and Keras 2 of TensorFlow 2.12 has to be told.
KERAS_FORMAT = {} if IN_KERAS3 else {"save_format": "keras_v3"}
needs_keras3 = pytest.mark.skipif(not IN_KERAS3, reason="Keras 3 only")
needs_tf2 = pytest.mark.skipif(not IN_TF2, reason="TensorFlow 1.15 starts in graph mode")
needs_graphs = pytest.mark.skipif(IN_TF2, reason="the graphs of TensorFlow 1.15 only")
MEAN = tf_centers.CumulativeMean()
LABELS, EMBEDS = (rf"{kind} of inputs \[labels, embeddings\]" for kind in ("labels", "embeddings"))
GET = tf_centers.keras.get_rows


def set_policy(policy):
    if IN_KERAS3:
        keras.config.set_dtype_policy(policy)
    else:
        keras.mixed_precision.set_global_policy(policy)


@pytest.fixture(autouse=True)
def fresh_keras():
    yield
    if IN_TF2:
        set_policy("float32")
    else:
        keras.backend.clear_session()


def feed(labels, value=1.0):
    """A batch of rows of one value."""
    return [np.array(labels)[:, np.newaxis], np.full([len(labels), D], value, np.float32)]


def patch_get(monkeypatch, **changes):
    """Makes the layer call `get_rows` with other arguments."""
    monkeypatch.setattr(
        tf_centers.keras,
        "get_rows",
        lambda *args, **kwargs: GET(*args, **dict(kwargs, **changes)),
    )


@pytest.mark.parametrize(
    "updater", [MEAN, tf_centers.ExponentialWindow(), tf_centers.WenUpdate()], ids=repr
)
def test_tracks_and_measures(updater):
    check_tracking(updater)


@pytest.mark.parametrize("change", [{"read": "after"}, {"is_training": False}], ids=str)
def test_wrong_tracking_is_rejected(change, monkeypatch):
    patch_get(monkeypatch, **change)
    with pytest.raises(AssertionError):
        check_tracking(MEAN)


@pytest.mark.parametrize("model", [dense_model, Subclassed])
def test_learns_by_the_gradient(model):
    check_learning(lambda: compiled(model(MEAN)))


def test_wrong_gradients_are_rejected(monkeypatch):
    patch_get(monkeypatch, read="after")
    with pytest.raises(AssertionError):
        check_learning(lambda: dense_model(MEAN))
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        check_learning(lambda: dense_model(MEAN, weight=1.1 * WEIGHT))


@pytest.mark.parametrize("model", [dense_model, Subclassed])
def test_weight_zero_tracks_all_the_same(model):
    models = [compiled(model(MEAN, weight=weight)) for weight in (0, WEIGHT)]
    for each in models:
        each.predict(batches(1, D + 1)[0], verbose=0)
    models[0].set_weights(models[1].get_weights())
    kernels = [[w for w in each.get_weights() if w.shape == (D + 1, D)][0] for each in models]
    batch = batches(1, D + 1)[0]
    assert models[0].train_on_batch(batch) == 0
    assert models[1].train_on_batch(batch) > 0
    found = [layer_of(each).get_weights() for each in models]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][0].any() and found[0][1].sum() == found[1][1].sum() == B
    after = [[w for w in each.get_weights() if w.shape == (D + 1, D)][0] for each in models]
    np.testing.assert_array_equal(after[0], kernels[0])
    assert not np.array_equal(after[1], kernels[1])


@pytest.mark.parametrize("model", [dense_model, Subclassed])
def test_fit_runs_every_batch(model):
    model = compiled(model(MEAN))
    labels, rows = (np.concatenate(parts) for parts in zip(*batches(3, D + 1)))
    model.fit([labels, rows], batch_size=B, epochs=2, verbose=0)
    counts = layer_of(model).get_weights()[1]
    np.testing.assert_array_equal(counts, 2 * np.bincount(labels.ravel(), minlength=C))
    assert not [w for w in model.trainable_weights if "ctrs" in w.name or "counts" in w.name]


INPUTS = r"ComputeCenter: inputs \[labels, embeddings\]: "
BAD_BATCHES = [
    (feed([0, C]), INPUTS + r"expected every label in \[0, 7\), found.*7"),
    (feed([-1, 0]), INPUTS + r"expected every label in \[0, 7\), found.*-1"),
    (feed([0, 1], np.nan), INPUTS + "expected finite values"),
    (feed([0, 1], np.inf), INPUTS + "expected finite values"),
]


@pytest.mark.parametrize("jit_compile", ["auto", True] if IN_KERAS3 else [None])
@pytest.mark.parametrize("batch, message", BAD_BATCHES)
def test_bad_batches_are_refused(batch, message, jit_compile):
    model = plain_model(MEAN)
    if jit_compile is True:
        with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
            compiled(model, jit_compile=True)
        assert not model.jit_compile
    elif jit_compile == "auto":
        assert not compiled(model, jit_compile="auto").jit_compile
    model.fit(feed([3, 4]), batch_size=2, verbose=0)
    with unchanged(layer_of(model)), pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.fit(batch, batch_size=2, verbose=0)
    if batch is BAD_BATCHES[0][0]:
        for call in (model.evaluate, model.predict):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                call(batch, batch_size=2, verbose=0)


@needs_keras3
def test_declares_that_xla_is_not_for_it(monkeypatch):
    """On a machine with a GPU, "auto" means XLA wherever every layer supports it."""
    devices = tensorflow.config.list_physical_devices()
    gpu = type(devices[0])("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda *_: devices + [gpu])
    assert not plain_model().jit_compile
    assert compiled(keras.Sequential([keras.Input((D,)), keras.layers.Dense(1)])).jit_compile


class Late(keras.Model):
    """Makes the layer where `compile` does not see it."""

    def build(self, input_shape):
        self.center = ComputeCenter(C)

    def call(self, inputs):
        return self.center(inputs)


@needs_tf2
@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_xla_never_runs_it_unchecked(call):
    model = compiled(Late(), jit_compile=True)
    assert model.jit_compile
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        getattr(model, call)(feed([0, C]), verbose=0)


@pytest.mark.parametrize(
    "dtype, shape",
    [
        ("uint8", ()),
        ("int8", (1,)),
        ("int16", ()),
        ("uint32", (1,)),
        ("int32", ()),
        ("int64", (1,)),
        ("float16", ()),
        ("float32", (1,)),
        ("float64", ()),
    ],
)
def test_integers_and_whole_floats_as_labels(dtype, shape):
    model = plain_model(MEAN, dtype, shape)
    batch, rows = batches(1)[0]
    batch = batch.reshape((-1,) + shape).astype(dtype)
    model.train_on_batch([batch, rows])
    counts = layer_of(model).get_weights()[1]
    np.testing.assert_array_equal(counts, np.bincount(batch.astype(int).ravel(), minlength=C))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("updater", [MEAN, None])
def test_one_hot_labels_give_the_same_numbers(updater, dtype):
    models = [plain_model(updater), plain_model(updater, dtype, shape=(C,))]
    for labels, rows in batches(3):
        kinds = labels, np.eye(C)[labels.ravel()].astype(dtype)
        assert len({float(m.train_on_batch([y, rows])) for m, y in zip(models, kinds)}) == 1
        assert len({float(m.test_on_batch([y, rows])) for m, y in zip(models, kinds)}) == 1
    check_weights(*models)
    labels, rows = (np.concatenate(parts) for parts in zip(*batches(3)))
    found = [
        m.predict([y, rows], verbose=0) for m, y in zip(models, (labels, np.eye(C)[labels.ravel()]))
    ]
    np.testing.assert_array_equal(*found)
    assert found[0].any()


@pytest.mark.parametrize("row", [[0] * C, [1, 1] + [0] * (C - 2), [0.9] + [0.1] + [0] * (C - 2)])
@pytest.mark.parametrize("value", [1, np.nan, -1, 2])
def test_rows_that_are_not_one_hot(row, value):
    model, labels = plain_model(MEAN, "float32", shape=(C,)), np.eye(C)[[3, 0]]
    model.train_on_batch([labels, np.ones([2, D])])
    labels = np.stack([labels[0], np.multiply(row, value)])
    if value == 2 and np.sum(row) == 1:
        labels[1] = 2 * np.eye(C)[0]
    message = f"ComputeCenter: expected {LABELS} to be one-hot, found"
    for call in (model.train_on_batch, model.test_on_batch):
        with unchanged(layer_of(model)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                call([labels, np.ones([2, D])])


def test_one_class_is_a_column():
    model = plain_model(MEAN, "float32", classes=1)
    model.train_on_batch([np.zeros([3, 1]), np.ones([3, D])])
    assert layer_of(model).get_weights()[1].tolist() == [3]


@pytest.mark.parametrize("label", [0.5, 2.999, -0.5, np.nan, np.inf, -np.inf, 1e30])
def test_floats_that_are_no_labels(label):
    model = plain_model(MEAN, "float32")
    model.train_on_batch(feed([1.0, 3.0]))
    message = r"ComputeCenter: expected labels of inputs \[labels, embeddings\] to be whole numbers"
    for call in (model.train_on_batch, model.test_on_batch):
        with unchanged(layer_of(model)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                call(feed([1.0, label]))


@pytest.mark.parametrize(
    "dtype, most", [("float16", 2**11), ("bfloat16", 2**8), ("float32", 2**24)]
)
def test_floats_that_cannot_tell_labels_apart(dtype, most):
    labels = [0, most - 1]
    if IN_TF2:
        inputs = tf.cast(tf.constant(labels), dtype), tf.ones([2, 1])
        np.testing.assert_allclose(ComputeCenter(most)(inputs), [0.5, 0.5])
        with pytest.raises(tf.errors.InvalidArgumentError, match="every label in"):
            # The next label rounds to itself at worst, never to one in the range.
            ComputeCenter(most)((tf.cast(tf.constant([0, most + 1]), dtype), tf.ones([2, 1])))
    inputs = [keras.Input((), dtype=dtype), keras.Input((1,))]
    message = (
        f"ComputeCenter: {LABELS} must have an integer dtype for {most + 1} classes, got {dtype}"
    )
    with pytest.raises(ValueError, match=message):
        ComputeCenter(most + 1)(inputs)


@needs_tf2
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_precision(policy):
    """Centers are float32 at least, and float labels keep their digits."""
    set_policy(policy)
    inputs = [keras.Input((), dtype="float32"), keras.Input((D + 1,))]
    embeds = keras.layers.Dense(D, use_bias=False, kernel_initializer="ones")(inputs[1])
    assert tf.as_dtype(embeds.dtype).name == policy.replace("mixed_", "")
    distances = ComputeCenter(5000, MEAN)([inputs[0], embeds])
    # With a loss beside that of the layer: Keras adds only losses of one dtype.
    model = compiled(keras.Model(inputs, [embeds, distances]), loss=["mse", None])
    label = 4097  # 4096 in float16
    rows = np.linspace(1, 2, D + 1, dtype=np.float32)[np.newaxis]
    model.fit([np.array([label], np.float32), rows], np.ones([1, D]), verbose=0)
    ctrs, counts = layer_of(model).get_weights()
    assert ctrs.dtype == (np.float64 if policy == "float64" else np.float32)
    assert counts[label] == 1 == counts.sum()
    np.testing.assert_allclose(ctrs[label], [9.0] * D, rtol=0.01)  # 1 + 1.2 + 1.4 + ... + 2
    assert tf.as_dtype(layer_of(model).ctrs.dtype).name == ctrs.dtype.name


@needs_graphs
def test_mixed_precision_in_graphs():
    policy = keras.mixed_precision.experimental.Policy("mixed_float16")
    layer = ComputeCenter(C, MEAN, dtype=policy)
    layer([tf.constant([1]), tf.ones([1, D], tf.float16)], training=True)
    assert layer.ctrs.dtype.base_dtype == tf.float32 and isinstance(layer.ctrs, tf.Variable)
    assert type(layer.ctrs) is type(layer.counts)  # none that casts itself


@needs_graphs
def test_float64_in_graphs():
    keras.backend.set_floatx("float64")
    try:
        assert plain_model().layers[-1].get_weights()[0].dtype == np.float64
    finally:
        keras.backend.set_floatx("float32")


def test_frozen_it_only_looks_up():
    model = plain_model(MEAN)
    model.train_on_batch(feed([1, 3]))
    weights = model.get_weights()
    model = plain_model(MEAN, trainable=False)
    model.set_weights(weights)
    with unchanged(layer_of(model)):
        assert model.train_on_batch(feed([1, 3], 2.0)) == 0.5 * D


UPDATERS = [
    MEAN,
    tf_centers.WenUpdate(0.3),
    tf_centers.ExponentialWindow(np.float32(0.75), debias=True),
    tf_centers.ExponentialWindow(1, duplicates="sum"),
]


@pytest.mark.parametrize("updater", UPDATERS, ids=repr)
def test_configuration(updater):
    layer = ComputeCenter(C, updater, weight=np.float32(0.25), name="mine")
    config = json.loads(json.dumps(layer.get_config()))
    twin = ComputeCenter.from_config(config)
    assert twin.get_config() == layer.get_config()
    assert (twin.num_classes, twin.weight, twin.name) == (C, 0.25, "mine")
    assert type(twin.updater) is type(updater) and repr(twin.updater) == repr(updater).replace(
        "decay=np.float32(0.75)", "decay=0.75"
    ).replace("decay=1,", "decay=1.0,")


INITIALIZERS = [
    "uniform",
    keras.initializers.Constant(2.5),
    {"class_name": "Constant", "config": {"value": 2.5}},
]


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=["name", "instance", "configuration"])
def test_initializer(initializer):
    model = dense_model(tf_centers.WenUpdate(), initializer=initializer)
    ctrs, counts = layer_of(model).get_weights()
    assert ctrs.std() > 0.01 if initializer == "uniform" else (ctrs == 2.5).all()
    assert not counts.any()
    config = json.loads(json.dumps(layer_of(model).get_config()))
    twin = compiled(keras.models.model_from_json(model.to_json()))
    assert layer_of(twin).get_config()["initializer"] == config["initializer"]
    if initializer != "uniform":
        np.testing.assert_array_equal(layer_of(twin).get_weights()[0], ctrs)
    del config["initializer"]  # as earlier versions wrote it
    assert not plain_of(config).get_weights()[0].any()


def plain_of(config):
    layer = ComputeCenter.from_config(config)
    layer.build([(None,), (None, D)])
    return layer


def test_default_updater():
    assert repr(ComputeCenter(C).updater) == repr(tf_centers.ExponentialWindow(0.95))


def test_a_tensor_cannot_be_saved():
    for value in (tf.constant(0.5), tensorflow.Variable(0.5)):
        for updater, name in (
            (tf_centers.ExponentialWindow(value), "decay of ExponentialWindow"),
            (tf_centers.WenUpdate(value), "alpha of WenUpdate"),
        ):
            with pytest.raises(ValueError, match=f"ComputeCenter: {name} must be a Python float"):
                ComputeCenter(C, updater).get_config()

    class Mine(tf_centers.WenUpdate):
        pass

    with pytest.raises(ValueError, match="ComputeCenter: updater must be one of .* to be saved"):
        ComputeCenter(C, Mine()).get_config()
    config = dict(ComputeCenter(C).get_config(), updater={"class_name": "Mine", "config": {}})
    with pytest.raises(ValueError, match="ComputeCenter: updater must be one of .*, got .*Mine"):
        ComputeCenter.from_config(config)


def test_model_from_json():
    """Without `custom_objects`; the weights by themselves."""
    model = dense_model(tf_centers.ExponentialWindow(0.5, debias=True))
    fed = batches(2, D + 1)
    model.train_on_batch(fed[0])
    twin = compiled(keras.models.model_from_json(model.to_json()))
    twin.set_weights(model.get_weights())
    check_twins(model, twin, fed[1])


def check_twins(model, twin, batch):
    """Both go on from the same state, to the same numbers."""
    assert layer_of(twin).get_config() == layer_of(model).get_config()
    assert layer_of(model).get_weights()[1].sum() == B
    for _ in range(2):
        for one, other in zip(model.get_weights(), twin.get_weights()):
            np.testing.assert_array_equal(one, other)
        assert model.train_on_batch(batch) == twin.train_on_batch(batch)


@needs_tf2
def test_saved_and_loaded(tmp_path):
    updater = tf_centers.ExponentialWindow(0.5, debias=True)
    model, path = dense_model(updater), str(tmp_path / "model.keras")
    fed = batches(2, D + 1)
    model.train_on_batch(fed[0])
    model.save(path, **KERAS_FORMAT)
    check_twins(model, keras.models.load_model(path), fed[1])
    untrained = dense_model(updater)
    model.save_weights(str(tmp_path / "model.weights.h5"))
    untrained.load_weights(str(tmp_path / "model.weights.h5"))
    check_weights(model, untrained)


@needs_tf2
def test_subclassed_model_saved_and_loaded(tmp_path):
    model, path = compiled(Subclassed()), str(tmp_path / "model.keras")
    fed = batches(2, D + 1)
    model.train_on_batch(fed[0])
    model.save(path, **KERAS_FORMAT)
    twin = keras.models.load_model(path, custom_objects={"Subclassed": Subclassed})
    check_twins(model, twin, fed[1])


@needs_graphs
def test_saved_in_graphs(tmp_path):
    """As checkpoints and as a SavedModel; h5 files need a package more."""
    fed = batches(2, D + 1)
    for make in (dense_model, Subclassed):
        model, twin = compiled(make(MEAN)), compiled(make(MEAN))
        for each in (model, twin):
            each.predict(fed[0])
        model.train_on_batch(fed[0])
        model.save_weights(str(tmp_path / make.__name__))
        twin.load_weights(str(tmp_path / make.__name__))
        check_weights(model, twin)
    model = dense_model(MEAN)
    model.train_on_batch(fed[0])
    model.save(str(tmp_path / "saved"), save_format="tf")
    twin = keras.models.load_model(str(tmp_path / "saved"))
    check_weights(model, twin)
    np.testing.assert_array_equal(twin.predict(fed[1]), model.predict(fed[1]))


def check_weights(model, twin):
    assert layer_of(model).get_weights()[1].sum() >= B
    for one, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"num_classes": 2.0}, TypeError, "num_classes must be a Python integer, got 2.0"),
        (
            {"updater": "mean"},
            TypeError,
            r"updater must be an instance of.*, got 'mean'",
        ),
        (
            {"updater": tf_centers.WenUpdate},
            TypeError,
            "updater must be an instance of",
        ),
        ({"weight": -0.5}, ValueError, "weight must be finite and at least 0, got -0.5"),
        ({"weight": float("nan")}, ValueError, "weight must be finite and at least 0, got nan"),
        ({"weight": float("inf")}, ValueError, "weight must be finite and at least 0, got inf"),
        ({"weight": True}, TypeError, "weight must be a Python float, got True"),
        ({"weight": "1"}, TypeError, "weight must be a Python float, got '1'"),
        ({"weight": None}, TypeError, "weight must be a Python float, got None"),
        (
            {"initializer": "normalish"},
            ValueError,
            "initializer must be one of Keras, got 'normalish'",
        ),
        ({"initializer": None}, ValueError, "initializer must be one of Keras, got None"),
        ({"initializer": 0.5}, ValueError, "initializer must be one of Keras, got 0.5"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=f"^ComputeCenter: {message}"):
        ComputeCenter(**dict({"num_classes": C}, **kwargs))


@pytest.mark.parametrize(
    "inputs, error, message",
    [
        ([((), "int32")], ValueError, r"inputs must be \[labels, embeddings\]"),
        ([((D,), "int32"), ((D,), "float32")], ValueError, f"{LABELS} must have shape .*, 7.*, 5"),
        ([((C - 1,), "int32"), ((D,), "float32")], ValueError, f"{LABELS} must have shape"),
        ([((C, 1), "int32"), ((D,), "float32")], ValueError, f"{LABELS} must have shape"),
        ([((None,), "int32"), ((D,), "float32")], ValueError, f"{LABELS} must have shape"),
        ([((D,), "float32"), ((1,), "int32")], ValueError, f"{LABELS} must have shape"),
        ([((), "int32"), ((None,), "float32")], ValueError, f"{EMBEDS} .*with D known statically"),
        ([((), "int32"), ((3, D), "float32")], ValueError, rf"{EMBEDS} must have shape \[B, D\]"),
        ([((), "int32"), ((D,), "int32")], TypeError, f"{EMBEDS} must have a floating dtype"),
        ([((), "bool"), ((D,), "float32")], TypeError, f"{LABELS} must be numbers, got bool"),
    ],
)
def test_bad_inputs(inputs, error, message):
    with pytest.raises(error, match=f"ComputeCenter: {message}"):
        ComputeCenter(C)([keras.Input(shape, dtype=dtype) for shape, dtype in inputs])


@pytest.mark.parametrize(
    "labels, dims, message",
    [
        ([2], D, "both of inputs .* the same number of rows"),
        ([4, C], D, "both of inputs .* the same number of rows"),
        ([3, C + 1], D, rf"{LABELS} must have shape .*one-hot, \[B, 7\], got \(3, 8\)"),
        ([3], D + 1, rf"{EMBEDS} must have shape \[B, 5\], got \(3, 6\)"),
    ],
)
@needs_tf2
def test_bad_inputs_of_a_layer_that_is_built(labels, dims, message):
    layer = ComputeCenter(C)
    layer([tf.zeros([3], tf.int32), tf.ones([3, D])])
    with pytest.raises(ValueError, match=f"ComputeCenter: {message}"):
        layer([tf.zeros(labels, tf.int32), tf.ones([3, dims])])


def test_only_on_tensorflow(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="ComputeCenter: Keras must have the backend tensorflow"):
        ComputeCenter(C)


@needs_tf2
@pytest.mark.parametrize("how", ["eager", "function"])
@pytest.mark.parametrize("switch", [functools.partial(bool), tf.constant], ids=["bool", "tensor"])
def test_called_by_hand(how, switch):
    """In a training loop of one's own: no path to the centers, one trace for all batches."""
    layer, traces = ComputeCenter(C, MEAN, WEIGHT), []

    def step(labels, rows, training):
        traces.append(1)
        with tensorflow.GradientTape() as tape:
            tape.watch(rows)
            distances = layer([labels, rows], training=training)
            loss = tensorflow.add_n(layer.losses)
        return distances, loss, tape.gradient(loss, rows)

    ctrs = np.zeros([C, D])
    layer.build([(None,), (None, D)])
    step = tensorflow.function(step) if how == "function" else step
    for labels, rows in batches(3):
        labels = labels.ravel()
        distances, loss, gradient = step(tf.constant(labels), tf.constant(rows), switch(True))
        expected = half_squares(rows, ctrs, labels)
        np.testing.assert_allclose(distances, expected, rtol=1e-5)
        np.testing.assert_allclose(loss, WEIGHT * expected.mean(), rtol=1e-5)
        np.testing.assert_allclose(gradient, WEIGHT / B * (rows - ctrs[labels]), atol=1e-6)
        ctrs = layer.get_weights()[0]
        with unchanged(layer):
            distances, _, _ = step(tf.constant(labels), tf.constant(rows), switch(False))
            np.testing.assert_allclose(distances, half_squares(rows, ctrs, labels), rtol=1e-4)
    assert layer.get_weights()[1].sum() == 3 * B
    expected = {"eager": 6, "function": 2 if isinstance(switch(True), bool) else 1}[how]
    assert len(traces) == expected
    ctrs = layer.ctrs.value if IN_KERAS3 else layer.ctrs
    with tensorflow.GradientTape() as tape:
        tape.watch(ctrs)
        distances = layer([tf.constant([1]), tf.ones([1, D])], training=True)
    assert tape.gradient(distances, ctrs) is None


@needs_tf2
def test_empty_batch():
    layer = ComputeCenter(C)
    assert layer([tf.zeros([0], tf.int64), tf.zeros([0, D])], training=True).shape == (0,)
    assert [float(loss) for loss in layer.losses] == [0.0]


@needs_keras3
def test_stateless_call_is_refused():
    layer = ComputeCenter(C)
    inputs = [tf.constant([1]), tf.ones([1, D])]
    layer(inputs)
    state = [tf.identity(v.value) for v in layer.non_trainable_variables]
    with pytest.raises(NotImplementedError, match="ComputeCenter: stateless_call"):
        layer.stateless_call([], state, inputs, training=True)


@needs_keras3
def test_built_by_a_trace_without_a_warning(recwarn):
    """Keras finds the shapes of a subclassed model before there are variables."""
    model = compiled(Subclassed(MEAN))
    model.fit(batches(1, D + 1)[0], verbose=0)
    assert not [w for w in recwarn if "unbuilt" in str(w.message)]
    assert layer_of(model).get_weights()[1].sum() == B
