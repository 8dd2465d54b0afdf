"""Checks of the arguments of the Keras layer, and updaters as JSON data."""

import dataclasses
import math
import numbers
from typing import Any, Dict, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow import Variable, keras

from tf_centers.checks import Checks
from tf_centers.updaters import CumulativeMean, ExponentialWindow, Updater, WenUpdate

_UPDATERS = {
    updater.__name__: updater for updater in (CumulativeMean, ExponentialWindow, WenUpdate)
}
# As messages name them.
LABELS = "labels of inputs [labels, embeddings]"
EMBEDS = "embeddings of inputs [labels, embeddings]"
# Below these, a floating dtype holds every whole number exactly, and rounds no larger one to it.
_WHOLE_BELOW = {tf.bfloat16: 2**8, tf.float16: 2**11, tf.float32: 2**24, tf.float64: 2**53}


def as_loss_weight(caller: str, weight: Any) -> float:
    """Returns a Python float that is finite and at least 0."""
    if isinstance(weight, (bool, np.bool_)) or not isinstance(weight, numbers.Real):
        raise TypeError(f"{caller}: weight must be a Python float, got {weight!r}")
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"{caller}: weight must be finite and at least 0, got {weight!r}")
    return float(weight)


def as_initializer(caller: str, initializer: Any) -> Any:
    """The Keras initializer that a name, a configuration or an instance stands for."""
    try:
        found = keras.initializers.get(initializer)
    except (TypeError, ValueError):
        found = None
    if not callable(found):
        raise ValueError(f"{caller}: initializer must be one of Keras, got {initializer!r}")
    return found


def as_pair(caller: str, inputs: Any) -> Tuple[Any, Any]:
    """Splits `[labels, embeddings]`, or the shapes of both."""
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        raise ValueError(f"{caller}: inputs must be [labels, embeddings], got {inputs!r}")
    return inputs[0], inputs[1]


def check_shapes(
    caller: str, shapes: Any, num_classes: int, num_dims: Optional[int] = None
) -> tf.TensorShape:
    """Checks the shapes of labels and embeddings; returns that of the embeddings.

    Without `num_dims`, the embeddings must have a static D.
    """
    labels, embeds = [tf.TensorShape(shape) for shape in as_pair(caller, shapes)]
    columns = labels.as_list()[1] if labels.ndims == 2 else 1
    if labels.ndims not in (None, 1, 2) or columns not in (1, num_classes):
        raise ValueError(
            f"{caller}: {LABELS} must have shape [B], [B, 1] or, one-hot, [B, {num_classes}], got "
            f"{labels}"
        )
    if num_dims is None:
        form, fits = "[B, D] with D known statically", embeds[1:].is_fully_defined()
    else:
        form, fits = f"[B, {num_dims}]", embeds.is_compatible_with([None, num_dims])
    if not fits or embeds.ndims not in (None, 2):
        raise ValueError(f"{caller}: {EMBEDS} must have shape {form}, got {embeds}")
    if not labels[:1].is_compatible_with(embeds[:1]):
        raise ValueError(
            f"{caller}: both of inputs [labels, embeddings] must have the same number of rows, got "
            f"shapes {labels} and {embeds}"
        )
    return embeds


def as_integers(caller: str, labels: Any, num_classes: int) -> tf.Tensor:
    """The labels; one-hot ones as integers `[B]`, and floats that are whole numbers as int64."""
    labels = tf.convert_to_tensor(labels)
    dtype = labels.dtype.base_dtype
    if not dtype.is_floating and not dtype.is_integer:
        raise TypeError(f"{caller}: {LABELS} must be numbers, got {dtype.name}")
    checks = Checks(caller)
    # Half precision lacks some of these ops on some versions.
    wide = tf.cast(labels, tf.float64)
    if labels.shape.ndims == 2 and labels.shape.as_list()[1] == num_classes > 1:
        classes = tf.argmax(wide, axis=1)
        one_hot = tf.one_hot(classes, num_classes, dtype=tf.float64)
        checks.require(
            lambda: tf.reduce_all(tf.equal(wide, one_hot)), f"{LABELS} to be one-hot, found", labels
        )
        return checks.guard(classes)
    if dtype.is_integer:
        return labels
    below = _WHOLE_BELOW.get(dtype, 0)
    if num_classes > below:
        raise ValueError(
            f"{caller}: {LABELS} must have an integer dtype for {num_classes} classes, got "
            f"{dtype.name}, which is exact only up to {below}"
        )
    checks.require(
        # Beyond the range of int64, a cast may return anything.
        lambda: tf.reduce_all(
            tf.logical_and(tf.equal(wide, tf.floor(wide)), tf.abs(wide) < 2.0**53)
        ),
        f"{LABELS} to be whole numbers, found",
        labels,
    )
    return tf.cast(checks.guard(wide), tf.int64)


def updater_to_config(caller: str, updater: Updater) -> Dict[str, Any]:
    """The class of an updater and its parameters, none of which may be a tensor."""
    name = type(updater).__name__
    if _UPDATERS.get(name) is not type(updater):
        raise ValueError(f"{caller}: updater must be {_names()} to be saved, got {updater!r}")
    config = {}
    for field in dataclasses.fields(updater):
        value = getattr(updater, field.name)
        if tf.is_tensor(value) or isinstance(value, Variable):
            raise ValueError(
                f"{caller}: {field.name} of {name} must be a Python float to be saved, got "
                f"{value!r}"
            )
        config[field.name] = value if isinstance(value, (bool, str)) else float(value)
    return {"class_name": name, "config": config}


def updater_from_config(caller: str, config: Any) -> Updater:
    """The updater that `updater_to_config` was given."""
    name = config.get("class_name") if isinstance(config, dict) else None
    if name not in _UPDATERS:
        raise ValueError(f"{caller}: updater must be {_names()}, got {config!r}")
    updater: Updater = _UPDATERS[name](**config["config"])
    return updater


def _names() -> str:
    return "one of " + ", ".join(_UPDATERS)
