"""The types of arguments, for annotations in code that calls this package; nothing checks them."""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple, Union

from tf_centers.tables import EmbedCenters

if TYPE_CHECKING:  # Python 3.7 has neither.
    from typing_extensions import Literal, Protocol

    class Tensor(Protocol):
        """A tensor or a variable of TensorFlow or Keras, or an array: whatever has a dtype."""

        @property
        def dtype(self) -> Any: ...

    class Variable(Tensor, Protocol):
        """A variable of TensorFlow or Keras, whole or split by rows: it has a name as well."""

        @property
        def name(self) -> Any: ...

    Read = Literal["after", "before"]
    Duplicates = Literal["sequential", "mean", "sum"]
else:
    Tensor, Variable, Read, Duplicates = Any, Any, str, str

TensorLike = Union[Tensor, float, List[Any], Tuple[Any, ...]]
CentersLike = Union[str, EmbedCenters, Variable]  # the name of a scope, a table or its `ctrs`
Rate = Union[float, Tensor]  # in [0, 1]; a tensor or variable is a scalar, such as a schedule
LossWeight = Union[float, Variable]  # at least 0; a variable is a scalar
KerasLike = Union[str, Dict[str, Any], Callable[..., Any]]  # a name, a configuration, or the thing
