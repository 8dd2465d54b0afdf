"""The one list of updaters, for all tests and for the scripts in scripts/maintenance.

A new updater is one entry here, and its rule in reference.py.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional

import reference

import tf_centers


class Entry(NamedTuple):
    """An updater, what it should do, and formulas that must not pass for it.

    Attributes:
      make: makes the updater from its rate, a float or a scalar tensor.
      rate: the rate of most tests; None for an updater that takes none.
      formula: `(center, seen, rows, rate)`, the rule of the oracle; no `rate` if there is none.
      weigh: `(N, k, later)`, the row weights as its docstring states them, with this rate.
      wrong: row weights that are wrong in a likely way, by what is wrong with them.
      fades: whether counts fade by the rate.
    """

    make: Callable[[Any], tf_centers.Updater]
    rate: Optional[float]
    formula: Callable[..., Any]
    weigh: Callable[..., Any]
    wrong: Dict[str, Callable[..., Any]]
    fades: bool = False

    @property
    def updater(self):
        return self.make(self.rate)

    @property
    def count_decay(self):
        return self.rate if self.fades else None

    @property
    def count_dtype(self):
        return "float64" if self.fades else "int64"

    @property
    def rule(self):
        """The rule of the oracle with this rate, for `reference.apply`."""
        rates = [] if self.rate is None else [self.rate]
        return reference.fading(lambda *state: self.formula(*state, *rates), self.count_decay)


class Weighted(tf_centers.Updater):
    """An updater of one's own: any function of N, k and the rows of the class that come later."""

    needs_counts = True

    def __init__(self, weigh, count_decay=None):
        self.weigh, self.count_decay = weigh, count_decay

    def row_weights(self, rows):
        return self.weigh(rows.seen, rows.sizes, rows.later)


UPDATERS = {
    "cumulative": Entry(
        make=lambda rate: tf_centers.CumulativeMean(),
        rate=None,
        formula=reference.cumulative_mean,
        weigh=lambda n, k, later: 1 / (n + k),
        wrong={
            "N forgotten": lambda n, k, later: 1 / k,
            "k forgotten": lambda n, k, later: 1 / (n + 1),
            "initial value as a row": lambda n, k, later: 1 / (n + k + 1),
        },
    ),
    "fading": Entry(
        make=tf_centers.FadingMean,
        rate=0.8,
        formula=reference.fading_mean,
        weigh=lambda n, k, later: 1 / (0.8 * n + k),
        wrong={
            "nothing fades": lambda n, k, later: 1 / (n + k),
            "the rows fade too": lambda n, k, later: 1 / (0.8 * (n + k)),
            "once a row": lambda n, k, later: 1 / (0.8**k * n + k),
            "N forgotten": lambda n, k, later: 1 / k,
        },
        fades=True,
    ),
    "window": Entry(
        make=tf_centers.ExponentialWindow,
        rate=0.7,
        formula=reference.exponential_window,
        weigh=lambda n, k, later: 0.3 * 0.7**later,
        wrong={
            "order reversed": lambda n, k, later: 0.3 * 0.7 ** (k - 1 - later),
            "off by one": lambda n, k, later: 0.3 * 0.7 ** (later + 1),
            "as if one row": lambda n, k, later: 0.3 + 0 * k,
            "mean of the rows": lambda n, k, later: 0.3 / k,
            "decay for 1 - decay": lambda n, k, later: 0.7 * 0.3**later,
        },
    ),
    "debiased": Entry(
        make=lambda rate: tf_centers.ExponentialWindow(rate, debias=True),
        rate=0.9,
        formula=reference.debiased_window,
        weigh=lambda n, k, later: 0.1 * 0.9**later / (1 - 0.9 ** (n + k)),
        wrong={
            "not at all": lambda n, k, later: 0.1 * 0.9**later,
            "N alone": lambda n, k, later: 0.1 * 0.9**later / (1 - 0.9 ** (n + 1)),
            "k alone": lambda n, k, later: 0.1 * 0.9**later / (1 - 0.9**k),
            "one row too many": lambda n, k, later: 0.1 * 0.9**later / (1 - 0.9 ** (n + k + 1)),
        },
    ),
    "averaged": Entry(
        make=lambda rate: tf_centers.ExponentialWindow(rate, duplicates="mean"),
        rate=0.6,
        formula=reference.averaged_window,
        weigh=lambda n, k, later: 0.4 / k,
        wrong={
            "sequential": lambda n, k, later: 0.4 * 0.6**later,
            "k + 1 for k": lambda n, k, later: 0.4 / (k + 1),
            "decay for 1 - decay": lambda n, k, later: 0.6 / k,
        },
    ),
    "summed": Entry(
        make=lambda rate: tf_centers.ExponentialWindow(rate, duplicates="sum"),
        rate=0.99,
        formula=reference.summed_window,
        weigh=lambda n, k, later: 0.01 + 0 * k,
        wrong={
            "sequential": lambda n, k, later: 0.01 * 0.99**later,
            "mean": lambda n, k, later: 0.01 / k,
        },
    ),
    "wen": Entry(
        make=tf_centers.WenUpdate,
        rate=0.3,
        formula=reference.wen_update,
        weigh=lambda n, k, later: 0.3 / (1 + k),
        wrong={
            "k for k + 1": lambda n, k, later: 0.3 / k,
            "not divided": lambda n, k, later: 0.3 + 0 * k,
            "N counted": lambda n, k, later: 0.3 / (1 + n + k),
        },
    ),
}
WITH_RATE = {name: entry for name, entry in UPDATERS.items() if entry.rate is not None}
# Every pair of an updater and a wrong formula for it.
WRONG = [(name, what) for name, entry in UPDATERS.items() for what in entry.wrong]
