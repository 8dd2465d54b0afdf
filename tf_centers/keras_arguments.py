"""What the Keras layer is given: its checks, and its updater as data that JSON can hold."""

import dataclasses
import math
import numbers
from typing import Any, Dict, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow import Variable

from tf_centers.checks import Checks
from tf_centers.updaters import CumulativeMean, ExponentialWindow, Updater, WenUpdate

_UPDATERS = {
    updater.__name__: updater for updater in (CumulativeMean, ExponentialWindow, WenUpdate)
}
# Below these a floating dtype tells all whole numbers apart, and none from beyond is rounded in.
_WHOLE_BELOW = {tf.bfloat16: 2**8, tf.float16: 2**11, tf.float32: 2**24, tf.float64: 2**53}


def as_loss_weight(caller: str, weight: Any) -> float:
    """Returns a Python float that is finite and at least 0."""
    if isinstance(weight, (bool, np.bool_)) or not isinstance(weight, numbers.Real):
        raise TypeError(f"{caller}: weight must be a Python float, got {weight!r}")
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"{caller}: weight must be finite and at least 0, got {weight!r}")
    return float(weight)


def as_pair(caller: str, inputs: Any) -> Tuple[Any, Any]:
    """Splits `[labels, embeddings]`, or the shapes of both."""
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        raise ValueError(f"{caller}: inputs must be [labels, embeddings], got {inputs!r}")
    return inputs[0], inputs[1]


def read_dims(caller: str, shapes: Any) -> int:
    """D, from the shapes of labels and embeddings."""
    labels, embeds = [tf.TensorShape(shape) for shape in as_pair(caller, shapes)]
    if labels.ndims not in (None, 1) and (labels.ndims != 2 or labels.as_list()[1] != 1):
        raise ValueError(f"{caller}: labels must have shape [B] or [B, 1], got {labels}")
    if embeds.ndims != 2 or embeds.as_list()[1] is None:
        raise ValueError(
            f"{caller}: embeddings must have shape [B, D] with D known statically, got {embeds}"
        )
    return int(embeds.as_list()[1])


def as_integers(caller: str, labels: Any, num_classes: int) -> tf.Tensor:
    """The labels, with floats checked for whole numbers and made int64."""
    labels = tf.convert_to_tensor(labels)
    dtype = labels.dtype.base_dtype
    if not dtype.is_floating:
        return labels
    below = _WHOLE_BELOW.get(dtype, 0)
    if num_classes > below:
        raise ValueError(
            f"{caller}: labels must have an integer dtype for {num_classes} classes, got "
            f"{dtype.name}, which tells whole numbers apart up to {below} only"
        )
    checks = Checks(caller)
    # Half precision has few of these ops everywhere.
    wide = tf.cast(labels, tf.float64)
    checks.require(
        # What is beyond the range of int64, infinity too, a cast may turn into anything.
        lambda: tf.reduce_all(
            tf.logical_and(tf.equal(wide, tf.floor(wide)), tf.abs(wide) < 2.0**53)
        ),
        "labels that are whole numbers, found",
        labels,
    )
    return tf.cast(checks.guard(wide), tf.int64)


def updater_to_config(caller: str, updater: Updater) -> Dict[str, Any]:
    """The class of an updater and its parameters; a tensor among them is a `ValueError`."""
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
