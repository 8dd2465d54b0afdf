"""The oracle itself, against arithmetic by hand and against row weights."""

import numpy as np
import pytest
import reference
from updaters import UPDATERS

# One class at 2.0 that has had 3 rows, and now gets 4.0 and then 8.0; every rate is 0.5.
BY_HAND = [
    # (3 * 2 + 4 + 8) / 5 = 18 / 5
    (reference.cumulative_mean, [], 3.6),
    # 3 rows at 2 count 0.5 each: (0.5 * 3 * 2 + 4 + 8) / (0.5 * 3 + 2) = 15 / 3.5
    (reference.fading_mean, [0.5], 30 / 7),
    # 0.5 * 2 + 0.5 * 4 = 3, then 0.5 * 3 + 0.5 * 8
    (reference.exponential_window, [0.5], 5.5),
    # the window from zero was 2 * (1 - 1/8) = 1.75; 0.875 + 2 = 2.875, 1.4375 + 4 = 5.4375;
    # 5.4375 / (1 - 1/32)
    (reference.debiased_window, [0.5], 5.4375 * 32 / 31),
    # 2 - 0.5 * (2 - 4) - 0.5 * (2 - 8)
    (reference.summed_window, [0.5], 6.0),
    # 0.5 * 2 + 0.5 * (4 + 8) / 2
    (reference.averaged_window, [0.5], 4.0),
    # 2 - 0.5 * ((2 - 4) + (2 - 8)) / (1 + 2) = 2 + 4 / 3
    (reference.wen_update, [0.5], 2 + 4 / 3),
]


@pytest.mark.parametrize("rule, rate, expected", BY_HAND)
def test_rule_by_hand(rule, rate, expected):
    np.testing.assert_allclose(rule(2.0, 3, [4.0, 8.0], *rate), expected, rtol=1e-14)


def test_every_rule_is_checked_by_hand():
    assert {rule for rule, _, _ in BY_HAND} == {entry.formula for entry in UPDATERS.values()}


def test_first_row_of_the_rules_without_initial_value():
    assert reference.cumulative_mean(100.0, 0, [4.0]) == 4.0
    assert reference.debiased_window(100.0, 0, [4.0]) == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("name", sorted(UPDATERS))
def test_rules_are_those_of_the_row_weights_and_of_no_wrong_ones(name):
    entry, case = UPDATERS[name], (2.0, 3, [4.0, 8.0, -1.0])
    expected = entry.rule(*case)
    assert reference.weighted(entry.weigh)(*case) == pytest.approx(expected, rel=1e-12)
    for what, wrong in entry.wrong.items():
        assert reference.weighted(wrong)(*case) != pytest.approx(expected, rel=1e-6), what


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


def test_counts_that_fade_by_hand():
    rule = reference.fading(lambda *state: reference.fading_mean(*state, 0.5), 0.5)
    ctrs, counts = np.array([[2.0], [7.0], [9.0]]), np.array([3, 0, 8])
    new, total = reference.apply(rule, ctrs, counts, [[4], [8], [1]], [0, 0, 1])
    # class 0: as above, and 0.5 * 3 + 2 rows; class 2 has no row, but half its count
    np.testing.assert_allclose(new, [[30 / 7], [1], [9]], rtol=1e-15)
    np.testing.assert_array_equal(total, [3.5, 1, 4])
    for rows, mask in (([], None), ([[4], [8], [1]], [False] * 3)):
        kept = reference.apply(rule, new, total, rows, [0, 0, 1][: len(rows)], mask)
        np.testing.assert_array_equal(kept[1], total)


def test_nearest_by_hand():
    labels, distances = reference.nearest([[0, 0]], [[3, 4], [0, 1], [0, 0]], [1, 1, 0], 3)
    assert labels.tolist() == [[1, 0, -1]]
    assert distances.tolist() == [[1.0, 5.0, float("inf")]]
