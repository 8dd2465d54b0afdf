"""Checks of the arguments of the Keras layer, and updaters as JSON data."""

import dataclasses
import math
import numbers
from typing import Any, Dict, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import keras

from tf_centers.checks import Checks, as_floats
from tf_centers.row_weights import Updater
from tf_centers.updaters import BUILT_IN

CALLER = "ComputeCenter"
_LABELS = "labels of inputs [labels, embeddings]"
_EMBEDS = "embeddings of inputs [labels, embeddings]"
_UPDATERS = {updater.__name__: updater for updater in BUILT_IN}
_ONE = f"one of {', '.join(_UPDATERS)}"
# Below these, a floating dtype holds every whole number exactly, and rounds no larger one to it.
_WHOLE_BELOW = {tf.bfloat16: 2**8, tf.float16: 2**11, tf.float32: 2**24, tf.float64: 2**53}


def as_loss_weight(weight: Any) -> float:
    """Returns a Python float that is finite and at least 0."""
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise TypeError(f"{CALLER}: weight must be a Python float, got {weight!r}")
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"{CALLER}: weight must be finite and at least 0, got {weight!r}")
    return float(weight)


def as_initializer(initializer: Any) -> Any:
    """The Keras initializer that a name, a configuration or an instance stands for."""
    try:
        found = keras.initializers.get(initializer)
    except (TypeError, ValueError):
        found = None
    if not callable(found):
        raise ValueError(f"{CALLER}: initializer must be a Keras initializer, got {initializer!r}")
    return found


def as_batch(inputs: Any, num_classes: int, num_dims: int) -> Tuple[tf.Tensor, tf.Tensor]:
    """Checks labels and embeddings; returns labels that are integers, and not one-hot."""
    labels, embeds = _as_pair(inputs)
    embeds = as_floats(CALLER, _EMBEDS, embeds)
    check_shapes([labels.shape, embeds.shape], num_classes, num_dims)
    labels = tf.convert_to_tensor(labels)
    dtype = labels.dtype.base_dtype
    if not dtype.is_floating and not dtype.is_integer:
        raise TypeError(f"{CALLER}: {_LABELS} must be numbers, got {dtype.name}")
    # Half precision lacks some of these ops on some versions.
    wide = tf.cast(labels, tf.float64)
    if labels.shape.ndims == 2 and labels.shape.as_list()[1] == num_classes > 1:
        form, classes = "one-hot", tf.argmax(wide, axis=1)
        expected = tf.one_hot(classes, num_classes, dtype=tf.float64)
    elif dtype.is_integer:
        return labels, embeds
    elif num_classes > _WHOLE_BELOW.get(dtype, 0):
        raise ValueError(
            f"{CALLER}: {_LABELS} must have an integer dtype for {num_classes} classes, got "
            f"{dtype.name}, which is exact only up to {_WHOLE_BELOW.get(dtype, 0)}"
        )
    else:
        # Beyond the range of int64, a cast may return anything, but nothing that equals `wide`.
        form, classes = "whole numbers", tf.cast(wide, tf.int64)
        expected = tf.cast(classes, tf.float64)
    checks = Checks(CALLER)
    are_equal = tf.reduce_all(tf.equal(wide, expected))
    checks.require(lambda: are_equal, f"{_LABELS} to be {form}, found", labels)
    return checks.guard(classes), embeds


def check_shapes(shapes: Any, num_classes: int, num_dims: Optional[int] = None) -> int:
    """Checks the shapes of labels and embeddings; returns D, which must be static if not given."""
    labels, embeds = [tf.TensorShape(shape) for shape in _as_pair(shapes)]
    has_columns = labels.ndims == 2 and labels.as_list()[1] in (1, num_classes)
    if labels.ndims not in (None, 1) and not has_columns:
        forms = f"[B], [B, 1] or, one-hot, [B, {num_classes}]"
        raise ValueError(f"{CALLER}: {_LABELS} must have shape {forms}, got {labels}")
    fits = embeds.is_compatible_with([None, num_dims])
    if not fits or (num_dims is None and not embeds[1:].is_fully_defined()):
        form = "B, D] with D known statically" if num_dims is None else f"B, {num_dims}]"
        raise ValueError(f"{CALLER}: {_EMBEDS} must have shape [{form}, got {embeds}")
    if not labels[:1].is_compatible_with(embeds[:1]):
        raise ValueError(
            f"{CALLER}: both of inputs [labels, embeddings] must have the same number of rows, got "
            f"shapes {labels} and {embeds}"
        )
    return int(embeds.as_list()[1]) if num_dims is None else num_dims


def _as_pair(inputs: Any) -> Tuple[Any, Any]:
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        raise ValueError(f"{CALLER}: inputs must be [labels, embeddings], got {inputs!r}")
    return inputs[0], inputs[1]


def updater_to_config(updater: Any) -> Dict[str, Any]:
    """The class of an updater and its parameters, none of which may be a tensor."""
    name = type(updater).__name__
    if type(updater) not in BUILT_IN:
        raise ValueError(f"{CALLER}: updater must be {_ONE} to be saved, got {updater!r}")
    config = {}
    for field in dataclasses.fields(updater):
        value, what = getattr(updater, field.name), f"{field.name} of {name}"
        if tf.is_tensor(value):
            raise ValueError(f"{CALLER}: {what} must be a Python float to be saved, got {value!r}")
        config[field.name] = value if isinstance(value, (bool, str)) else float(value)
    return {"class_name": name, "config": config}


def updater_from_config(config: Any) -> Updater:
    """The updater that `updater_to_config` was given."""
    name = config.get("class_name") if isinstance(config, dict) else None
    if name not in _UPDATERS:
        raise ValueError(f"{CALLER}: updater must be {_ONE}, got {config!r}")
    updater: Updater = _UPDATERS[name](**config["config"])
    return updater
