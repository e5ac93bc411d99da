"""Differences of groups: what is set against what, and the adjustment over all of them."""

import pytest
from statsmodels.stats.multitest import multipletests

from evaluation.statistics.subgroups.group_differences import (
    Difference,
    GroupContrast,
    interactions,
    opposites,
    pairs_by_group,
)
from evaluation.statistics.variance.runs_and_cases import DifferenceTest


def difference(estimate: float, standard_error: float) -> Difference:
    return Difference("a", "b", DifferenceTest(estimate, standard_error**2, 0.0, 20.0), None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["x"], []),
        (["x", "y"], [("x", "y", ["y"])]),
        (["x", "y", "z"], [("x", "others", ["y", "z"]), ("y", "others", ["x", "z"]), ("z", "others", ["x", "y"])]),
    ],
)
def test_two_values_are_one_contrast_and_more_are_one_each(values, expected):
    assert list(opposites(values)) == expected


def test_holm_adjusts_over_the_comparisons_of_all_groups():
    groups = [[difference(0.2, 0.1), difference(0.1, 0.1)], [], [difference(0.3, 0.1)]]
    pairs = pairs_by_group(groups, 0.95)
    assert [len(each) for each in pairs] == [2, 0, 1]
    flat = [pair for each in pairs for pair in each]
    expected = multipletests([pair.p for pair in flat], method="holm")[1]
    assert [pair.p_holm for pair in flat] == pytest.approx(expected)
    assert [pair.difference for pair in flat] == [0.2, 0.1, 0.3]


def test_an_interval_of_a_difference_of_differences_ends_at_2():
    (found,) = interactions([GroupContrast("zone", "TZ", "PZ", difference(1.5, 0.4))], 0.95)
    assert (found.value, found.against) == ("TZ", "PZ")
    assert found.interval.low < 1 < found.interval.high == 2
