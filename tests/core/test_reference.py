"""The oracle itself, against arithmetic done by hand."""

import functools

import numpy as np
import pytest
import reference

# One class at 2.0 that has had 3 rows, and now gets 4.0 and then 8.0.
BY_HAND = [
    # (3 * 2 + 4 + 8) / 5 = 18 / 5
    (reference.cumulative_mean, 3.6),
    # 0.5 * 2 + 0.5 * 4 = 3, then 0.5 * 3 + 0.5 * 8
    (functools.partial(reference.exponential_window, decay=0.5), 5.5),
    # the window from zero was 2 * (1 - 1/8) = 1.75; 0.875 + 2 = 2.875, 1.4375 + 4 = 5.4375;
    # 5.4375 / (1 - 1/32)
    (functools.partial(reference.debiased_window, decay=0.5), 5.4375 * 32 / 31),
    # 2 - 0.5 * (2 - 4) - 0.5 * (2 - 8)
    (functools.partial(reference.summed_window, decay=0.5), 6.0),
    # 2 - 0.5 * ((2 - 4) + (2 - 8)) / (1 + 2) = 2 + 4 / 3
    (functools.partial(reference.wen_update, alpha=0.5), 2 + 4 / 3),
]


@pytest.mark.parametrize("rule, expected", BY_HAND)
def test_rule_by_hand(rule, expected):
    np.testing.assert_allclose(rule(2.0, 3, [4.0, 8.0]), expected, rtol=1e-14)


def test_first_row_of_the_rules_without_initial_value():
    assert reference.cumulative_mean(100.0, 0, [4.0]) == 4.0
    assert reference.debiased_window(100.0, 0, [4.0]) == pytest.approx(4.0, rel=1e-12)


def test_apply_by_hand():
    ctrs, counts = np.zeros([3, 2]), np.array([0, 1, 2])
    embeds = [[1, 2], [3, 4], [5, 6], [7, 8]]
    new, total = reference.apply(
        reference.cumulative_mean, ctrs, counts, embeds, [2, 0, 2, 1], [True, True, True, False]
    )
    # class 0: the row (3, 4) alone; class 1: its only row is masked; class 2: (0 * 2 + 1 + 5) / 4
    np.testing.assert_array_equal(new, [[3, 4], [0, 0], [1.5, 2]])
    np.testing.assert_array_equal(total, [1, 1, 4])
    assert not ctrs.any() and counts.tolist() == [0, 1, 2]


def test_nearest_by_hand():
    labels, distances = reference.nearest([[0, 0]], [[3, 4], [0, 1], [0, 0]], [1, 1, 0], 3)
    assert labels.tolist() == [[1, 0, -1]]
    assert distances.tolist() == [[1.0, 5.0, float("inf")]]
