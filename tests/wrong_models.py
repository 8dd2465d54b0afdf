"""Wrong formulas, for each of the properties of which they must break one."""

from functools import partial

import numpy as np
import reference
from property_runs import UPDATERS, model, steps_with

RULES = {name: subject.rule for name, subject in UPDATERS.items()}
PLAIN_WINDOW = partial(reference.exponential_window, decay=0.9)


def _weighted(weigh):
    """The recipe with weights from N, k, the rows of the class that come later, and of all."""

    def step(ctrs, counts, batch):
        embeds, labels = batch.embeds[batch.mask], batch.labels[batch.mask]
        rows = np.arange(len(labels))
        same = labels[:, None] == labels
        later = (same & (rows[:, None] < rows)).sum(axis=1)
        weights = weigh(counts[labels], same.sum(axis=1), later, len(labels) - 1 - rows)
        ctrs, counts, old = np.array(ctrs), np.array(counts), ctrs[labels]
        np.subtract.at(ctrs, labels, weights[:, None] * (old - embeds))
        np.add.at(counts, labels, 1)
        return ctrs, counts

    return model(step)


def _before(updater, change):
    """A right step on a batch that was changed before."""

    def step(ctrs, counts, batch):
        batch = batch._replace(labels=np.clip(batch.labels, 0, len(ctrs) - 1))
        return steps_with(RULES[updater])(ctrs, counts, change(batch, ctrs))

    return model(step)


def _after(updater, change):
    """A right step whose new state, and what of it was touched, is changed afterwards."""

    def step(ctrs, counts, batch):
        new = steps_with(RULES[updater])(ctrs, counts, batch)
        touched = np.isin(np.arange(len(ctrs)), batch.labels[batch.mask])[:, None]
        return change(*new, touched)

    return model(step)


def _reading(updater, read):
    return model(steps_with(RULES[updater]), read)


def _with_embeds(change):
    return lambda batch, ctrs: batch._replace(embeds=change(batch.embeds))


def _read_other_time(call, before, after, batch):
    rows = np.array(batch.embeds)
    rows[batch.mask] = (after if call == "before" else before)[batch.labels[batch.mask]]
    return rows


def _read_zeros(call, before, after, batch):
    return np.where(batch.mask[:, None], _read_other_time(call, after, before, batch), 0.0)


def _drop_class_0(batch, ctrs):
    return batch._replace(mask=batch.mask & (batch.labels > 0))


def _cut_last_class(batch, ctrs):
    return batch._replace(labels=np.minimum(batch.labels, max(0, len(ctrs) - 2)))


def _unmask(batch, ctrs):
    return batch._replace(mask=np.ones_like(batch.mask))


def _unmask_with_zeros(batch, ctrs):
    return _unmask(batch._replace(embeds=np.where(batch.mask[:, None], batch.embeds, 0.0)), ctrs)


def _count_masked(ctrs, counts, batch):
    ctrs, _ = steps_with(RULES["cumulative"])(ctrs, counts, batch)
    return ctrs, counts + np.bincount(np.clip(batch.labels, 0, len(ctrs) - 1), minlength=len(ctrs))


def _shorten(embeds):
    return embeds / np.maximum(1e-9, np.sqrt((embeds**2).sum(axis=1, keepdims=True)))


WRONG = {
    "agrees_with_the_reference": {
        ("cumulative", "N forgotten"): _weighted(lambda n, k, later, rest: 1 / k),
        ("cumulative", "k forgotten"): _weighted(lambda n, k, later, rest: 1 / (n + 1)),
        ("cumulative", "sign"): _weighted(lambda n, k, later, rest: -1 / (n + k)),
        ("cumulative", "not counted"): _after("cumulative", lambda c, n, touched: (c, 0 * n)),
        ("cumulative", "before for after"): _reading("cumulative", _read_other_time),
        ("window", "backwards"): _weighted(lambda n, k, later, rest: 0.3 * 0.7 ** (k - 1 - later)),
        ("debiased", "k alone"): _weighted(
            lambda n, k, later, rest: 0.1 * 0.9**later / (1 - 0.9**k)
        ),
        ("summed", "one after the other"): _weighted(lambda n, k, later, rest: 0.05 * 0.95**later),
        ("averaged", "sequential"): _weighted(lambda n, k, later, rest: 0.4 * 0.6**later),
        ("averaged", "decay for 1 - decay"): _weighted(lambda n, k, later, rest: 0.6 / k),
        ("wen", "k for k + 1"): _weighted(lambda n, k, later, rest: 0.3 / k),
    },
    "any_split_into_batches_is_the_same": {
        ("window", "summed"): model(steps_with(RULES["summed"])),
        ("window", "mean of the batch"): _weighted(lambda n, k, later, rest: 0.3 / k),
        ("cumulative", "Wen's"): model(steps_with(RULES["wen"])),
        ("cumulative", "k forgotten"): _weighted(lambda n, k, later, rest: 1 / (n + 1)),
        ("debiased", "k alone"): _weighted(
            lambda n, k, later, rest: 0.1 * 0.9**later / (1 - 0.9**k)
        ),
    },
    "rows_of_different_classes_may_change_places": {
        ("window", "decay over the batch"): _weighted(lambda n, k, later, rest: 0.3 * 0.7**rest),
        ("cumulative", "last row alone"): _weighted(
            lambda n, k, later, rest: (rest == 0) / (n + k)
        ),
    },
    "all_rows_may_change_places": {
        ("cumulative", "a window"): model(steps_with(RULES["window"])),
        ("wen", "last of its class alone"): _weighted(
            lambda n, k, later, rest: 0.3 * (later == 0) / (1 + k)
        ),
    },
    "other_names_of_classes_permute_the_centers": {
        ("cumulative", "class 0 for padding"): _before("cumulative", _drop_class_0),
        ("window", "last class cut off"): _before("window", _cut_last_class),
    },
    "masked_rows_might_as_well_not_be_there": {
        ("wen", "not masked"): _before("wen", _unmask),
        ("wen", "zeros in their place"): _before("wen", _unmask_with_zeros),
        ("cumulative", "masked rows counted"): model(_count_masked),
        ("window", "zeros returned"): _reading("window", _read_zeros),
    },
    "scaled_embeddings_scale_the_centers": {
        ("wen", "clipped"): _before("wen", _with_embeds(lambda x: np.clip(x, -1, 1))),
        ("window", "of unit length"): _before("window", _with_embeds(_shorten)),
        ("cumulative", "a small constant"): _after(
            "cumulative", lambda c, n, touched: (c + 1e-3 * touched, n)
        ),
    },
    "shifted_embeddings_shift_the_centers": {
        ("window", "weights above 1"): _before("window", _with_embeds(lambda x: 1.01 * x)),
        ("wen", "drawn to zero"): _after("wen", lambda c, n, touched: (c - 0.01 * c * touched, n)),
    },
    "absent_classes_keep_their_bits": {
        ("window", "all decay"): _after(
            "window", lambda c, n, touched: (np.where(touched, c, 0.999 * c), n)
        ),
        ("window", "zero added to all"): _after("window", lambda c, n, touched: (c + 0.0, n)),
        ("cumulative", "all counted"): _after("cumulative", lambda c, n, touched: (c, n + 1)),
    },
    "a_long_debiased_window_is_the_plain_one": {
        ("debiased", "another decay"): model(steps_with(RULES["window"])),
        ("debiased", "k alone"): _weighted(
            lambda n, k, later, rest: 0.1 * 0.9**later / (1 - 0.9**k)
        ),
    },
    "the_first_row_is_the_center": {
        ("debiased", "not at all"): model(steps_with(PLAIN_WINDOW)),
        ("debiased", "one row too many"): _weighted(
            lambda n, k, later, rest: 0.1 * 0.9**later / (1 - 0.9 ** (n + k + 1))
        ),
        ("cumulative", "initial value as a row"): _weighted(
            lambda n, k, later, rest: 1 / (n + k + 1)
        ),
    },
}
