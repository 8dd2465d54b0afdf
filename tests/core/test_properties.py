"""What holds for any batch, of the package and of its oracle, and wrong formulas that break it.

A property takes something that runs a case, the rule of the updater, and what draws.
`TF_CENTERS_EXAMPLES=1000` tries so many examples of each, and others at every run.
"""

import numpy as np
import pytest
from hypothesis import strategies as st
from property_runs import UPDATERS, Package, for_all, model, steps_with
from random_cases import as_stored, cases, embeddings, random_batches, tolerance
from wrong_models import PLAIN_WINDOW, WRONG


@pytest.fixture(scope="module")
def package():
    package = Package()
    yield package
    package.close()


def _close(found, expected, *the_cases):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance(*the_cases))


def _close_rows(found, expected, orders, *the_cases):
    """Rows are close to others, of which the order says which: none where a call returns none."""
    if found is None:
        assert expected is None
        return
    for one, other, order in zip(found, expected, orders):
        _close(np.asarray(one, np.float64), np.asarray(other, np.float64)[order], *the_cases)


def _everything(case):
    return [slice(None)] * len(case.batches)


def _like(case, reorder):
    """The case with each of its batches at other places; `reorder` says for a batch at which."""
    orders = [reorder(batch) for batch in case.batches]
    batches = [
        batch._replace(**{name: value[order] for name, value in batch._asdict().items()})
        for batch, order in zip(case.batches, orders)
    ]
    return case._replace(batches=tuple(batches)), orders


def _rounded_once(setting):
    return setting.embeds == setting.ctrs


def _masked(setting):
    return setting.masked


def agrees_with_the_reference(run, rule, draw):
    case = draw(cases())
    found, expected = run(case), model(steps_with(rule))(case)
    _close(found.ctrs, expected.ctrs, case)
    np.testing.assert_array_equal(found.counts, expected.counts)
    _close_rows(found.rows, expected.rows, _everything(case), case)


def any_split_into_batches_is_the_same(run, rule, draw):
    case = draw(cases(most_batches=1))
    (batch,) = case.batches
    cuts = draw(st.lists(st.integers(0, len(batch.labels)), max_size=4))
    pieces = zip(*[np.split(value, sorted(cuts)) for value in batch])
    split = case._replace(batches=tuple(batch._make(piece) for piece in pieces))
    found, whole = run(split), run(case)
    _close(found.ctrs, whole.ctrs, split)
    np.testing.assert_array_equal(found.counts, whole.counts)


def rows_of_different_classes_may_change_places(run, rule, draw):
    case = draw(cases())

    def reorder(batch):
        size = len(batch.labels)
        classes = batch.labels[draw(st.permutations(range(size)))] if size else batch.labels
        order = np.zeros(size, int)
        for label in set(classes):
            order[classes == label] = np.flatnonzero(batch.labels == label)
        return order

    other, orders = _like(case, reorder)
    found, expected = run(other), run(case)
    _close(found.ctrs, expected.ctrs, case)
    np.testing.assert_array_equal(found.counts, expected.counts)
    _close_rows(found.rows, expected.rows, orders, case)


def all_rows_may_change_places(run, rule, draw):
    case = draw(cases())
    other, orders = _like(
        case, lambda batch: np.array(draw(st.permutations(range(len(batch.labels)))), int)
    )
    found, expected = run(other), run(case)
    _close(found.ctrs, expected.ctrs, case)
    np.testing.assert_array_equal(found.counts, expected.counts)
    _close_rows(found.rows, expected.rows, orders, case)


def other_names_of_classes_permute_the_centers(run, rule, draw):
    case = draw(cases())
    names = np.array(draw(st.permutations(range(case.setting.classes))))
    places = np.argsort(names)
    batches = [batch._replace(labels=names[batch.labels]) for batch in case.batches]
    other = case._replace(
        ctrs=case.ctrs[places], counts=case.counts[places], batches=tuple(batches)
    )
    found, expected = run(other), run(case)
    _close(found.ctrs[names], expected.ctrs, case)
    np.testing.assert_array_equal(found.counts[names], expected.counts)
    _close_rows(found.rows, expected.rows, _everything(case), case)


def masked_rows_might_as_well_not_be_there(run, rule, draw):
    case = draw(cases(where=_masked))
    ends = np.iinfo(case.setting.labels)
    junk = st.sampled_from([ends.min, min(ends.max, 2**63 - 1), case.setting.classes])
    batches = []
    for batch in case.batches:
        embeds, labels, hidden = np.array(batch.embeds), np.array(batch.labels), ~batch.mask
        embeds[hidden] = as_stored(
            draw(st.sampled_from([np.nan, np.inf, 3e38, 1.0])), case.setting.embeds
        )
        labels[hidden] = draw(junk)
        batches.append(batch._replace(embeds=embeds, labels=labels))
    masked = case._replace(batches=tuple(batches))
    without, kept = _like(case, lambda batch: np.flatnonzero(batch.mask))
    found, expected = run(masked), run(without)
    _close(found.ctrs, expected.ctrs, without)
    np.testing.assert_array_equal(found.counts, expected.counts)
    if found.rows is not None:
        rows = [np.asarray(one, np.float64)[order] for one, order in zip(found.rows, kept)]
        _close_rows(rows, expected.rows, _everything(case), without)
        for one, batch in zip(found.rows, batches):
            own = as_stored(batch.embeds, case.setting.ctrs)[~batch.mask]
            np.testing.assert_array_equal(np.asarray(one, np.float64)[~batch.mask], own)


def scaled_embeddings_scale_the_centers(run, rule, draw):
    case = draw(cases())
    scale = draw(st.sampled_from([-2.0, 4.0, 8.0]))  # which no dtype has to round
    batches = [batch._replace(embeds=scale * batch.embeds) for batch in case.batches]
    scaled = case._replace(ctrs=scale * case.ctrs, batches=tuple(batches))
    found, expected = run(scaled), run(case)
    _close(found.ctrs, scale * expected.ctrs, scaled)
    if found.rows is not None:
        rows = [scale * np.asarray(one, np.float64) for one in expected.rows]
        _close_rows(found.rows, rows, _everything(case), scaled)


def shifted_embeddings_shift_the_centers(run, rule, draw):
    case = draw(cases(where=_rounded_once))
    shift = np.linspace(-20, 30, case.setting.dims)
    batches = [
        batch._replace(embeds=as_stored(batch.embeds + shift, case.setting.embeds))
        for batch in case.batches
    ]
    shifted = case._replace(
        ctrs=as_stored(case.ctrs + shift, case.setting.ctrs), batches=tuple(batches)
    )
    found, expected = run(shifted), run(case)
    _close(found.ctrs, expected.ctrs + shift, case, shifted)


def absent_classes_keep_their_bits(run, rule, draw):
    case = draw(cases(where=lambda setting: setting.classes > 1))
    setting = case.setting
    present = draw(st.sets(st.integers(0, setting.classes - 1), max_size=setting.classes - 1))
    batches = draw(st.lists(random_batches(setting, present), min_size=1, max_size=3))
    touched = {label for batch in batches for label in batch.labels[batch.mask]}
    absent = [label for label in range(setting.classes) if label not in touched]
    rare = [-0.0, np.nan, np.inf, -np.inf, 0.0, 1e-310, -1e-40, 6e-8, 65504.0]
    rare += [draw(st.floats(width=32)), draw(st.floats(width=64))]
    ctrs = np.array(case.ctrs)
    ctrs[absent] = as_stored(
        np.resize(draw(st.permutations(rare)), ctrs[absent].shape), setting.ctrs
    )
    case = case._replace(ctrs=ctrs, batches=tuple(batches))
    found = run(case)
    bits = [values[absent].view(np.int64) for values in (found.ctrs, ctrs)]
    np.testing.assert_array_equal(*bits)
    np.testing.assert_array_equal(found.counts[absent], case.counts[absent])


def a_long_debiased_window_is_the_plain_one(run, rule, draw):
    # 0.9^400 is beyond the digits of a float64.
    case = draw(cases(seen=st.integers(400, 10**6)))
    plain = model(steps_with(PLAIN_WINDOW))(case)
    _close(run(case).ctrs, plain.ctrs, case)


def the_first_row_is_the_center(run, rule, draw):
    case = draw(cases(seen=st.just(0)))
    setting = case.setting
    labels = draw(st.permutations(range(setting.classes)))
    size = draw(st.integers(1, setting.classes))
    embeds = draw(embeddings(size, setting.dims, setting.embeds))
    batch = case.batches[0]._make([embeds, np.array(labels[:size]), np.ones(size, bool)])
    case = case._replace(batches=(batch,))
    found = run(case)
    _close(found.ctrs[batch.labels], embeds, case)
    np.testing.assert_array_equal(found.counts[batch.labels], 1)


EVERY_UPDATER = sorted(UPDATERS)
PROPERTIES = {
    agrees_with_the_reference: EVERY_UPDATER,
    any_split_into_batches_is_the_same: ["cumulative", "debiased", "window"],
    rows_of_different_classes_may_change_places: EVERY_UPDATER,
    all_rows_may_change_places: ["averaged", "cumulative", "summed", "wen"],
    other_names_of_classes_permute_the_centers: EVERY_UPDATER,
    masked_rows_might_as_well_not_be_there: EVERY_UPDATER,
    scaled_embeddings_scale_the_centers: EVERY_UPDATER,
    shifted_embeddings_shift_the_centers: EVERY_UPDATER,
    absent_classes_keep_their_bits: EVERY_UPDATER,
    a_long_debiased_window_is_the_plain_one: ["debiased"],
    the_first_row_is_the_center: ["cumulative", "debiased"],
}
PAIRS = [(holds, updater) for holds, updaters in PROPERTIES.items() for updater in updaters]


def _name(value):
    return getattr(value, "__name__", value)


@pytest.mark.parametrize("holds, updater", PAIRS, ids=_name)
def test_property(holds, updater, package):
    for_all(holds, package.runner(updater), UPDATERS[updater].rule)


@pytest.mark.parametrize("holds, updater", PAIRS, ids=_name)
def test_property_of_the_oracle(holds, updater):
    rule = UPDATERS[updater].rule
    for_all(holds, model(steps_with(rule)), rule)


@pytest.mark.parametrize("holds", PROPERTIES, ids=_name)
def test_wrong_formulas_break_the_property(holds):
    wrong_models = WRONG[holds.__name__]
    assert wrong_models
    for (updater, wrong), run in sorted(wrong_models.items()):
        with pytest.raises(AssertionError, match="(?i)not equal"):
            for_all(holds, run, UPDATERS[updater].rule, shrink=False)
            raise AssertionError(f"{updater}: {wrong}, and it was passed")
