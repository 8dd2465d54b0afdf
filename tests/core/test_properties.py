"""Any batch, in any kind of graph: the package does what the oracle does, one row after the other.

`TF_CENTERS_EXAMPLES=10000` tries that many cases of every updater, and new ones at every run.
"""

import functools
import os
from typing import NamedTuple, Optional

import hypothesis
import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import make_centers, parts, read_state
from hypothesis import strategies
from updaters import UPDATERS, WRONG, Weighted

import tf_centers

EXAMPLES = int(os.environ.get("TF_CENTERS_EXAMPLES", "0"))
# What one write may be off by, of the largest value around; a float32 sum is rounded several times.
TOLERANCE = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-12}


class Setting(NamedTuple):
    """How a graph is built; `known` says what of the shapes is."""

    use_resource: bool
    classes: int
    dims: int
    shards: Optional[int] = None
    call: str = "after"
    use_locking: bool = False
    masked: bool = True
    switch: bool = False
    rate_tensor: bool = False
    embeds: str = "float32"
    ctrs: str = "float32"
    labels: str = "int32"
    known: str = "dims"
    own: bool = False  # whether the updater is one of the caller's


SETTINGS = [
    Setting(False, 7, 3, masked=False),
    Setting(True, 7, 3, labels="int64", known="nothing", rate_tensor=True),
    Setting(True, 11, 4, labels="uint8", known="rank", own=True),
    Setting(False, 11, 4, shards=3, call="before", labels="int16", switch=True),
    Setting(True, 11, 4, shards=2, call="update", use_locking=True),
    Setting(True, 11, 4, shards=2, call="before", use_locking=True, switch=True),
    Setting(False, 5, 2, call="before", switch=True, embeds="float16"),
    Setting(True, 1, 1, shards=1, labels="uint64", ctrs="float64"),
    Setting(True, 7, 3, labels="int8", ctrs="float16", embeds="bfloat16"),
    Setting(
        False, 5, 2, masked=False, switch=True, rate_tensor=True,
        embeds="float64", ctrs="float64", known="nothing",
    ),
]  # fmt: skip


class Batch(NamedTuple):
    embeds: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


class Case(NamedTuple):
    """The state before, float64 `[C, D]` and integers `[C]`, and batches; values of their dtype."""

    setting: Setting
    ctrs: np.ndarray
    counts: np.ndarray
    batches: list

    @property
    def touched(self):
        """Bool `[C]`: whether a class has a row in any of the batches."""
        labels = np.concatenate([batch.labels[batch.mask] for batch in self.batches])
        return np.isin(np.arange(self.setting.classes), labels)


class Outcome(NamedTuple):
    """The state after all batches, and the rows that each returned."""

    ctrs: np.ndarray
    counts: np.ndarray
    rows: list


def as_stored(values, dtype):
    """The values that a dtype makes of others, as float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values).astype(tf.as_dtype(dtype).as_numpy_dtype).astype(np.float64)


def draw_embeds(rng, size, dims, dtype):
    """Rows far from zero and from each other, in every dim another way: float64 `[size, dims]`."""
    values = 2.0 * rng.randn(size, dims) + np.linspace(-1, 3, dims)
    return as_stored(rng.choice([1.0, 1e-3, 50.0]) * values, dtype)


def draw_batch(rng, setting):
    """Rows of a few classes, so that labels repeat; in masked rows anything at all."""
    size = rng.randint(0, 19)
    labels = rng.choice(rng.randint(setting.classes, size=rng.randint(1, 5)), size)
    embeds = draw_embeds(rng, size, setting.dims, setting.embeds)
    mask = np.ones(size, bool)
    if setting.masked and rng.rand() < 0.5:
        mask = rng.rand(size) < 0.6
        ends = np.iinfo(setting.labels)
        labels[~mask] = rng.choice([ends.min, min(ends.max, 2**63 - 1), setting.classes])
        embeds[~mask] = as_stored(rng.choice([np.nan, np.inf, 3e38, 1.0]), setting.embeds)
    return Batch(embeds, labels, mask)


def draw_case(setting, seed):
    """A state and up to three batches; classes without a row have values that are easily lost."""
    rng = np.random.RandomState(seed)
    ctrs = draw_embeds(rng, setting.classes, setting.dims, setting.ctrs)
    counts = rng.choice([0, 10**6, rng.randint(41), rng.randint(41)], setting.classes)
    batches = [draw_batch(rng, setting) for _ in range(rng.randint(1, 4))]
    case = Case(setting, ctrs, counts, batches)
    fragile = [-0.0, np.nan, np.inf, -np.inf, 0.0, 1e-310, -1e-40, 6e-8, 65504.0, rng.randn()]
    spoilt = as_stored(np.resize(rng.permutation(fragile), ctrs.shape), setting.ctrs)
    return case._replace(ctrs=np.where(case.touched[:, np.newaxis], ctrs, spoilt))


class Graph:
    """The package: one call under a setting, which runs from any state."""

    def __init__(self, entry, setting):
        self._setting = setting
        with tf.Graph().as_default() as graph:
            self._build(entry)
            self._session = tf.Session(graph=graph)

    def _build(self, entry):
        setting = self._setting
        self._centers = make_centers(
            tf_centers,
            setting.use_resource,
            setting.classes,
            setting.dims,
            setting.shards,
            dtype=setting.ctrs,
            count_dtype=entry.count_dtype,
        )
        variables = [part for variable in self._centers for part in parts(variable)]
        self._state = [tf.placeholder(v.dtype.base_dtype, v.shape) for v in variables]
        self._load = [tf.assign(v, new).op for v, new in zip(variables, self._state)]
        shapes = {
            "dims": ([None, setting.dims], [None], [None]),
            "rank": ([None, None], [None, None], [None]),
            "nothing": (None, None, None),
        }[setting.known]
        dtypes = (setting.embeds, setting.labels, tf.bool)
        self._holders = [tf.placeholder(dtype, shape) for dtype, shape in zip(dtypes, shapes)]
        rate = entry.rate
        if setting.rate_tensor:
            rate = tf.placeholder_with_default(tf.constant(rate or 0.0, tf.float64), [])
        updater = Weighted(entry.weigh, entry.count_decay) if setting.own else entry.make(rate)
        embeds, labels, mask = self._holders
        batch = [embeds, labels, updater, self._centers, mask if setting.masked else None]
        how = {"use_locking": setting.use_locking}
        if setting.call == "update":
            self._result = tf_centers.update_embed_centers(*batch, **how)
        else:
            switch = tf.placeholder_with_default(True, []) if setting.switch else True
            self._result = tf_centers.get_embed_centers(*batch, switch, setting.call, **how)

    def run(self, case):
        shards = case.setting.shards or 1
        values = np.array_split(case.ctrs, shards) + np.array_split(case.counts, shards)
        self._run(self._load, self._state, values)
        rows = []
        for embeds, labels, mask in case.batches:
            labels = labels.reshape([-1, 1]) if case.setting.known == "rank" else labels
            rows.append(self._run(self._result, self._holders, [embeds, labels, mask]))
        ctrs, counts = read_state(self._session, self._centers)
        return Outcome(ctrs.astype(np.float64), counts, rows)

    def _run(self, fetches, holders, values):
        with np.errstate(over="ignore", invalid="ignore"):
            typed = [value.astype(h.dtype.as_numpy_dtype) for h, value in zip(holders, values)]
        return self._session.run(fetches, dict(zip(holders, typed)))


@functools.lru_cache(maxsize=None)
def graph_of(name, setting):
    """One graph for all cases of a setting, since it takes far longer to build than to run."""
    return Graph(UPDATERS[name], setting)


def run_oracle(case, rule):
    ctrs, counts, rows = case.ctrs, case.counts, []
    for embeds, labels, mask in case.batches:
        before = ctrs
        ctrs, counts = reference.apply(rule, ctrs, counts, embeds, labels, mask)
        rows.append(as_stored(embeds, case.setting.ctrs))
        rows[-1][mask] = (before if case.setting.call == "before" else ctrs)[labels[mask]]
    return Outcome(ctrs, counts, rows)


def check(found, expected, case):
    """As close as rounding allows: at the size of the values, once a write; else bit for bit."""
    touched = case.touched
    values = [case.ctrs[touched]] + [batch.embeds[batch.mask] for batch in case.batches]
    largest = max(np.abs(value).max() for value in values if value.size) if touched.any() else 0
    atol = TOLERANCE[case.setting.ctrs] * (1 + len(case.batches)) * largest
    np.testing.assert_array_equal(found.counts, expected.counts)
    np.testing.assert_allclose(found.ctrs[touched], expected.ctrs[touched], rtol=0, atol=atol)
    kept, as_they_were = found.ctrs[~touched], case.ctrs[~touched]
    np.testing.assert_array_equal(kept.view(np.int64), as_they_were.view(np.int64))
    if case.setting.call == "update":
        return
    for rows, others, batch in zip(found.rows, expected.rows, case.batches):
        rows = np.asarray(rows, np.float64)
        np.testing.assert_allclose(rows[batch.mask], others[batch.mask], rtol=0, atol=atol)
        np.testing.assert_array_equal(rows[~batch.mask], others[~batch.mask])


@pytest.mark.parametrize("name", sorted(UPDATERS))
@hypothesis.settings(
    max_examples=EXAMPLES or 80, derandomize=not EXAMPLES, database=None, deadline=None
)
@hypothesis.given(strategies.sampled_from(SETTINGS), strategies.integers(0, 2**32 - 1))
def test_agrees_with_the_oracle(name, setting, seed):
    case = draw_case(setting, seed)
    check(graph_of(name, setting).run(case), run_oracle(case, UPDATERS[name].rule), case)


@pytest.mark.parametrize("name, what", WRONG)
def test_a_wrong_formula_does_not_agree(name, what):
    entry = UPDATERS[name]
    wrong = reference.fading(reference.weighted(entry.wrong[what]), entry.count_decay)
    with pytest.raises(AssertionError, match="(?i)not equal"):
        for seed in range(10):
            for setting in SETTINGS:
                case = draw_case(setting, seed)
                check(run_oracle(case, wrong), run_oracle(case, entry.rule), case)
