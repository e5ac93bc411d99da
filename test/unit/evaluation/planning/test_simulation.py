import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES
from scipy.stats import kstest

from evaluation.metrics.outcomes import Outcome, TestSet, weighted_auroc
from evaluation.planning.simulation import (
    NULLS,
    RATES,
    ErrorRate,
    SimulationSettings,
    draw,
    false_positives,
    metric_of,
    null_settings,
    power,
    run_variances,
    separation_of,
)
from evaluation.statistics.bootstrap import delong_interval, two_level_bootstrap
from evaluation.statistics.case_permutation import case_swap_tests

SMALL = SimulationSettings(runs=4, cases=150, run_sd=0.03)


def as_outcomes(positive, arm):
    truth = TestSet(tuple(f"{k:05d}" for k in range(positive.size)), positive, np.zeros(positive.size, dtype=int))
    return truth, [Outcome(row, *NO_CANDIDATES) for row in arm]


def test_simulated_studies_have_the_requested_auroc_and_variances():
    settings = SimulationSettings(runs=60, cases=20_000, auroc=0.85, difference=0.04, run_sd=0.02, prevalence=0.4)
    positive, first, second = draw(settings, np.random.default_rng(0))
    study = run_variances(positive, first, second)
    assert positive.mean() == pytest.approx(0.4, abs=0.01)
    assert study.runs[0].mean() == pytest.approx(0.85, abs=0.015)
    assert study.difference == pytest.approx(0.04, abs=0.015)
    assert study.runs.std(axis=1, ddof=1) == pytest.approx([0.02, 0.02], rel=0.25)


@pytest.mark.parametrize(("same", "expected"), [(True, 0.7), (False, 0.4)])
def test_outputs_are_correlated_by_case_and_method(same, expected):
    settings = SimulationSettings(runs=2, cases=50_000, case_share=0.4, method_share=0.3, same_method=same)
    positive, first, second = draw(settings, np.random.default_rng(0))
    of_negatives = [arm[0][~positive] for arm in (first, second)]
    assert np.corrcoef(*of_negatives)[0, 1] == pytest.approx(expected, abs=0.02)
    assert np.corrcoef(first[0][~positive], first[1][~positive])[0, 1] == pytest.approx(0.7, abs=0.02)


def test_closed_form_variance_equals_delongs_and_the_bootstraps():
    positive, first, second = draw(SimulationSettings(runs=6, cases=400, run_sd=0.02), np.random.default_rng(3))
    truth, a = as_outcomes(positive, first)
    _, b = as_outcomes(positive, second)
    study = run_variances(positive, first, second)
    one = np.ones((1, 400))
    assert study.runs[0] == pytest.approx([weighted_auroc(truth, each.likelihood, one)[0] for each in a])
    low, high = delong_interval(truth, b, a, level=0.95)
    assert study.difference == pytest.approx((low + high) / 2)
    assert math.sqrt(study.case_variance) == pytest.approx((high - low) / 2 / 1.959964, rel=1e-6)
    draws = two_level_bootstrap(truth, {"a": a, "b": b}, replicates=4000, seed=0)
    expected = np.std(draws["b"]["auroc"] - draws["a"]["auroc"])
    assert math.sqrt(study.two_level_variance) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("metric", ["auroc", "ap", "score"])
def test_metric_and_separation_are_inverse(metric):
    separations = np.array([0.3, 1.0, 1.7, 2.5])
    values = metric_of(metric, separations, 0.2)
    assert (np.diff(values) > 0).all()
    assert separation_of(metric, values, 0.2) == pytest.approx(separations, abs=2e-3)


def test_population_ap_is_that_of_a_large_study():
    settings = SimulationSettings(runs=2, cases=100_000, prevalence=0.15, metric="ap", run_sd=0.0, difference=0.05)
    study = run_variances(*draw(settings, np.random.default_rng(0)), "ap")
    assert study.runs[0].mean() == pytest.approx(settings.value, abs=0.01)
    assert study.difference == pytest.approx(0.05, abs=0.01)
    assert metric_of("ap", 0.0, 0.15) == pytest.approx(0.15, abs=1e-3)


def test_difference_in_ap_is_shown_more_often_with_more_cases():
    settings = SimulationSettings(runs=8, cases=200, difference=0.06, metric="ap", run_sd=0.01)
    few, many = (power(replace(settings, cases=cases), studies=60, alpha=0.05, seed=1) for cases in (200, 1500))
    assert many["better"].value > few["better"].value + 0.2


def test_delong_decides_as_the_exact_test_of_swaps_does():
    agreed, near = 0, 0
    for seed in range(40):
        positive, first, second = draw(
            SimulationSettings(runs=2, cases=200, difference=0.04), np.random.default_rng(seed)
        )
        truth, a = as_outcomes(positive, first)
        _, b = as_outcomes(positive, second)
        p = case_swap_tests(truth, b, a, draws=100, seed=0)["auroc"].p
        study = run_variances(positive, first, second)
        z = abs(study.difference) / math.sqrt(study.case_variance)
        agreed += (p <= 0.05) == (z >= 1.959964)
        near += 0.02 < p < 0.12
    assert agreed >= 38
    assert near > 3  # it was not easy


def test_verdict_keeps_its_level_when_a_method_is_retrained():
    # 100 studies: the bounds are three standard errors of the simulation
    rates = false_positives(null_settings(SMALL, NULLS[0]), studies=100, alpha=0.05, seed=1, replicates=150)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    for name in ("run level", "case level", "verdict: better or worse"):
        assert rates[name].value <= allowed, name
    assert rates["bootstrap of single runs"].interval[0] > 0.08
    assert rates["swaps alone"].value > allowed  # they speak of the trained networks, not of the method


def test_case_level_alone_is_uniform_when_runs_are_equally_good():
    settings, generator = null_settings(replace(SMALL, cases=100), NULLS[1]), np.random.default_rng(5)
    p_values = []
    for _ in range(500):
        positive, first, second = draw(settings, generator)
        truth, a = as_outcomes(positive, first)
        _, b = as_outcomes(positive, second)
        p_values.append(case_swap_tests(truth, b, a, draws=100, seed=0)["auroc"].p)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_verdict_does_not_generalise_a_difference_on_this_test_set():
    settings = replace(SMALL, run_sd=0.003, method_share=0.5, case_share=0.35, runs=6)
    rates = false_positives(null_settings(settings, NULLS[2]), studies=60, alpha=0.05, seed=3, replicates=100)
    assert rates["run level"].interval[0] > 0.2
    assert rates["verdict: better or worse"].value <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 60)


def test_number_of_workers_changes_no_rate():
    settings = SimulationSettings(runs=2, cases=60)
    one = false_positives(settings, studies=45, alpha=0.05, seed=1, replicates=50)
    assert false_positives(settings, studies=45, alpha=0.05, seed=1, replicates=50, workers=2) == one
    assert list(one) == list(RATES)


def test_power_grows_with_runs_at_run_level_and_with_cases_at_case_level():
    settings = SimulationSettings(runs=4, cases=200, difference=0.03)
    base, runs, cases = (
        power(each, studies=100, alpha=0.05, seed=1, margin=0.05)
        for each in (settings, replace(settings, runs=12), replace(settings, cases=1200))
    )
    assert runs["run level"].value > base["run level"].value + 0.1
    assert cases["case level"].value > base["case level"].value + 0.3
    assert cases["on par"].value > base["on par"].value
    assert all(each["better"].value <= min(each["run level"].value, each["case level"].value) for each in (runs, cases))


def test_a_rate_has_the_interval_of_clopper_and_pearson():
    # scipy.stats.binomtest(5, 100).proportion_ci(): 0.0164, 0.1128
    assert ErrorRate(5, 100).interval == pytest.approx((0.01643, 0.11284), abs=1e-4)
    assert (ErrorRate(0, 10).interval[0], ErrorRate(10, 10).interval[1]) == (0, 1)
