"""Random cases for the property tests: a setting, a state, and batches with repeats and masks."""

from typing import NamedTuple, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from hypothesis import strategies as st

_MOST_ROWS = 18
# What one write may be off by, of the largest value around; a float32 sum is rounded several times.
_TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 1e-12}


class Setting(NamedTuple):
    """How a graph is built; `shards` is 0 for a table that is whole, `known` what of the shapes."""

    use_resource: bool
    classes: int
    dims: int
    shards: int = 0
    call: str = "after"
    use_locking: bool = False
    masked: bool = True
    switch: bool = False
    rate_tensor: bool = False
    embeds: str = "float32"
    ctrs: str = "float32"
    labels: str = "int32"
    known: str = "dims"


SETTINGS = [
    Setting(False, 7, 3, masked=False),
    Setting(True, 7, 3, labels="int64", known="nothing", rate_tensor=True),
    Setting(True, 11, 4, labels="uint8", known="rank"),
    Setting(False, 11, 4, shards=3, call="before", labels="int16"),
    Setting(True, 11, 4, shards=2, call="update", use_locking=True),
    Setting(False, 5, 2, call="before", switch=True, embeds="float16"),
    Setting(True, 1, 1, shards=1, labels="uint64", ctrs="float64"),
    Setting(True, 7, 3, labels="int8", ctrs="float16", embeds="bfloat16"),
    Setting(
        False,
        5,
        2,
        masked=False,
        switch=True,
        rate_tensor=True,
        embeds="float64",
        ctrs="float64",
        known="nothing",
    ),
]


class Batch(NamedTuple):
    embeds: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


class Case(NamedTuple):
    """The state before, float64 `[C, D]` and int64 `[C]` (values of their dtype), and batches."""

    setting: Setting
    ctrs: np.ndarray
    counts: np.ndarray
    batches: Tuple[Batch, ...]


class Outcome(NamedTuple):
    """The state after all batches, and the rows that each returned, None where none are."""

    ctrs: np.ndarray
    counts: np.ndarray
    rows: Optional[list]


def numpy_dtype(name):
    return tf.as_dtype(name).as_numpy_dtype


def as_stored(values, dtype):
    """The values that a dtype makes of others, as float64."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(numpy_dtype(dtype)).astype(np.float64)


@st.composite
def embeddings(draw, size, dims, dtype):
    """Rows far from zero and from each other, in every dim another way: float64 `[size, dims]`."""
    rng = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1.0, 1e-3, 50.0]))
    values = 2.0 * rng.randn(size, dims) + np.linspace(-1, 3, dims)
    return as_stored(scale * values, dtype)


@st.composite
def random_batches(draw, setting, classes=None):
    """A batch of rows of a few of the given classes, or of all, so that labels repeat."""
    classes = range(setting.classes) if classes is None else sorted(classes)
    size = draw(st.integers(0, _MOST_ROWS)) if classes else 0
    labels = []
    if size:
        few = draw(st.lists(st.sampled_from(classes), min_size=1, max_size=4))
        labels = draw(st.lists(st.sampled_from(few), min_size=size, max_size=size))
    mask = [True] * size
    if setting.masked and draw(st.booleans()):
        mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    embeds = draw(embeddings(size, setting.dims, setting.embeds))
    return Batch(embeds, np.array(labels, np.int64), np.array(mask, bool))


@st.composite
def cases(draw, most_batches=3, seen=None, where=lambda setting: True):
    """A setting, a state and some batches.

    Args:
      most_batches: there is one at least.
      seen: strategy for the count of each class.
      where: which of the settings may be drawn.
    """
    setting = draw(st.sampled_from([setting for setting in SETTINGS if where(setting)]))
    seen = st.integers(0, 40) | st.sampled_from([0, 10**6]) if seen is None else seen
    counts = draw(st.lists(seen, min_size=setting.classes, max_size=setting.classes))
    ctrs = as_stored(draw(embeddings(setting.classes, setting.dims, "float64")), setting.ctrs)
    batches = draw(st.lists(random_batches(setting), min_size=1, max_size=most_batches))
    return Case(setting, ctrs, np.array(counts, np.int64), tuple(batches))


def tolerance(*the_cases):
    """What a result may be off by: as often rounded as written, at the size of the values."""
    values = [case.ctrs for case in the_cases]
    values += [batch.embeds[batch.mask] for case in the_cases for batch in case.batches]
    largest = max(np.abs(value).max() for value in values if value.size)
    writes = 1 + max(len(case.batches) for case in the_cases)
    return _TOLERANCE[the_cases[0].setting.ctrs] * writes * largest
