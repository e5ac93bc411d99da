import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES
from scipy.stats import kstest

from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.planning.simulation import (
    RATES,
    SCENARIOS,
    ErrorRate,
    SimulationSettings,
    against_first,
    any_false_on_par,
    draw,
    error_rates,
    metric_by_patient,
    metric_of,
    power,
    scenario,
    separation_of,
)
from evaluation.statistics.resampling.case_permutation import case_swap_tests

SMALL = SimulationSettings(runs=4, cases=150, run_sd=0.03)


def standard_errors(count, *, at=0.05, times=3.0):
    return times * math.sqrt(at * (1 - at) / count)


def metrics_of(settings, seed=0):
    study = draw(settings, np.random.default_rng(seed))
    return study, metric_by_patient(study, settings.metric)


def test_simulated_studies_have_the_requested_auroc_and_variances():
    settings = SimulationSettings(runs=60, cases=20_000, auroc=0.85, difference=0.04, run_sd=0.02, prevalence=0.4)
    study, (first, second) = metrics_of(settings)
    assert study.positive.mean() == pytest.approx(0.4, abs=0.01)
    assert first.values.mean() == pytest.approx(0.85, abs=0.015)
    assert second.values.mean() - first.values.mean() == pytest.approx(0.04, abs=0.015)
    for arm in (first, second):
        assert arm.values.std(ddof=1) == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize(("same", "expected"), [(True, 0.7), (False, 0.4)])
def test_outputs_are_correlated_by_case_and_method(same, expected):
    settings = SimulationSettings(runs=2, cases=50_000, case_share=0.4, method_share=0.3, same_method=same)
    study = draw(settings, np.random.default_rng(0))
    of_negatives = [arm[:, ~study.positive] for arm in study.arms]
    assert np.corrcoef(of_negatives[0][0], of_negatives[1][0])[0, 1] == pytest.approx(expected, abs=0.02)
    assert np.corrcoef(*of_negatives[0])[0, 1] == pytest.approx(0.7, abs=0.02)


def test_an_ensemble_without_difference_has_its_members_auroc():
    settings = replace(scenario(SimulationSettings(runs=20, cases=20_000, run_sd=0.0), "ensemble of 4 v its member"))
    _, (member, ensemble) = metrics_of(settings)
    assert ensemble.values.mean() == pytest.approx(member.values.mean(), abs=0.01)
    assert ensemble.values.std() < member.values.std()


def test_studies_of_one_patient_are_alike():
    study = draw(SimulationSettings(runs=2, cases=40_000, studies_per_patient=2), np.random.default_rng(0))
    assert np.bincount(study.patients).max() == 2
    first = np.flatnonzero(np.diff(study.patients) == 0)
    likelihood = study.arms[0][0] - study.arms[0][0][study.positive].mean() * study.positive
    negative = first[~study.positive[first]]
    assert np.corrcoef(likelihood[negative], likelihood[negative + 1])[0, 1] == pytest.approx(0.35, abs=0.03)


@pytest.mark.parametrize("metric", ["auroc", "ap", "score"])
def test_metric_and_separation_are_inverse(metric):
    separations = np.array([0.3, 1.0, 1.7, 2.5])
    values = metric_of(metric, separations, 0.2)
    assert (np.diff(values) > 0).all()
    assert separation_of(metric, values, 0.2) == pytest.approx(separations, abs=2e-3)


def test_population_ap_is_that_of_a_large_study():
    settings = SimulationSettings(runs=2, cases=100_000, prevalence=0.15, metric="ap", run_sd=0.0, difference=0.05)
    _, (first, second) = metrics_of(settings)
    assert first.values.mean() == pytest.approx(settings.value, abs=0.01)
    assert second.values.mean() - first.values.mean() == pytest.approx(0.05, abs=0.01)
    assert metric_of("ap", 0.0, 0.15) == pytest.approx(0.15, abs=1e-3)


@pytest.mark.parametrize("name", SCENARIOS)
def test_level_and_coverage_where_nothing_differs(name):
    """A small grid of the table in docs/statistics.md; the known residue, few runs, is allowed what it says there."""
    settings = scenario(SimulationSettings(runs=5, cases=200), name)
    rates = error_rates(settings, studies=300, alpha=0.05, seed=7)
    residue = {"3 v 20": 0.08, "2 v 10": 0.11, "2 v 6": 0.12, "2 pairs": 0.09}
    allowed = next((rate for which, rate in residue.items() if which in name), 0.06) + standard_errors(300)
    assert rates["new runs and cases"].value <= allowed
    assert rates["interval covers"].value == pytest.approx(1 - rates["new runs and cases"].value)
    assert list(rates) == list(RATES)


def test_single_runs_mistake_chance_for_the_method():
    rates = error_rates(
        scenario(replace(SMALL, run_sd=0.03), "same method, retrained"), studies=200, alpha=0.05, seed=1
    )
    assert rates["single runs"].interval[0] > 0.08
    assert rates["new runs and cases"].value <= 0.05 + standard_errors(200)


def test_a_difference_on_this_test_set_is_not_generalised():
    settings = scenario(
        replace(SMALL, run_sd=0.003, method_share=0.5, case_share=0.35, runs=6), "other method, equally good"
    )
    rates = error_rates(settings, studies=100, alpha=0.05, seed=3)
    assert rates["this test set"].interval[0] > 0.2
    assert rates["new runs and cases"].value <= 0.05 + standard_errors(100)


def test_swaps_of_networks_are_uniform_when_runs_are_equally_good():
    settings = scenario(replace(SMALL, cases=100), "same method, runs equally good")
    generator = np.random.default_rng(5)
    p_values = []
    for _ in range(500):
        study = draw(replace(settings, runs=2), generator)
        ids = tuple(f"{k:05d}" for k in range(study.positive.size))
        truth = TestSet(ids, study.positive, np.zeros(study.positive.size, dtype=int))
        a, b = ([Outcome(row, *NO_CANDIDATES) for row in arm] for arm in study.arms)
        p_values.append(case_swap_tests(truth, b[0], a[0], draws=100, seed=0)["auroc"].p)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + standard_errors(500)
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_any_false_on_par_of_a_family_is_rare():
    """Each differs from the reference by the margin; unadjusted, one of five is called on par in a sixth of studies."""
    settings = SimulationSettings(runs=8, cases=800, difference=0.06)
    found = any_false_on_par(settings, comparisons=5, studies=100, alpha=0.05, seed=2)
    assert found.value <= 0.05 + standard_errors(100)


def test_number_of_workers_changes_no_rate():
    settings = SimulationSettings(runs=2, cases=60)
    one = error_rates(settings, studies=45, alpha=0.05, seed=1)
    assert error_rates(settings, studies=45, alpha=0.05, seed=1, workers=2) == one


def test_power_grows_with_runs_and_with_cases():
    settings = SimulationSettings(runs=3, cases=200, difference=0.03, method_share=0.05, case_share=0.65)
    base, runs, cases = (
        power(each, studies=150, alpha=0.05, seed=1, margin=0.05)
        for each in (settings, replace(settings, runs=12), replace(settings, cases=1200))
    )
    assert runs["better"].value > base["better"].value + 0.1
    assert cases["better"].value > base["better"].value + 0.1
    assert cases["on par"].value >= base["on par"].value


@pytest.mark.parametrize("runs", [5, 8])
def test_power_for_a_negative_difference_is_that_for_the_positive_one(runs):
    plus = SimulationSettings(runs=runs, cases=300, auroc=0.85, difference=0.05, prevalence=0.5, method_share=0.05)
    minus = replace(plus, auroc=0.90, difference=-0.05)
    better, worse = (power(each, studies=200, alpha=0.05, seed=3)["better"].value for each in (plus, minus))
    assert better > 0.4
    assert worse == pytest.approx(better, abs=0.15)


def test_power_at_the_size_of_the_study():
    """10 against 10 runs of similar methods on 300 cases, 0.02 AUROC apart."""
    settings = SimulationSettings(runs=10, cases=300, difference=0.02, method_share=0.05, case_share=0.65)
    found = power(settings, studies=200, alpha=0.05, seed=4)["better"]
    assert found.value > 0.5 - standard_errors(200, at=0.5, times=2)


@pytest.mark.parametrize("folds", [1, 5])
def test_shared_folds_are_compared_in_pairs(folds):
    settings = replace(SimulationSettings(runs=10, cases=200, folds=folds, fold_sd=0.05), same_method=True)
    study, metrics = metrics_of(settings)
    (found,) = against_first(study, settings, metrics)
    if folds == 1:
        expected = sum(each.values.var(ddof=1) / 10 for each in metrics)
    else:
        expected = (metrics[1].values - metrics[0].values).var(ddof=1) / 10
    assert found.variance_of_runs == pytest.approx(expected)


def test_a_rate_has_the_interval_of_clopper_and_pearson():
    # scipy.stats.binomtest(5, 100).proportion_ci(): 0.0164, 0.1128
    assert ErrorRate(5, 100).interval == pytest.approx((0.01643, 0.11284), abs=1e-4)
    assert (ErrorRate(0, 10).interval[0], ErrorRate(10, 10).interval[1]) == (0, 1)
