"""Arguments that are no tensors of a batch: their conversion and their checks."""

import functools
import numbers
import operator
from typing import Any, Callable, Optional, Tuple, TypeVar, Union, cast

import numpy as np
import tensorflow.compat.v1 as tf

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What copies of the usual recipe call their rate, and the updater that takes it.
_RATES = {"decay": "ExponentialWindow", "alfa": "ExponentialWindow", "alpha": "WenUpdate"}


def no_autograph(function: _Function) -> _Function:
    """Keeps AutoGraph out of an entry point, and tells callers what takes the rate of an update."""

    @functools.wraps(function)
    def entry_point(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs.keys() & _RATES.keys():
            raise TypeError(
                f"{function.__name__}: expected the rate of an update as an updater, got "
                f"{name}={kwargs[name]!r}; pass updater={_RATES[name]}({kwargs[name]!r})"
            )
        return function(*args, **kwargs)

    return cast(_Function, tf.autograph.experimental.do_not_convert(entry_point))


def as_switch(caller: str, name: str, value: Any) -> Union[bool, tf.Tensor]:
    """Returns a Python bool, or a scalar bool tensor."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    tensor = tf.convert_to_tensor(value) if tf.is_tensor(value) else None
    if tensor is None or tensor.dtype.base_dtype != tf.bool:
        raise TypeError(f"{caller}: {name} must be a bool or a bool tensor, got {value!r}")
    if tensor.shape.ndims not in (None, 0):
        raise ValueError(f"{caller}: {name} must be a scalar, got shape {tensor.shape}")
    return tensor


def check_bool(caller: str, name: str, value: Any) -> bool:
    """Returns a Python bool; anything else is a `TypeError`."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{caller}: {name} must be True or False, got {value!r}")
    return bool(value)


def as_size(caller: str, name: str, value: Any) -> int:
    """Returns a Python integer that is at least 1."""
    size = _as_int(value)
    if size is None:
        raise TypeError(f"{caller}: {name} must be a Python integer, got {value!r}")
    if size < 1:
        raise ValueError(f"{caller}: {name} must be at least 1, got {size}")
    return size


def as_count(caller: str, name: str, value: Any, most: int) -> int:
    """Returns a Python integer in [1, most]; anything else is a `ValueError`."""
    count = _as_int(value)
    if count is None or not 1 <= count <= most:
        raise ValueError(f"{caller}: {name} must be an integer in [1, {most}], got {value!r}")
    return count


def as_row_counts(caller: str, name: str, value: Any, num_classes: int) -> np.ndarray:
    """Returns an int64 array, `[]` or `[num_classes]`, of integers that are at least 0."""
    expected = f"{caller}: {name} must be an integer at least 0, or {num_classes} of them"
    found = np.asarray(None if tf.is_tensor(value) else value)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{expected}, got {value!r}")
    # A uint64 from 2^63 on turns negative here, and is refused as well.
    counts: np.ndarray = found.astype(np.int64)
    if counts.shape not in ((), (num_classes,)):
        raise ValueError(f"{expected}, got shape {list(counts.shape)}")
    if (counts < 0).any():
        raise ValueError(f"{expected}, got {counts.min()}")
    return counts


def as_dtype(caller: str, name: str, value: Any, choices: Tuple[tf.DType, ...]) -> tf.DType:
    """Returns the dtype among the choices that a value stands for."""
    for choice in choices:
        if choice == value:
            return choice
    allowed = " or ".join(f"tf.{choice.name}" for choice in choices)
    got = getattr(value, "name", repr(value))
    raise TypeError(f"{caller}: {name} must be {allowed}, got {got}")


def check_choice(caller: str, name: str, value: Any, choices: Tuple[Any, ...]) -> None:
    """Raises a `ValueError` unless the value is one of the choices, of their type."""
    if not isinstance(value, type(choices[0])) or value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{caller}: {name} must be {allowed}, got {value!r}")


def check_rate(caller: str, name: str, value: Any, below_one: bool = False) -> None:
    """Refuses a rate that is not a float in [0, 1] (`below_one`: [0, 1)) or a scalar tensor."""
    if tf.is_tensor(value):
        fits = value.dtype.is_floating and value.shape.ndims in (None, 0)
    else:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        fits = is_number and 0 <= float(value) <= 1 and not (below_one and float(value) == 1)
    if not fits:
        raise ValueError(
            f"{caller}: {name} must be a float or a scalar float tensor in "
            f"[0, 1{')' if below_one else ']'}, got {value!r}"
        )


def _as_int(value: Any) -> Optional[int]:
    try:
        return None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None
