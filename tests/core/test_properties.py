"""What holds for any batch, tried on random cases; every property rejects wrong formulas.

`TF_CENTERS_EXAMPLES=10000` tries that many cases of each property, and new ones at every run.
"""

import os
import time
from typing import NamedTuple

import numpy as np
import pytest
import reference
import tensorflow.compat.v1 as tf
from helpers import make_centers, parts, read_state
from updaters import UPDATERS

import tf_centers

EXAMPLES = int(os.environ.get("TF_CENTERS_EXAMPLES", "0"))
FIRST_SEED = int(time.time()) if EXAMPLES else 0
# What one write may be off by, of the largest value around; a float32 sum is rounded several times.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-6, "float64": 1e-12}


class Setting(NamedTuple):
    """How a graph is built; `known` says what of the shapes is."""

    use_resource: bool
    classes: int
    dims: int
    shards: int = None
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
    Setting(False, 11, 4, shards=3, use_locking=True),
    Setting(False, 5, 2, call="before", switch=True, embeds="float16"),
    Setting(True, 1, 1, shards=1, labels="uint64", ctrs="float64"),
    Setting(True, 7, 3, labels="int8", ctrs="float16", embeds="bfloat16"),
    Setting(False, 5, 2, masked=False, switch=True, rate_tensor=True, embeds="float64")._replace(
        ctrs="float64", known="nothing"
    ),
]
SHAPES = {"rank": ([None, None], [None, None], [None]), "nothing": (None, None, None)}


class Batch(NamedTuple):
    embeds: np.ndarray
    labels: np.ndarray
    mask: np.ndarray


class Case(NamedTuple):
    """The state before, float64 `[C, D]` and int64 `[C]`, and batches; values of their dtype."""

    setting: Setting
    ctrs: np.ndarray
    counts: np.ndarray
    batches: list


class Outcome(NamedTuple):
    """The state after all batches, and the rows that each returned, or None."""

    ctrs: np.ndarray
    counts: np.ndarray
    rows: list


def as_stored(values, dtype):
    """The values that a dtype makes of others, as float64."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(tf.as_dtype(dtype).as_numpy_dtype).astype(np.float64)


def draw_embeds(rng, size, dims, dtype):
    """Rows far from zero and from each other, in every dim another way: float64 `[size, dims]`."""
    values = 2.0 * rng.randn(size, dims) + np.linspace(-1, 3, dims)
    return as_stored(rng.choice([1.0, 1e-3, 50.0]) * values, dtype)


def draw_batch(rng, setting, classes):
    """Rows of a few of the given classes, so that labels repeat."""
    size = rng.randint(0, 19) if len(classes) else 0
    few = rng.choice(classes, rng.randint(1, 5)) if size else [0]
    masked = setting.masked and rng.rand() < 0.5
    return Batch(
        draw_embeds(rng, size, setting.dims, setting.embeds),
        rng.choice(few, size),
        rng.rand(size) < 0.6 if masked else np.ones(size, bool),
    )


def draw_case(rng, batches=3, where=lambda setting: True, counts=None):
    """A setting, a state and up to so many batches."""
    fitting = [setting for setting in SETTINGS if where(setting)]
    setting = fitting[rng.randint(len(fitting))]
    if counts is None:
        counts = rng.choice([0, 10**6, rng.randint(41), rng.randint(41)], setting.classes)
    ctrs = as_stored(draw_embeds(rng, setting.classes, setting.dims, "float64"), setting.ctrs)
    classes = np.arange(setting.classes)
    made = [draw_batch(rng, setting, classes) for _ in range(rng.randint(1, batches + 1))]
    return Case(setting, ctrs, np.broadcast_to(counts, setting.classes), made)


class Graph:
    """The package: one call under a setting, which runs from any state.

    A graph takes far longer to build than to run, so that all cases of a setting share one.
    """

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
        )
        variables = [part for variable in self._centers for part in parts(variable)]
        self._state = [tf.placeholder(v.dtype.base_dtype, v.shape) for v in variables]
        self._load = [tf.assign(v, new).op for v, new in zip(variables, self._state)]
        shapes = SHAPES.get(setting.known, ([None, setting.dims], [None], [None]))
        dtypes = (setting.embeds, setting.labels, tf.bool)
        self._holders = [tf.placeholder(dtype, shape) for dtype, shape in zip(dtypes, shapes)]
        rate = entry.rate
        if setting.rate_tensor:
            rate = tf.placeholder_with_default(tf.constant(rate or 0.0, tf.float64), [])
        batch = self._holders[:2] + [entry.make(rate), self._centers]
        batch.append(self._holders[2] if setting.masked else None)
        how = {"use_locking": setting.use_locking}
        if setting.call == "update":
            self._result = tf_centers.update_embed_centers(*batch, **how)
        else:
            switch = tf.placeholder_with_default(True, []) if setting.switch else True
            self._result = tf_centers.get_embed_centers(*batch, switch, setting.call, **how)

    def run(self, case):
        setting = self._setting
        shards = setting.shards or 1
        values = np.array_split(case.ctrs, shards) + np.array_split(case.counts, shards)
        typed = [value.astype(h.dtype.as_numpy_dtype) for value, h in zip(values, self._state)]
        self._session.run(self._load, dict(zip(self._state, typed)))
        rows = []
        for embeds, labels, mask in case.batches:
            labels = labels.reshape([-1, 1]) if setting.known == "rank" else labels
            values = embeds, labels.astype(setting.labels), mask
            values = (embeds.astype(self._holders[0].dtype.as_numpy_dtype),) + values[1:]
            rows.append(self._session.run(self._result, dict(zip(self._holders, values))))
        ctrs, counts = read_state(self._session, self._centers)
        return Outcome(ctrs.astype(np.float64), counts, None if setting.call == "update" else rows)


GRAPHS = {}


def package(name):
    """Runs a case on the package."""

    def run(case):
        key = name, case.setting
        if key not in GRAPHS:
            GRAPHS[key] = Graph(UPDATERS[name], case.setting)
        return GRAPHS[key].run(case)

    return run


def oracle(rule, see=lambda batch: batch, spoil=lambda ctrs, counts, batch: None, late=False):
    """Runs a case in NumPy; a wrong one sees other batches, spoils the state, or reads late."""

    def run(case):
        ctrs, counts, rows = case.ctrs, case.counts, []
        with np.errstate(all="ignore"):
            for batch in case.batches:
                before, seen = ctrs, see(batch)
                ctrs, counts = reference.apply(rule, ctrs, counts, *seen)
                spoil(ctrs, counts, seen)
                table = before if (case.setting.call == "before") != late else ctrs
                rows.append(np.array(batch.embeds))
                rows[-1][batch.mask] = table[batch.labels[batch.mask]]
        return Outcome(ctrs, counts, None if case.setting.call == "update" else rows)

    return run


def wrong(name, what):
    return oracle(reference.weighted(UPDATERS[name].wrong[what]))


def close(found, expected, *cases):
    """As close as rounding allows: at the size of the values, once a write."""
    values = [case.ctrs for case in cases]
    values += [batch.embeds[batch.mask] for case in cases for batch in case.batches]
    largest = max(np.abs(value).max() for value in values if value.size)
    writes = 1 + max(len(case.batches) for case in cases)
    atol = TOLERANCE[cases[0].setting.ctrs] * writes * largest
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=atol)


def same(found, expected, case, orders=None):
    """Outcomes are alike, the rows of each batch in another order."""
    close(found.ctrs, expected.ctrs, case)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.rows is None) == (expected.rows is None)
    for place, (rows, others) in enumerate(zip(found.rows or [], expected.rows or [])):
        order = slice(None) if orders is None else orders[place]
        close(rows, np.asarray(others, np.float64)[order], case)


def reordered(case, orders):
    batches = [Batch(*[v[o] for v in batch]) for batch, o in zip(case.batches, orders)]
    return case._replace(batches=batches)


def changed(case, **changes):
    """The case with each of its batches changed by functions of a batch."""
    return case._replace(
        batches=[b._replace(**{k: f(b) for k, f in changes.items()}) for b in case.batches]
    )


def agrees_with_the_oracle(run, rule, rng):
    case = draw_case(rng)
    same(run(case), oracle(rule)(case), case)


def any_split_into_batches_is_the_same(run, rule, rng):
    case = draw_case(rng, batches=1)
    cuts = np.sort(rng.randint(0, len(case.batches[0].labels) + 1, rng.randint(5)))
    pieces = zip(*[np.split(value, cuts) for value in case.batches[0]])
    split = case._replace(batches=[Batch(*piece) for piece in pieces])
    found, whole = run(split), run(case)
    close(found.ctrs, whole.ctrs, split)
    np.testing.assert_array_equal(found.counts, whole.counts)


def rows_of_different_classes_may_change_places(run, rule, rng):
    case, orders = draw_case(rng), []
    for batch in case.batches:
        classes = rng.permutation(batch.labels)
        orders.append(np.zeros(len(classes), int))
        for label in set(classes):
            orders[-1][classes == label] = np.flatnonzero(batch.labels == label)
    same(run(reordered(case, orders)), run(case), case, orders)


def all_rows_may_change_places(run, rule, rng):
    case = draw_case(rng)
    orders = [rng.permutation(len(batch.labels)) for batch in case.batches]
    same(run(reordered(case, orders)), run(case), case, orders)


def other_names_of_classes_permute_the_centers(run, rule, rng):
    case = draw_case(rng)
    names = rng.permutation(case.setting.classes)
    places = np.argsort(names)
    other = changed(case, labels=lambda batch: names[batch.labels])
    found = run(other._replace(ctrs=case.ctrs[places], counts=case.counts[places]))
    found = found._replace(ctrs=found.ctrs[names], counts=found.counts[names])
    same(found, run(case), case)


def masked_rows_might_as_well_not_be_there(run, rule, rng):
    case = draw_case(rng, where=lambda setting: setting.masked)
    ends = np.iinfo(case.setting.labels)
    junk = rng.choice([ends.min, min(ends.max, 2**63 - 1), case.setting.classes])
    value = as_stored(rng.choice([np.nan, np.inf, 3e38, 1.0]), case.setting.embeds)
    masked = changed(
        case,
        embeds=lambda batch: np.where(batch.mask[:, None], batch.embeds, value),
        labels=lambda batch: np.where(batch.mask, batch.labels, junk),
    )
    without = reordered(case, [batch.mask for batch in case.batches])
    found, expected = run(masked), run(without)
    for place, batch in enumerate(masked.batches if found.rows else []):
        rows = np.asarray(found.rows[place], np.float64)
        own = as_stored(batch.embeds, case.setting.ctrs)[~batch.mask]
        np.testing.assert_array_equal(rows[~batch.mask], own)
        found.rows[place] = rows[batch.mask]
    same(found, expected, without)


def scaled_embeddings_scale_the_centers(run, rule, rng):
    case, scale = draw_case(rng), rng.choice([-2.0, 4.0, 8.0])  # which no dtype has to round
    scaled = changed(case, embeds=lambda batch: scale * batch.embeds)
    scaled = scaled._replace(ctrs=scale * case.ctrs)
    expected = run(case)
    rows = expected.rows and [scale * np.asarray(one, np.float64) for one in expected.rows]
    same(run(scaled), Outcome(scale * expected.ctrs, expected.counts, rows), scaled)


def shifted_embeddings_shift_the_centers(run, rule, rng):
    case = draw_case(rng, where=lambda setting: setting.embeds == setting.ctrs)  # rounded once
    dtype, shift = case.setting.ctrs, np.linspace(-20, 30, case.setting.dims)
    shifted = changed(case, embeds=lambda batch: as_stored(batch.embeds + shift, dtype))
    shifted = shifted._replace(ctrs=as_stored(case.ctrs + shift, dtype))
    close(run(shifted).ctrs, run(case).ctrs + shift, case, shifted)


def absent_classes_keep_their_bits(run, rule, rng):
    case = draw_case(rng, where=lambda setting: setting.classes > 1)
    classes = case.setting.classes
    present = np.flatnonzero(rng.rand(classes) < 0.5)[: classes - 1]
    batches = [draw_batch(rng, case.setting, present) for _ in case.batches]
    touched = {label for batch in batches for label in batch.labels[batch.mask]}
    absent = [label for label in range(classes) if label not in touched]
    rare = [-0.0, np.nan, np.inf, -np.inf, 0.0, 1e-310, -1e-40, 6e-8, 65504.0, rng.randn()]
    ctrs = np.array(case.ctrs)
    ctrs[absent] = as_stored(
        np.resize(rng.permutation(rare), ctrs[absent].shape), case.setting.ctrs
    )
    case = case._replace(ctrs=ctrs, batches=batches)
    found = run(case)
    np.testing.assert_array_equal(found.ctrs[absent].view(int), ctrs[absent].view(int))
    np.testing.assert_array_equal(found.counts[absent], case.counts[absent])


def a_long_debiased_window_is_the_plain_one(run, rule, rng):
    case = draw_case(rng, counts=rng.randint(400, 10**6))  # 0.9^400 is beyond float64's digits
    plain = oracle(lambda *given: reference.exponential_window(*given, decay=0.9))
    close(run(case).ctrs, plain(case).ctrs, case)


def the_first_row_is_the_center(run, rule, rng):
    case = draw_case(rng, counts=0)
    labels = rng.permutation(case.setting.classes)[: rng.randint(1, case.setting.classes + 1)]
    embeds = draw_embeds(rng, len(labels), case.setting.dims, case.setting.embeds)
    case = case._replace(batches=[Batch(embeds, labels, np.ones(len(labels), bool))])
    found = run(case)
    close(found.ctrs[labels], embeds, case)
    np.testing.assert_array_equal(found.counts[labels], 1)


PROPERTIES = {
    agrees_with_the_oracle: lambda name, entry: True,
    any_split_into_batches_is_the_same: lambda name, entry: entry.splits,
    rows_of_different_classes_may_change_places: lambda name, entry: True,
    all_rows_may_change_places: lambda name, entry: not entry.ordered,
    other_names_of_classes_permute_the_centers: lambda name, entry: True,
    masked_rows_might_as_well_not_be_there: lambda name, entry: True,
    scaled_embeddings_scale_the_centers: lambda name, entry: True,
    shifted_embeddings_shift_the_centers: lambda name, entry: True,
    absent_classes_keep_their_bits: lambda name, entry: True,
    a_long_debiased_window_is_the_plain_one: lambda name, entry: name == "debiased",
    the_first_row_is_the_center: lambda name, entry: entry.needs_counts,
}
PAIRS = [
    (p, n) for p, fits in PROPERTIES.items() for n, e in sorted(UPDATERS.items()) if fits(n, e)
]


def for_all(holds, run, rule):
    """Raises an `AssertionError` that names the seed of a case for which it does not hold."""
    examples = -(-EXAMPLES // [each for each, _ in PAIRS].count(holds)) or 25
    for seed in range(FIRST_SEED, FIRST_SEED + examples):
        try:
            holds(run, rule, np.random.RandomState(seed))
        except AssertionError as error:
            raise AssertionError(f"{holds.__name__}, seed {seed}: {error}") from error


def name_of(value):
    return getattr(value, "__name__", value)


@pytest.mark.parametrize("holds, name", PAIRS, ids=name_of)
def test_property(holds, name):
    for_all(holds, package(name), UPDATERS[name].rule)


@pytest.mark.parametrize("holds, name", PAIRS, ids=name_of)
def test_property_of_the_oracle(holds, name):
    for_all(holds, oracle(UPDATERS[name].rule), UPDATERS[name].rule)


MEAN = UPDATERS["cumulative"].rule


def move_last(ctrs, counts, batch):
    ctrs[batch.labels[batch.mask][-1:]] += 1.0


def count_all(ctrs, counts, batch):
    counts += 1


def add_zero_to_all(ctrs, counts, batch):
    ctrs += 0.0


def draw_to_zero(ctrs, counts, batch):
    ctrs[batch.labels[batch.mask]] *= 0.99


def unmask(batch):
    return Batch(batch.embeds, np.clip(batch.labels, 0, 4), np.ones_like(batch.mask))


WRONG = {
    agrees_with_the_oracle: {
        "cumulative": [oracle(MEAN, late=True), oracle(MEAN, spoil=count_all)],
        "wen": [oracle(MEAN)],
        **{n: [wrong(n, what) for what in UPDATERS[n].wrong] for n in ("window", "debiased")},
    },
    any_split_into_batches_is_the_same: {
        "window": [wrong("window", "mean of the rows"), oracle(UPDATERS["summed"].rule)],
        "cumulative": [wrong("cumulative", "k forgotten")],
        "debiased": [wrong("debiased", "k alone")],
    },
    rows_of_different_classes_may_change_places: {"cumulative": [oracle(MEAN, spoil=move_last)]},
    all_rows_may_change_places: {"cumulative": [oracle(UPDATERS["window"].rule)]},
    other_names_of_classes_permute_the_centers: {
        "cumulative": [oracle(MEAN, lambda b: b._replace(mask=b.mask & (b.labels > 0)))]
    },
    masked_rows_might_as_well_not_be_there: {"cumulative": [oracle(MEAN, unmask)]},
    scaled_embeddings_scale_the_centers: {
        "cumulative": [oracle(MEAN, lambda b: b._replace(embeds=np.clip(b.embeds, -1, 1)))]
    },
    shifted_embeddings_shift_the_centers: {"cumulative": [oracle(MEAN, spoil=draw_to_zero)]},
    absent_classes_keep_their_bits: {
        "cumulative": [oracle(MEAN, spoil=add_zero_to_all), oracle(MEAN, spoil=count_all)]
    },
    a_long_debiased_window_is_the_plain_one: {"debiased": [wrong("debiased", "k alone")]},
    the_first_row_is_the_center: {
        "cumulative": [wrong("cumulative", "initial value as a row")],
        "debiased": [wrong("debiased", "not at all"), wrong("debiased", "one row too many")],
    },
}


@pytest.mark.parametrize("holds", PROPERTIES, ids=name_of)
def test_property_rejects_wrong_formulas(holds):
    for name, runs in WRONG[holds].items():
        for run in runs:
            with pytest.raises(AssertionError, match="(?i)seed [^z]*not equal"):
                for_all(holds, run, UPDATERS[name].rule)
