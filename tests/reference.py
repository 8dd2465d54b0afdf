"""The oracle: what the updaters mean, in float64 NumPy, one row after the other.

Each rule takes the center of one class, the number of rows the class had before and its rows of
this batch in order, and returns the new center. None of them knows of row weights. What counts fade
by is the `count_decay` of a rule.
"""

import numpy as np


def cumulative_mean(center, seen, rows):
    for row in rows:
        center = (seen * center + row) / (seen + 1)
        seen += 1
    return center


def fading_mean(center, seen, rows, decay=0.99):
    mass, total = decay * seen, decay * seen * center
    for row in rows:
        mass, total = mass + 1, total + row
    return total / mass


def exponential_window(center, seen, rows, decay=0.95):
    for row in rows:
        center = decay * center + (1 - decay) * row
    return center


def debiased_window(center, seen, rows, decay=0.95):
    # The window that started from zero, of which `center` is the corrected value.
    window = center * (1 - decay**seen)
    for row in rows:
        window = decay * window + (1 - decay) * row
        seen += 1
    return window / (1 - decay**seen)


def summed_window(center, seen, rows, decay=0.95):
    before = center
    for row in rows:
        center = center - (1 - decay) * (before - row)
    return center


def averaged_window(center, seen, rows, decay=0.95):
    return decay * center + (1 - decay) * np.mean(rows, axis=0)


def wen_update(center, seen, rows, alpha=0.5):
    numerator = np.zeros_like(center)
    denominator = 1
    for row in rows:
        numerator += center - row
        denominator += 1
    return center - alpha * numerator / denominator


def fading(rule, decay):
    """The rule, and with it what a batch multiplies the counts of all classes with, or None."""
    rule.count_decay = decay
    return rule


def weighted(weigh):
    """The rule of row weights `weigh(N, k, later)`, right or wrong ones."""

    def rule(center, seen, rows):
        k = len(rows)
        moves = [weigh(seen, k, k - j) * (center - row) for j, row in enumerate(rows, start=1)]
        return center - sum(moves)

    return rule


def apply(rule, ctrs, counts, embeds, labels, mask=None):
    """Returns the centers and counts after one batch; changes none of its arguments."""
    decay = getattr(rule, "count_decay", None)
    ctrs = np.array(ctrs, np.float64)
    counts = np.array(counts, np.int64 if decay is None else np.float64)
    rows_of = {}
    for position, label in enumerate(labels):
        if mask is None or mask[position]:
            rows_of.setdefault(int(label), []).append(np.array(embeds[position], np.float64))
    for label, rows in rows_of.items():
        ctrs[label] = rule(ctrs[label], counts[label].item(), rows)
    if rows_of and decay is not None:
        counts *= decay
    for label, rows in rows_of.items():
        counts[label] += len(rows)
    return ctrs, counts


def nearest(embeds, ctrs, counts, k):
    """Returns labels and distances `[B, k]`, one class after the other."""
    labels, distances = [], []
    for embed in np.array(embeds, np.float64):
        found = []
        for label, center in enumerate(np.array(ctrs, np.float64)):
            if counts is None or counts[label] > 0:
                found.append((float(np.sqrt(sum((embed - center) ** 2))), label))
        found = sorted(found)[:k] + [(float("inf"), -1)] * max(0, k - len(found))
        labels.append([label for _, label in found])
        distances.append([distance for distance, _ in found])
    return np.array(labels), np.array(distances)
