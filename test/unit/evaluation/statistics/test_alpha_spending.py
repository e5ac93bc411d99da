"""Levels of the looks at a running campaign."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from evaluation.statistics.alpha_spending import nominal_levels, spent_by


@pytest.mark.parametrize("looks", [(5, 10, 15, 20), (4, 5, 12), (10, 20)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_looks_together_spend_what_the_spending_function_says(looks, alpha):
    """By the multivariate normal distribution of the looks' statistics (Genz), which knows nothing of a grid."""
    bounds = norm.isf(np.array(nominal_levels(looks, alpha)) / 2)
    times = np.array(looks) / looks[-1]
    correlation = np.sqrt(np.minimum.outer(times, times) / np.maximum.outer(times, times))
    for count in range(2, len(looks) + 1):
        inside = multivariate_normal(cov=correlation[:count, :count]).cdf(bounds[:count], lower_limit=-bounds[:count])
        assert 1 - inside == pytest.approx(spent_by(times[count - 1], alpha), abs=2e-5)


def test_one_look_has_all_of_alpha_and_early_ones_nearly_none():
    assert nominal_levels((20,), 0.05) == pytest.approx((0.05,), abs=1e-9)
    first, *_, last = nominal_levels((5, 10, 15, 20), 0.05)
    assert first == pytest.approx(4 * norm.sf(norm.isf(0.0125) * 2))
    assert 0.04 < last < 0.05


def test_bounds_are_those_of_ldbounds_and_gsdesign():
    """O'Brien-Fleming spending by Lan and DeMets, five equal looks, two-sided 0.05 (ldBounds(t = 1:5/5), gsDesign)."""
    bounds = norm.isf(np.array(nominal_levels((4, 8, 12, 16, 20), 0.05)) / 2)
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)


@pytest.mark.parametrize(
    ("looks", "alpha"), [((2, 100), 0.05), ((2, 36), 0.05), ((2, 20), 0.005), ((2, 20), 0.01), ((3, 20), 0.001)]
)
def test_look_with_negligible_alpha_is_skipped(looks, alpha):
    first, last = nominal_levels(looks, alpha)
    assert first < 1e-12
    assert last == pytest.approx(alpha, rel=1e-6)
