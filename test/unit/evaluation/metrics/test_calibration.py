"""Likelihoods as probabilities, against statsmodels, scikit-learn and formulas written out."""

from types import SimpleNamespace

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve

from evaluation.metrics.calibration import CLIPPED, bins_of, calibration, calibration_error, recalibration
from evaluation.metrics.outcomes import Outcome, TestSet


def likelihoods(count=400, seed=0, slope=0.6, shift=-0.7):
    rng = np.random.default_rng(seed)
    p = np.clip(rng.beta(1.2, 2, count), 0, 1)
    p[::25] = 0.0
    return rng.random(count) < expit(slope * logit(np.clip(p, 0.02, 0.98)) + shift), p


def test_slope_and_intercepts_are_those_of_statsmodels():
    positive, p = likelihoods()
    x = logit(np.clip(p, CLIPPED, 1 - CLIPPED))
    found = recalibration(positive, p)
    fit = sm.GLM(positive.astype(float), sm.add_constant(x), family=sm.families.Binomial()).fit(cov_type="HC0")
    assert (found.intercept, found.slope) == pytest.approx(tuple(fit.params), abs=1e-8)
    assert np.sqrt((found.influence[:2] ** 2).sum(axis=1)) == pytest.approx(fit.bse[::-1], rel=1e-6)
    offset = sm.GLM(positive.astype(float), np.ones_like(x), family=sm.families.Binomial(), offset=x)
    shifted = offset.fit(cov_type="HC0")
    assert found.in_the_large == pytest.approx(shifted.params[0], abs=1e-8)
    assert np.sqrt((found.influence[2] ** 2).sum()) == pytest.approx(shifted.bse[0], rel=1e-6)


@pytest.mark.parametrize(
    ("positive", "likelihood"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9]),
        ([0, 0, 1, 1], [0.1, 0.3, 0.3, 0.9]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.9]),
        ([0, 1, 0, 1], [0.4] * 4),
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.9]),
        ([0, 1, 0, 1], [0.0, 0.0005, 0.001, 0.001]),  # equal once clipped
    ],
)
def test_separated_or_equal_likelihoods_have_no_slope(positive, likelihood):
    assert recalibration(np.array(positive, dtype=bool), np.array(likelihood)) is None


def test_ece_of_distinct_likelihoods_is_that_of_quantile_bins():
    rng = np.random.default_rng(1)
    p = rng.permutation((np.arange(200) + 0.5) / 200)
    positive = rng.random(200) < p**2
    share, mean = calibration_curve(positive, p, n_bins=10, strategy="quantile")
    error, moved = calibration_error(positive, p)
    assert error == pytest.approx(np.abs(share - mean).mean())
    assert moved.sum() == pytest.approx(0, abs=1e-12)


def test_influence_on_ece_is_its_derivative_with_fixed_bins():
    positive, p = likelihoods(200)
    p = np.round(p, 3)
    p[p == 0] = 0.0005 + np.arange((p == 0).sum()) * 1e-6
    p += np.arange(200) * 1e-9  # no ties
    bins, count = bins_of(p, cases=200)

    def weighted(weights):
        gaps = np.bincount(bins, weights * (p - positive), minlength=count)
        return np.abs(gaps).sum() / weights.sum()

    _, moved = calibration_error(positive, p)
    steps = 1e-7 * np.eye(200)[:20]
    assert moved[:20] == pytest.approx([(weighted(1 + s) - weighted(np.ones(200))) / 1e-7 for s in steps], abs=1e-6)


def test_order_of_cases_with_equal_likelihoods_changes_nothing():
    positive, p = likelihoods(200)
    p = np.where(p < 0.3, 0.0, np.round(p, 1))
    order = np.lexsort((positive, p))
    assert calibration_error(positive[order], p[order])[0] == pytest.approx(calibration_error(positive, p)[0])


def run_of(positive, p):
    truth = TestSet(tuple(f"{k:04d}" for k in range(p.size)), positive, positive * 1)
    return SimpleNamespace(truth=truth, outcome=Outcome(p, np.zeros(0, int), np.zeros(0), np.zeros(0, bool)))


def test_calibrated_likelihoods_are_on_the_diagonal():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    found = calibration([run_of(rng.random(20_000) < p, p)])
    assert found.positive == pytest.approx(found.likelihood, abs=0.04)
    assert found.likelihood.size == 10


@pytest.mark.parametrize(("cases", "bins"), [(13, 1), (60, 3), (199, 9), (1000, 10)])
def test_bins_hold_at_least_20_cases(cases, bins):
    assert bins_of(np.linspace(0, 1, cases), cases=cases)[1] == bins
