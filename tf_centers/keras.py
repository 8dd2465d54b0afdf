"""The centers as a Keras layer.

Importing this module imports Keras, which `import tf_centers` does not.
"""

import inspect
from typing import Any, Dict, List, Optional, Union

import tensorflow.compat.v1 as tf
from tensorflow import Variable, keras

from tf_centers import arguments, keras_arguments, replicas
from tf_centers.arguments import as_written
from tf_centers.centers import EmbedCenters
from tf_centers.losses import center_loss
from tf_centers.ops import get_rows
from tf_centers.updaters import Updater, as_updater

__all__ = ["ComputeCenter"]

_CALLER = "ComputeCenter"


class ComputeCenter(keras.layers.Layer):  # type: ignore[misc]
    """Center loss as a layer.

    Call it as `ComputeCenter(num_classes)([labels, embeddings])`. It returns `0.5 * ||x - c||^2`
    for each row, and adds `weight` times their mean to the losses of the model: eq. (5) of Wen et
    al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016, with the
    mean over the batch instead of the sum. In training it also updates the centers, and uses them
    as they were before, as in the paper. Otherwise, or if `trainable` is False, it only looks them
    up. No gradient reaches the centers.

    A functional model only contains what its outputs need, so make the distances an output, with
    `None` as its loss. The centers `ctrs [C, D]` and the number of rows seen of each class
    `counts [C]` are non-trainable weights, saved with the model. The centers are float32, even
    under a policy of half or mixed precision, and float64 with `dtype="float64"`. To start from an
    existing table, call `set_weights([ctrs, counts])`; see `docs/migrating.md`.

    XLA would drop the checks, so the layer declares that XLA cannot compile it. Keras 3 then runs
    the whole model without XLA, even with `jit_compile=True`. Create the layer in the constructor
    of a subclassed model: if Keras cannot see it there, or with `jit_compile=True` in Keras 2, XLA
    refuses it when the model first runs.

    Args:
      num_classes: Python integer C, at least 1.
      updater: `CumulativeMean`, `ExponentialWindow` or `WenUpdate`; None is
        `ExponentialWindow(0.95)`. If `decay` or `alpha` is a tensor, the configuration of the
        layer cannot be saved, only its weights.
      weight: Python float, finite and at least 0. With 0 the centers are still updated.
      initializer: Keras initializer of the centers: its name, an instance or a configuration.
      **layer_kwargs: arguments of every layer, such as `name` and `dtype`.

    Call arguments:
      inputs: `[labels, embeddings]`: labels `[B]` or `[B, 1]` in [0, C), of any integer dtype, or
        whole numbers of a floating dtype that holds all below C exactly, or one-hot `[B, C]` if C
        is above 1; embeddings floating `[B, D]` with a static D.
      training: bool, scalar bool tensor, or None to let Keras decide.

    Returns:
      `[B]`, in the wider of the dtypes of embeddings and centers.

    Raises:
      TypeError: a size, weight or updater of another type; labels that are not numbers, embeddings
        that are not floating.
      ValueError: `num_classes` or `weight` out of range, an unknown initializer, inputs of other
        shapes, too many classes for labels of a floating dtype, a Keras backend other than
        TensorFlow; in `get_config`, an updater that holds a tensor.
      NotImplementedError: under `stateless_call`.
      tf.errors.InvalidArgumentError: at run time, for a label out of range or not whole, or a row
        that is not one-hot, and in training for a NaN or Inf. Nothing of that batch is written.

    Examples:
      >>> labels, embeds = keras.Input([1], dtype="int64"), keras.Input([2])
      >>> distances = ComputeCenter(10, CumulativeMean())([labels, embeds])
      >>> model = keras.Model([labels, embeds], distances)
      >>> model.compile("sgd")
      >>> batch = [np.array([[7], [7]]), np.array([[1.0, 2.0], [5.0, 2.0]])]
      >>> model.train_on_batch(batch)  # (1 + 4 + 25 + 4) / 4, before the centers move to (3, 2)
      8.5
      >>> model.predict(batch, verbose=0)
      array([2., 2.], dtype=float32)
    """

    def __init__(
        self,
        num_classes: int,
        updater: Optional[Updater] = None,
        weight: float = 1.0,
        initializer: Any = "zeros",
        **layer_kwargs: Any,
    ) -> None:
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(f"{_CALLER}: Keras must have the backend tensorflow, got {backend}")
        # Autocasting would round float labels to half precision.
        super().__init__(autocast=False, **layer_kwargs)
        self.num_classes = arguments.as_size(_CALLER, "num_classes", num_classes)
        self.updater = as_updater(_CALLER, updater)
        self.weight = keras_arguments.as_loss_weight(_CALLER, weight)
        self.initializer = keras_arguments.as_initializer(_CALLER, initializer)
        self.supports_jit = False
        # A layer of TensorFlow 1.15 would take its dtype from the labels.
        is_double = tf.as_dtype(self.dtype or keras.backend.floatx()) == tf.float64
        self._ctrs_dtype = tf.float64 if is_double else tf.float32

    def build(self, input_shape: Any) -> None:
        """Creates `ctrs [C, D]` with the initializer, and `counts [C]` with zeros."""
        embeds = keras_arguments.check_shapes(_CALLER, input_shape, self.num_classes)
        shape = [self.num_classes, int(embeds.as_list()[1])]
        self.ctrs = self._add_state("ctrs", shape, self._ctrs_dtype, self.initializer)
        self.counts = self._add_state("counts", shape[:1], tf.int64, "zeros")
        super().build(input_shape)

    # Without annotations, which the SavedModel of TensorFlow 1.15 cannot hold.
    def call(self, inputs, training=None):  # type: ignore[no-untyped-def]
        """Returns the distances `[B]`; see the class."""
        return self._measure(inputs, training)

    def get_config(self) -> Dict[str, Any]:
        """The arguments for `from_config`, as JSON data."""
        config: Dict[str, Any] = super().get_config()
        config["num_classes"] = self.num_classes
        config["updater"] = keras_arguments.updater_to_config(_CALLER, self.updater)
        config["weight"] = self.weight
        config["initializer"] = keras.initializers.serialize(self.initializer)
        return config

    @classmethod
    def from_config(cls, config: Dict[str, Any]) -> "ComputeCenter":
        """Creates a layer from its `get_config`, with new centers."""
        updater = keras_arguments.updater_from_config(_CALLER, config["updater"])
        return super().from_config(dict(config, updater=updater))  # type: ignore[no-any-return]

    @as_written
    def _measure(self, inputs: Any, training: Any) -> tf.Tensor:
        labels, embeds = keras_arguments.as_pair(_CALLER, inputs)
        embeds = arguments.as_floats(_CALLER, keras_arguments.EMBEDS, embeds)
        keras_arguments.check_shapes(
            _CALLER, [labels.shape, embeds.shape], self.num_classes, int(self.ctrs.shape[1])
        )
        centers = EmbedCenters(_variable(self.ctrs), _variable(self.counts))
        if centers.ctrs is None:
            return center_loss(embeds, tf.zeros_like(tf.cast(embeds, self._ctrs_dtype)))
        training = _as_switch(training) if self.trainable else False
        labels = keras_arguments.as_integers(_CALLER, labels, self.num_classes)
        if training is False:
            labels = _refuse_xla(labels)
        rows = get_rows(
            f"{_CALLER}: inputs [labels, embeddings]",
            embeds,
            labels,
            self.updater,
            centers,
            is_training=training,
            read="before",
        )
        distances = center_loss(embeds, rows)
        # Keras adds up the losses of a model, which must have one dtype.
        loss = tf.cast(self.weight * _mean(distances), keras.backend.floatx())
        # Keras 2 asks whether a loss belongs to these inputs, or to the layer wherever it is used.
        self.add_loss(loss, **({"inputs": True} if _takes(super().add_loss, "inputs") else {}))
        return distances

    def _add_state(self, name: str, shape: List[int], dtype: tf.DType, initializer: Any) -> Any:
        autocast = "autocast" if _takes(super().add_weight, "autocast") else "experimental_autocast"
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype.name,
            initializer=initializer,
            trainable=False,
            **{autocast: False},
        )


def _register(layer: Any) -> None:
    """Lets a model with this layer be loaded without `custom_objects`."""
    if hasattr(keras.utils, "register_keras_serializable"):
        keras.utils.register_keras_serializable(package="tf_centers")(layer)
    else:
        keras.utils.get_custom_objects()[layer.__name__] = layer


_register(ComputeCenter)


def _takes(method: Any, parameter: str) -> bool:
    return parameter in inspect.signature(method).parameters


def _variable(weight: Any) -> Any:
    """The TensorFlow variable of a weight; None while Keras only asks for shapes.

    Keras 3 may ask before there are variables, and shows a new tensor at each look at the weight;
    under `stateless_call` it shows the one that it was called with.
    """
    if isinstance(replicas.copies(weight)[0], Variable):
        return weight
    value = weight.value
    if isinstance(value, Variable):
        return value
    if value is weight.value:
        raise NotImplementedError(f"{_CALLER}: stateless_call is not supported")
    return None


def _as_switch(training: Any) -> Union[bool, tf.Tensor]:
    if training is None and hasattr(keras.backend, "learning_phase"):
        # In graphs of Keras 2: what tells `fit` from `evaluate`, a tensor or a number.
        training = keras.backend.learning_phase()
    if tf.is_tensor(training) or isinstance(training, Variable):
        return tf.cast(training, tf.bool)
    return bool(training)


def _refuse_xla(labels: tf.Tensor) -> tf.Tensor:
    # XLA has no kernel for this op, so it refuses to compile, rather than drop the checks.
    found = tf.unique_with_counts(tf.reshape(labels, [-1]))
    return tf.reshape(tf.gather(found.y, found.idx), tf.shape(labels))


def _mean(distances: tf.Tensor) -> tf.Tensor:
    """The mean over the batch, 0 for an empty one."""
    return tf.reduce_sum(distances) / tf.cast(tf.maximum(tf.size(distances), 1), distances.dtype)
