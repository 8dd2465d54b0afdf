"""Arguments as callers pass them: their conversion, and the checks that need no values.

Every message begins with the name of the function that was called.
"""

import numbers
import operator
from typing import Any, Callable, Optional, Tuple, TypeVar, Union, cast

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow import Variable

_Function = TypeVar("_Function", bound=Callable[..., Any])


def as_written(function: _Function) -> _Function:
    """Marks an entry point, so that AutoGraph in a user's `tf.function` leaves our code alone."""
    return cast(_Function, tf.autograph.experimental.do_not_convert(function))


def as_floats(caller: str, name: str, value: Any) -> tf.Tensor:
    """Converts `value` to a tensor of a floating dtype."""
    tensor = _as_tensor(caller, name, value)
    if not tensor.dtype.is_floating:
        raise TypeError(
            f"{caller}: {name} must have a floating dtype, got {tensor.dtype.base_dtype.name}"
        )
    return tensor


def as_labels(caller: str, name: str, value: Any) -> Tuple[tf.Tensor, tf.DType]:
    """Converts `value` to int32 or int64, never to a narrower dtype than its own.

    Returns:
      The labels, and the dtype in which they were given. Labels of uint64 from 2^63 on have become
      negative.
    """
    tensor = _as_tensor(caller, name, value)
    if not tensor.dtype.is_integer:
        one_hot = tensor.shape.ndims == 2 and tensor.shape.as_list()[1] != 1
        raise TypeError(
            f"{caller}: {name} must hold class labels of an integer dtype, got "
            f"{tensor.dtype.base_dtype.name} of shape {tensor.shape}"
            + (f"; for one-hot labels, pass tf.argmax({name}, axis=1)" if one_hot else "")
        )
    given = tensor.dtype.base_dtype
    return (tensor if given in (tf.int32, tf.int64) else tf.cast(tensor, tf.int64)), given


def as_mask(caller: str, name: str, value: Any) -> tf.Tensor:
    """Converts `value` to a bool tensor."""
    tensor = _as_tensor(caller, name, value)
    if tensor.dtype.base_dtype != tf.bool:
        raise TypeError(f"{caller}: {name} must be bool, got {tensor.dtype.base_dtype.name}")
    return tensor


def as_switch(caller: str, name: str, value: Any) -> Union[bool, tf.Tensor]:
    """Returns a Python bool, or a scalar bool tensor."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not tf.is_tensor(value) and not isinstance(value, Variable):
        raise TypeError(f"{caller}: {name} must be a bool or a bool tensor, got {value!r}")
    tensor = tf.convert_to_tensor(value)
    if tensor.dtype.base_dtype != tf.bool:
        raise TypeError(
            f"{caller}: {name} must be a bool or a bool tensor, got {tensor.dtype.base_dtype.name}"
        )
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
    found = None if tf.is_tensor(value) or isinstance(value, Variable) else np.asarray(value)
    if found is None or found.dtype.kind not in "iu":
        raise TypeError(f"{expected}, got {value!r}")
    if found.shape not in ((), (num_classes,)):
        raise ValueError(f"{expected}, got shape {list(found.shape)}")
    # A uint64 from 2^63 on turns negative here, and is refused as well.
    counts: np.ndarray = found.astype(np.int64)
    if (counts < 0).any():
        raise ValueError(f"{expected}, got {counts.min()}")
    return counts


def check_choice(caller: str, name: str, value: Any, choices: Tuple[str, ...]) -> None:
    """Raises a `ValueError` unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{caller}: {name} must be {allowed}, got {value!r}")


def check_rate(caller: str, name: str, value: Any, below_one: bool = False) -> None:
    """Raises a `ValueError` unless a rate is a float in [0, 1] (`below_one`: [0, 1)) or a tensor.

    The value of a tensor is checked at run time, by `Updater.prepare`.
    """
    allowed = f"in [0, 1{')' if below_one else ']'}"
    if tf.is_tensor(value) or isinstance(value, Variable):
        if not value.dtype.is_floating or value.shape.ndims not in (None, 0):
            raise ValueError(
                f"{caller}: {name} must be a float or a scalar float tensor {allowed}, got "
                f"{value.dtype.base_dtype.name} of shape {value.shape}"
            )
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(
            f"{caller}: {name} must be a float or a scalar float tensor {allowed}, got {value!r}"
        )
    elif not (0 <= float(value) < 1 or (float(value) == 1 and not below_one)):
        raise ValueError(f"{caller}: {name} must be {allowed}, got {value!r}")


def _as_int(value: Any) -> Optional[int]:
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _as_tensor(caller: str, name: str, value: Any) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{caller}: {name} must be a dense tensor, got {value!r}") from error
    # An assignment to a ref variable returns a tensor of a ref dtype.
    return tensor if tensor.dtype == tensor.dtype.base_dtype else tf.identity(tensor)
