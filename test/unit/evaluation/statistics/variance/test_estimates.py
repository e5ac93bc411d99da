"""Intervals of ratios and of means over runs, against resampling, SciPy and formulas."""

import math

import numpy as np
import pytest
from evaluation_makers import random_outcome, random_truth, resampled
from scipy.stats import binomtest
from sklearn.metrics import precision_score

from evaluation.statistics.variance.estimates import Estimator, ratio


def an_estimator(truth, fixed=True):
    return Estimator(truth.positive_patients, fixed, 0.05)


@pytest.mark.parametrize("patients", [None, 100])
def test_influence_on_a_ratio_is_its_spread_over_resampled_patients(patients):
    truth = random_truth(400, patients)
    called = random_outcome(truth, 0).likelihood > 0.4
    found = ratio(truth, called & truth.positive, called)
    weights = resampled(truth, 4000)
    values = weights @ (called & truth.positive) / (weights @ called)
    assert found.value == precision_score(truth.positive, called)
    assert math.sqrt((found.influence**2).sum()) == pytest.approx(values.std(), rel=0.06)
    assert ratio(truth, called, np.zeros(400)) is None


def test_variance_of_a_sensitivity_is_that_of_a_proportion():
    truth = random_truth(200)
    called = random_outcome(truth, 0).likelihood > 0.4
    found = ratio(truth, called & truth.positive, truth.positive)
    assert (found.influence**2).sum() == pytest.approx(found.value * (1 - found.value) / 99)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_that_cannot_vary_has_clopper_and_pearsons_interval(value):
    truth = random_truth(60)
    found = an_estimator(truth).of_ratios([ratio(truth, truth.positive * value, truth.positive)])
    exact = binomtest(int(30 * value), 30).proportion_ci(0.95, "exact")
    assert found.interval == pytest.approx((exact.low, exact.high))


def test_interval_of_a_calibration_slope_counts_runs_and_cases():
    truth = random_truth(60)
    rng = np.random.default_rng(0)
    influence = list(rng.normal(0, 0.01, (3, 60)))
    one = an_estimator(truth).of([0.9], influence[:1])
    many = an_estimator(truth, fixed=False).of([0.5, 0.9, 1.3], influence)
    assert np.diff(many.interval) > 5 * np.diff(one.interval)
    assert an_estimator(truth).of([0.01], influence[:1], low=0.0).interval[0] == 0


def test_a_ratio_of_one_or_two_patients_has_no_interval():
    truth = random_truth(60)
    called = np.zeros(60, dtype=bool)
    called[[np.flatnonzero(truth.positive)[0], np.flatnonzero(~truth.positive)[0]]] = True
    assert an_estimator(truth).of_ratios([ratio(truth, called & truth.positive, called)]).interval is None
