"""Checks of the arguments of the Keras layer, and updaters as JSON data."""

import dataclasses
import functools
import inspect
import math
import numbers
from typing import Any, Dict, Optional, Tuple

import tensorflow.compat.v1 as tf
from tensorflow import Variable, keras

from tf_centers import replicas
from tf_centers.checks import Checks, Shaped, as_floats, as_mask, known_sizes
from tf_centers.row_weights import Updater
from tf_centers.updaters import BUILT_IN
from tf_centers.variables import unwrap

CALLER = "ComputeCenter"
# Keras 3.0 to 3.2 have it in a function alone, tf_keras nowhere; it goes with TensorFlow's.
VERSION: str = (
    getattr(keras, "__version__", None) or getattr(keras, "version", lambda: tf.__version__)()
)
_LABELS = "labels of inputs [labels, embeddings]"
_EMBEDS = "embeddings of inputs [labels, embeddings]"
_UPDATERS = {updater.__name__: updater for updater in BUILT_IN}
_ONE = f"one of {', '.join(_UPDATERS)}"
# Below these, a floating dtype holds every whole number exactly, and rounds no larger one to it.
_WHOLE_BELOW = {tf.bfloat16: 2**8, tf.float16: 2**11, tf.float32: 2**24, tf.float64: 2**53}


def takes(method: Any, parameter: str) -> bool:
    """Whether a method of this version of Keras has a parameter."""
    return parameter in inspect.signature(method).parameters


def as_loss_weight(weight: Any) -> Any:
    """Returns a Python float that is finite and at least 0, or a scalar variable as it is."""
    held = unwrap(weight)
    if isinstance(replicas.copies(held)[0], Variable):
        if held.shape.ndims != 0 or not held.dtype.is_floating:
            raise ValueError(
                f"{CALLER}: weight must be a scalar variable of a floating dtype, got {weight!r}"
            )
        return weight
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        raise TypeError(
            f"{CALLER}: weight must be a Python float or a scalar variable, got {weight!r}"
        )
    if not 0 <= float(weight) < math.inf:
        raise ValueError(f"{CALLER}: weight must be finite and at least 0, got {weight!r}")
    return float(weight)


def as_keras(kind: str, value: Any) -> Any:
    """What a name, a configuration or an instance stands for: a Keras initializer or constraint."""
    try:
        found = getattr(keras, f"{kind}s").get(value)
    except (TypeError, ValueError):
        found = None
    if not callable(found):
        raise ValueError(f"{CALLER}: {kind} must be a Keras {kind}, got {value!r}")
    return found


def as_batch(
    inputs: Any, mask: Any, num_classes: int, num_dims: int
) -> Tuple[tf.Tensor, tf.Tensor, Optional[tf.Tensor]]:
    """Checks labels, embeddings and mask; returns labels that are integers, and not one-hot.

    `mask` is what Keras passes, a mask for each input or one for all; a third input joins it.
    """
    labels, embeds, *masks = _as_parts(inputs)
    embeds = as_floats(CALLER, _EMBEDS, embeds)
    labels = tf.convert_to_tensor(labels)
    check_shapes([value.shape for value in [labels, embeds] + masks], num_classes, num_dims)
    axes = embeds.shape.ndims - 1
    implicit = mask[1] if isinstance(mask, (list, tuple)) else mask
    masks = [as_mask(CALLER, "mask", value) for value in masks + [implicit] if value is not None]
    masks = [tf.reshape(m, [-1]) if axes == 1 else m for m in masks]
    is_used = functools.reduce(tf.logical_and, masks) if masks else None

    dtype = labels.dtype.base_dtype
    if not dtype.is_floating and not dtype.is_integer:
        raise TypeError(f"{CALLER}: {_LABELS} must be numbers, got {dtype.name}")
    # Half precision lacks some of these ops on some versions.
    wide = tf.cast(labels, tf.float64)
    if _is_one_hot(labels.shape, axes, num_classes):
        form, classes = "one-hot", tf.argmax(wide, axis=-1)
        expected = tf.one_hot(classes, num_classes, dtype=tf.float64)
    elif dtype.is_integer:
        return labels, embeds, is_used
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
    are_equal = tf.equal(wide, expected)
    if is_used is not None:
        has_axis = labels.shape.ndims == axes + 1
        are_equal |= tf.logical_not(is_used[..., tf.newaxis] if has_axis else is_used)
    holds = tf.reduce_all(are_equal)
    checks.require(lambda: holds, f"{_LABELS} to be {form}, found", labels)
    return checks.guard(classes), embeds, is_used


def check_shapes(shapes: Any, num_classes: int, num_dims: Optional[int] = None) -> int:
    """Checks the shapes of the inputs; returns D, which must be static if not given."""
    labels, embeds, *masks = map(tf.TensorShape, _as_parts(shapes))
    try:
        return _num_dims(labels, embeds, masks, num_classes, num_dims)
    except ValueError as error:
        try:
            _num_dims(embeds, labels, masks, num_classes, num_dims)
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; are labels and embeddings swapped?") from None


def _num_dims(labels: Any, embeds: Any, masks: Any, num_classes: int, dims: Optional[int]) -> int:
    """As `check_shapes`, of labels and embeddings that are not swapped."""
    axes = "BT" if embeds.ndims == 3 else "B"
    one_hot = "C" if _is_one_hot(labels, len(axes), num_classes) else ""
    column, wide = axes == "B", f"; one-hot labels must have shape [B, {num_classes}]"
    embeddings = Shaped(_EMBEDS, tf.TensorSpec(embeds), axes + "D")
    own = Shaped(_LABELS, tf.TensorSpec(labels), axes + one_hot, column and not one_hot, wide)
    others = [Shaped("mask", tf.TensorSpec(mask), axes, column, "") for mask in masks]
    given = {"C": num_classes, **({} if dims is None else {"D": dims})}
    sizes = known_sizes(CALLER, [embeddings, own, *others], given)
    if labels.ndims == len(axes) + 1 and labels.as_list()[-1] is None:
        raise ValueError(
            f"{CALLER}: {_LABELS} must have a known number of columns, 1 or, one-hot, "
            f"{num_classes}, got {labels}"
        )
    if embeds.ndims is None or "D" not in sizes:
        raise ValueError(
            f"{CALLER}: {_EMBEDS} must have shape [B, D] or [B, T, D] with D known statically, got "
            f"{embeds}"
        )
    return sizes["D"]


def _is_one_hot(labels: tf.TensorShape, axes: int, num_classes: int) -> bool:
    return bool(labels.ndims == axes + 1 and labels.as_list()[-1] == num_classes > 1)


def _as_parts(inputs: Any) -> Any:
    """The inputs, or their shapes: of one input alone, Keras passes the sizes instead."""
    is_list = isinstance(inputs, (list, tuple)) and len(inputs) in (2, 3)
    if not is_list or any(part is None or isinstance(part, int) for part in inputs):
        raise ValueError(
            f"{CALLER}: inputs must be [labels, embeddings] or [labels, embeddings, mask], got "
            f"{inputs!r}"
        )
    return inputs


def weight_to_config(weight: Any) -> float:
    """The weight of the loss, which may not be a variable."""
    if not isinstance(weight, float):
        raise ValueError(f"{CALLER}: weight must be a Python float to be saved, got {weight!r}")
    return weight


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


def warn_unless_savable(layer: Any) -> None:
    """Logs a warning of a layer whose configuration cannot be saved, before it is trained."""
    try:
        layer.get_config()
    except ValueError as error:
        tf.logging.warning(f"{error}; of this layer, only the weights can be saved")


def updater_from_config(config: Any) -> Updater:
    """The updater that `updater_to_config` was given."""
    name = config.get("class_name") if isinstance(config, dict) else None
    if name not in _UPDATERS:
        raise ValueError(f"{CALLER}: updater must be {_ONE}, got {config!r}")
    updater: Updater = _UPDATERS[name](**config["config"])
    return updater
