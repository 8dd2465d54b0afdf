"""Updaters as plain data that JSON can hold, and back."""

import dataclasses
from typing import Any, Dict

import tensorflow.compat.v1 as tf
from tensorflow import Variable

from tf_centers.updaters import CumulativeMean, ExponentialWindow, Updater, WenUpdate

_UPDATERS = {
    updater.__name__: updater for updater in (CumulativeMean, ExponentialWindow, WenUpdate)
}


def updater_to_config(caller: str, updater: Updater) -> Dict[str, Any]:
    """The class of an updater and its parameters; a tensor among them is a `ValueError`."""
    name = type(updater).__name__
    if _UPDATERS.get(name) is not type(updater):
        raise ValueError(f"{caller}: updater must be one of {_names()} to be saved, got {name}")
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
    name = config.get("class_name") if isinstance(config, dict) else config
    if name not in _UPDATERS:
        raise ValueError(f"{caller}: updater must be one of {_names()}, got {config!r}")
    updater: Updater = _UPDATERS[name](**config["config"])
    return updater


def _names() -> str:
    return " or ".join(sorted(_UPDATERS))
