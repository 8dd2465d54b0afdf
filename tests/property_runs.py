"""What the property tests hold their properties against: the package, and models in NumPy.

A graph takes far longer to build than to run. So there is one for each setting and updater, with
every size of a batch unknown, and a test feeds its examples through it.
"""

import os
from functools import partial
from typing import Any, Callable, NamedTuple

import numpy as np
import reference
import tensorflow.compat.v1 as tf
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from random_cases import Outcome, numpy_dtype

import tf_centers

# So many examples of each property instead, and other ones at each run.
EXAMPLES = int(os.environ.get("TF_CENTERS_EXAMPLES", "0"))
_USUAL_EXAMPLES = 25


class Subject(NamedTuple):
    """An updater from its rate, the rate, and the rule of the oracle with the same."""

    make: Callable[[Any], Any]
    rate: float
    rule: Callable[..., Any]


def _debiased(rate):
    return tf_centers.ExponentialWindow(rate, debias=True)


def _summed(rate):
    return tf_centers.ExponentialWindow(rate, duplicates="sum")


def _averaged(rate):
    return tf_centers.ExponentialWindow(rate, duplicates="mean")


UPDATERS = {
    "cumulative": Subject(lambda rate: tf_centers.CumulativeMean(), 0, reference.cumulative_mean),
    "window": Subject(
        tf_centers.ExponentialWindow, 0.7, partial(reference.exponential_window, decay=0.7)
    ),
    "debiased": Subject(_debiased, 0.9, partial(reference.debiased_window, decay=0.9)),
    "summed": Subject(_summed, 0.95, partial(reference.summed_window, decay=0.95)),
    "averaged": Subject(_averaged, 0.6, partial(reference.averaged_window, decay=0.6)),
    "wen": Subject(tf_centers.WenUpdate, 0.3, partial(reference.wen_update, alpha=0.3)),
}


class Graph:
    """The package: a call under a setting, and a session that runs it from any state."""

    def __init__(self, updater, setting):
        self._setting = setting
        with tf.Graph().as_default() as graph:
            self._build(UPDATERS[updater])
            self._session = tf.Session(graph=graph)
            graph.finalize()

    def _build(self, subject):
        setting = self._setting
        splits = tf.fixed_size_partitioner(setting.shards) if setting.shards else None
        with tf.variable_scope("", partitioner=splits, use_resource=setting.use_resource):
            centers = tf_centers.create_embed_centers(
                setting.classes, setting.dims, dtype=setting.ctrs
            )
        self._variables = [list(v) if setting.shards else [v] for v in centers]
        self._new_state = [
            [tf.placeholder(v.dtype.base_dtype, v.shape) for v in vs] for vs in self._variables
        ]
        self._load = [
            tf.assign(v, new).op
            for vs, news in zip(self._variables, self._new_state)
            for v, new in zip(vs, news)
        ]
        shapes = {
            "dims": ([None, setting.dims], [None], [None]),
            "rank": ([None, None], [None, None], [None]),
            "nothing": (None, None, None),
        }[setting.known]
        dtypes = (setting.embeds, setting.labels, tf.bool)
        self._holders = [tf.placeholder(dtype, shape) for dtype, shape in zip(dtypes, shapes)]
        how = dict(centers=centers, use_locking=setting.use_locking)
        rate = subject.rate
        if setting.rate_tensor:
            rate = tf.placeholder_with_default(tf.constant(rate, tf.float64), [])
        how["updater"] = subject.make(rate)
        if setting.masked:
            how["mask"] = self._holders[2]
        if setting.call == "update":
            self._result = tf_centers.update_embed_centers(*self._holders[:2], **how)
        else:
            if setting.switch:
                how["is_training"] = tf.placeholder_with_default(True, [])
            self._result = tf_centers.get_embed_centers(
                *self._holders[:2], read=setting.call, **how
            )

    def run(self, case):
        setting, rows = self._setting, []
        column = setting.known == "rank"
        feed = {}
        for shards, value in zip(self._new_state, (case.ctrs, case.counts)):
            ends = np.cumsum([holder.shape.as_list()[0] for holder in shards])[:-1]
            for holder, part in zip(shards, np.split(value, ends)):
                feed[holder] = part.astype(holder.dtype.as_numpy_dtype)
        self._session.run(self._load, feed)
        for embeds, labels, mask in case.batches:
            values = [
                embeds.astype(numpy_dtype(setting.embeds)),
                labels.astype(setting.labels).reshape([-1, 1] if column else [-1]),
                mask,
            ]
            rows.append(self._session.run(self._result, dict(zip(self._holders, values))))
        ctrs, counts = [np.concatenate(part) for part in self._session.run(self._variables)]
        return Outcome(ctrs.astype(np.float64), counts, None if setting.call == "update" else rows)

    def close(self):
        self._session.close()


class Package:
    """The package, run under the setting of each case; `close` ends all its sessions."""

    def __init__(self):
        self._graphs = {}

    def runner(self, updater):
        def run(case):
            key = (updater, case.setting)
            if key not in self._graphs:
                self._graphs[key] = Graph(*key)
            return self._graphs[key].run(case)

        return run

    def close(self):
        for graph in self._graphs.values():
            graph.close()


def steps_with(rule):
    """A step as the oracle makes it: the state and a batch in, the new state out."""

    def step(ctrs, counts, batch):
        return reference.apply(rule, ctrs, counts, *batch)

    return step


def model(step, read=None):
    """What runs a case in NumPy, by a right or wrong step, and reads its rows right or wrong."""

    def run(case):
        ctrs, counts, rows = case.ctrs, case.counts, []
        with np.errstate(all="ignore"):
            for batch in case.batches:
                before = ctrs
                ctrs, counts = step(ctrs, counts, batch)
                rows.append((read or _read)(case.setting.call, before, ctrs, batch))
        return Outcome(ctrs, counts, None if case.setting.call == "update" else rows)

    return run


def _read(call, before, after, batch):
    rows = np.array(batch.embeds)
    rows[batch.mask] = (before if call == "before" else after)[batch.labels[batch.mask]]
    return rows


def for_all(holds, run, rule, shrink=True):
    """Raises an `AssertionError` unless `holds(run, rule, draw)`, whatever is drawn."""

    @settings(
        max_examples=EXAMPLES or _USUAL_EXAMPLES,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate] + ([Phase.shrink] if shrink else []),
        verbosity=Verbosity.normal if shrink else Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def check(data):
        holds(run, rule, data.draw)

    check()
