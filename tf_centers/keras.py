"""A Keras layer around the centers: `from tf_centers.keras import ComputeCenter`.

Importing this module imports Keras, `import tf_centers` alone does not.
"""

import inspect
import math
import numbers
from typing import Any, Dict, List, Optional, Union

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow import Variable, keras

from tf_centers import arguments, configs, updaters
from tf_centers.autograph import as_written
from tf_centers.checks import Checks
from tf_centers.losses import center_loss
from tf_centers.ops import get_embed_centers
from tf_centers.variables import EmbedCenters

__all__ = ["ComputeCenter"]

_CALLER = "ComputeCenter"
# The range in which a floating dtype tells all integers apart, and rounds none from beyond into it.
_WHOLE_BELOW = {tf.bfloat16: 2**8, tf.float16: 2**11, tf.float32: 2**24, tf.float64: 2**53}


class ComputeCenter(keras.layers.Layer):  # type: ignore[misc]
    """Center loss as a layer: tracks a center per class and returns each row's distance to its own.

    Called as `ComputeCenter(num_classes)([labels, embeddings])`. In training it moves the centers
    of the batch's classes and measures against the centers as they were before, as Wen et al. do;
    otherwise it only looks them up, as it does where `trainable` is set to False. Either way it
    returns `0.5 * ||x - c||^2` per row, and adds `weight` times the mean of it to the losses of the
    model (eq. (5) of "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV
    2016, whose sum over the batch is a mean here). No gradient reaches the centers.

    The centers `ctrs [C, D]` and the rows seen per class, `counts [C]`, are non-trainable weights
    that are saved with the model. The centers are float32, under a policy of mixed or half
    precision as well; float64 where `dtype` says so. The layer declares that XLA cannot compile it,
    since XLA drops the checks: under `jit_compile=True` Keras runs the model without XLA.

    Args:
      num_classes: Python integer C, at least 1.
      updater: `CumulativeMean`, `ExponentialWindow` or `WenUpdate`; None is
        `ExponentialWindow(0.95)`. With a tensor for its decay or alpha the layer works, but cannot
        be saved with its architecture.
      weight: finite Python float of at least 0, the factor of the loss that is added. With 0 the
        centers are tracked all the same.
      **layer_kwargs: `name`, `dtype` and `trainable`, as every layer takes them.

    Call arguments:
      inputs: `[labels, embeddings]`. Labels `[B]` or `[B, 1]` in [0, C) of any integer dtype, or
        whole numbers of a floating dtype wide enough for C. Embeddings floating `[B, D]` with D
        known statically.
      training: bool or None, which Keras fills in.

    Returns:
      `[B]`, in the wider one of the dtypes of embeddings and centers.

    Raises:
      TypeError: sizes, weights or updaters of another kind; labels that are no numbers, embeddings
        that are not floating.
      ValueError: `num_classes` or `weight` out of range, inputs that are no pair or of other
        shapes, a C that the floating dtype of the labels cannot count to; `get_config` with a
        tensor in the updater.
      tf.errors.InvalidArgumentError: at run time, for a label out of range or between two whole
        numbers, or a NaN or Inf in a row to train on. Nothing of that batch is written.

    Example:
      >>> layer = ComputeCenter(3, CumulativeMean())
      >>> labels, embeds = tf.constant([2, 2]), tf.constant([[1.0], [5.0]])
      >>> distances = layer([labels, embeds], training=True)
      >>> sess = tf.Session()
      >>> sess.run(tf.global_variables_initializer())
      >>> sess.run(distances)
      array([ 0.5, 12.5], dtype=float32)
      >>> sess.run(layer([labels, embeds], training=False))
      array([2., 2.], dtype=float32)
    """

    def __init__(
        self,
        num_classes: int,
        updater: Optional[updaters.Updater] = None,
        weight: float = 1.0,
        **layer_kwargs: Any,
    ) -> None:
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(f"{_CALLER}: Keras must run on TensorFlow, got the backend {backend}")
        # Autocasting would round float labels to half precision.
        super().__init__(autocast=False, **layer_kwargs)
        self.num_classes = arguments.as_size(_CALLER, "num_classes", num_classes)
        self.updater = _as_updater(updater)
        self.weight = _as_weight(weight)
        self.supports_jit = False
        variable_dtype = tf.as_dtype(self.dtype or keras.backend.floatx())
        self._ctrs_dtype = "float64" if variable_dtype == tf.float64 else "float32"

    def build(self, input_shape: Any) -> None:
        """Makes `ctrs [C, D]` and `counts [C]`, both zero."""
        shape = [self.num_classes, _read_dims(input_shape)]
        self.ctrs = self._add_state("ctrs", shape, self._ctrs_dtype)
        self.counts = self._add_state("counts", [self.num_classes], "int64")
        super().build(input_shape)

    @as_written
    def call(self, inputs: Any, training: Any = None) -> tf.Tensor:
        """Returns the distances `[B]`; see the class."""
        _check_pair(inputs)
        labels, embeds = inputs
        rows = get_embed_centers(
            embeds,
            _as_integers(labels, self.num_classes),
            self.updater,
            EmbedCenters(_variable(self.ctrs), _variable(self.counts)),
            is_training=_as_switch(training) if self.trainable else False,
            read="before",
        )
        distances = center_loss(embeds, rows)
        # Keras sums the losses of a model, and wants them of one dtype.
        self._add_mean_loss(tf.cast(self.weight * _mean(distances), keras.backend.floatx()))
        return distances

    def get_config(self) -> Dict[str, Any]:
        """The arguments of the constructor, ready for JSON."""
        config: Dict[str, Any] = super().get_config()
        config.update(
            num_classes=self.num_classes,
            updater=configs.updater_to_config(_CALLER, self.updater),
            weight=self.weight,
        )
        return config

    @classmethod
    def from_config(cls, config: Dict[str, Any]) -> "ComputeCenter":
        """A layer of its own with the arguments that `get_config` gave."""
        config = dict(config, updater=configs.updater_from_config(_CALLER, config["updater"]))
        return super().from_config(config)  # type: ignore[no-any-return]

    def _add_state(self, name: str, shape: List[int], dtype: str) -> Any:
        autocast = "autocast" if _takes(super().add_weight, "autocast") else "experimental_autocast"
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            **{autocast: False},
        )

    def _add_mean_loss(self, loss: tf.Tensor) -> None:
        if _takes(super().add_loss, "inputs"):
            # Keras 2: a model that lacks these inputs leaves the loss out.
            self.add_loss(loss, inputs=True)
        else:
            self.add_loss(loss)


def _register(layer: Any) -> None:
    """Lets models that hold the layer be loaded without `custom_objects`."""
    if hasattr(keras.utils, "register_keras_serializable"):
        keras.utils.register_keras_serializable(package="tf_centers")(layer)
    else:
        keras.utils.get_custom_objects()[layer.__name__] = layer


_register(ComputeCenter)


def _as_updater(updater: Any) -> updaters.Updater:
    if updater is None:
        return updaters.ExponentialWindow()
    if not isinstance(updater, updaters.Updater):
        raise TypeError(
            f"{_CALLER}: updater must be a CumulativeMean(), ExponentialWindow() or WenUpdate(), "
            f"got {updater!r}"
        )
    return updater


def _as_weight(weight: Any) -> float:
    if isinstance(weight, (bool, np.bool_)) or not isinstance(weight, numbers.Real):
        raise TypeError(f"{_CALLER}: weight must be a Python float, got {weight!r}")
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"{_CALLER}: weight must be finite and at least 0, got {weight!r}")
    return float(weight)


def _as_switch(training: Any) -> Union[bool, tf.Tensor]:
    # Keras 2 may hand over its learning phase: an integer, or a tensor of one.
    if tf.is_tensor(training) or isinstance(training, Variable):
        return tf.cast(training, tf.bool)
    return bool(training)


def _as_integers(labels: Any, num_classes: int) -> tf.Tensor:
    """The labels, with floats checked for whole numbers and made int64."""
    labels = tf.convert_to_tensor(labels)
    dtype = labels.dtype.base_dtype
    if not dtype.is_floating:
        return labels
    below = _WHOLE_BELOW.get(dtype, 0)
    if num_classes > below:
        raise ValueError(
            f"{_CALLER}: labels must have an integer dtype for {num_classes} classes, got "
            f"{dtype.name}, which tells whole numbers apart up to {below} only"
        )
    checks = Checks(_CALLER)
    checks.require(
        # Infinity minus itself is none; beyond the range of int64 a cast may give anything.
        lambda: tf.reduce_all(
            tf.logical_and(tf.equal(labels, tf.floor(labels)), tf.abs(labels) < 2.0**53)
        ),
        "labels that are whole numbers, found",
        labels,
    )
    return tf.cast(checks.guard(labels), tf.int64)


def _check_pair(inputs: Any) -> None:
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        raise ValueError(f"{_CALLER}: inputs must be [labels, embeddings], got {inputs!r}")


def _read_dims(shapes: Any) -> int:
    """D, from the shapes of labels and embeddings."""
    _check_pair(shapes)
    labels, embeds = [tf.TensorShape(shape) for shape in shapes]
    if labels.ndims not in (None, 1) and (labels.ndims != 2 or labels.as_list()[1] != 1):
        raise ValueError(f"{_CALLER}: labels must have shape [B] or [B, 1], got {labels}")
    if embeds.ndims != 2 or embeds.as_list()[1] is None:
        raise ValueError(
            f"{_CALLER}: embeddings must have shape [B, D] with D known statically, got {embeds}"
        )
    return int(embeds.as_list()[1])


def _variable(weight: Any) -> Any:
    """The TensorFlow variable that a weight is, or that Keras 3 holds in it."""
    return weight if isinstance(weight, Variable) else weight.value


def _mean(distances: tf.Tensor) -> tf.Tensor:
    """The mean over the batch; 0 for an empty one."""
    size = tf.cast(tf.maximum(tf.size(distances), 1), distances.dtype)
    return tf.reduce_sum(distances) / size


def _takes(method: Any, parameter: str) -> bool:
    return parameter in inspect.signature(method).parameters
