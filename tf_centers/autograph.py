"""Keeps AutoGraph out: inside a user's `tf.function` it would rewrite the library's own code."""

from typing import Any, Callable, TypeVar, cast

import tensorflow.compat.v1 as tf

_Function = TypeVar("_Function", bound=Callable[..., Any])


def as_written(function: _Function) -> _Function:
    """Marks an entry point of the library to be run as it is written."""
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))
