import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES, random_outcome, random_truth
from scipy.stats import t as student

from evaluation.metrics.outcomes import Outcome, TestSet, weighted_ap, weighted_auroc
from evaluation.planning.simulation import (
    NULLS,
    SimulationSettings,
    draw,
    false_positives,
    null_settings,
    run_variances,
)
from evaluation.statistics.bootstrap import delong_interval, two_level_bootstrap
from evaluation.statistics.case_level import (
    MetricByPatient,
    ap_influence,
    auroc_influence,
    by_patient,
    case_level_tests,
    runs_and_cases_test,
)
from evaluation.statistics.case_permutation import case_swap_tests

FREE = (False, False)


@pytest.mark.parametrize("patients", [None, 17])
def test_influence_is_the_derivative_by_the_weight_of_a_patient(patients):
    truth = random_truth(60, patients)
    outcome = random_outcome(truth, 0)
    step = 1e-6
    moved = 1 + step * (truth.patients[None, :] == np.arange(truth.patient_count)[:, None])
    one = np.ones((1, 60))
    slopes = [
        (weighted_auroc(truth, outcome.likelihood, moved) - weighted_auroc(truth, outcome.likelihood, one)) / step,
        (weighted_ap(truth, outcome, moved) - weighted_ap(truth, outcome, one)) / step,
    ]
    ill = np.unique(truth.patients[truth.positive]).size
    assert ap_influence(truth, outcome) == pytest.approx(slopes[1] * math.sqrt(ill / (ill - 1)), abs=1e-6)
    # 30 cases of each class
    assert auroc_influence(truth, outcome.likelihood) == pytest.approx(slopes[0] * math.sqrt(30 / 29), abs=1e-6)


def test_influence_sums_to_zero():
    truth = random_truth(60)
    outcome = random_outcome(truth, 0)
    assert auroc_influence(truth, outcome.likelihood).sum() == pytest.approx(0, abs=1e-12)
    assert ap_influence(truth, outcome).sum() == pytest.approx(0, abs=1e-12)
    nothing = Outcome(outcome.likelihood, *NO_CANDIDATES)
    assert not ap_influence(truth, nothing).any()


def test_variance_by_cases_is_delongs_for_auroc_and_the_bootstraps_for_all():
    truth = random_truth(400)
    outcomes = [random_outcome(truth, seed) for seed in (0, 1)]
    low, high = delong_interval(truth, outcomes, level=0.95)
    found = {
        metric: math.sqrt((each.influence.mean(axis=0) ** 2).sum())
        for metric, each in by_patient(truth, outcomes).items()
    }
    assert found["auroc"] == pytest.approx((high - low) / 2 / 1.959964, rel=1e-6)
    for metric, expected in found.items():
        each = [two_level_bootstrap(truth, {"x": [one]}, replicates=2000, seed=3)["x"][metric] for one in outcomes]
        assert np.std(np.mean(each, axis=0)) == pytest.approx(expected, rel=0.06), metric


def test_two_runs_against_two_worked_by_hand():
    # patients see a's runs alike (Cov₂ = 0.02) and b's not at all; the runs' variances are 0.02 and 0.08
    a = MetricByPatient(np.array([0.7, 0.9]), np.array([[0.1, -0.1], [0.1, -0.1]]))
    b = MetricByPatient(np.array([0.2, 0.6]), np.zeros((2, 2)))
    found = runs_and_cases_test(a, b)
    assert found.variance_of_runs == pytest.approx(0.02 / 2 + 0.08 / 2)
    assert found.variance_of_cases == pytest.approx(0.02)
    # 0.07² / (0.01² + 0.04²), each over one degree of freedom
    assert found.degrees_of_freedom == pytest.approx(0.0049 / 0.0017)
    assert found.p == pytest.approx(2 * student.sf(0.4 / math.sqrt(0.07), 0.0049 / 0.0017))
    assert runs_and_cases_test(b, a).p == found.p


def test_independent_influences_of_runs_count_once():
    # independent influences: the spread of runs holds their variance already, so nothing is left for the cases
    own = np.random.default_rng(0).normal(0, 0.01, (4, 100))
    a = MetricByPatient(np.array([0.7, 0.8, 0.9, 0.8]), own)
    b = MetricByPatient(np.array([0.5, 0.6, 0.7, 0.6]), np.zeros((4, 100)))
    assert runs_and_cases_test(a, b).variance_of_cases < 0.1 * (own.mean(axis=0) ** 2).sum()


def test_a_single_run_has_no_known_spread_and_a_fixed_rule_needs_none():
    truth = random_truth(200)
    one, two, rule = (
        [random_outcome(truth, 0)],
        [random_outcome(truth, 1), random_outcome(truth, 2)],
        [random_outcome(truth, 3, 0.0)],
    )
    alone = case_level_tests(truth, one, two, fixed=FREE, draws=200, seed=0)["ap"]
    assert alone.runs_and_cases is None
    assert alone.p == alone.swaps.p
    against = case_level_tests(truth, two, rule, fixed=(False, True), draws=200, seed=0)["ap"]
    assert against.runs_and_cases.degrees_of_freedom > 1
    rules = case_level_tests(truth, one, rule, fixed=(True, True), draws=200, seed=0)["auroc"]
    assert rules.runs_and_cases.degrees_of_freedom is None
    assert rules.runs_and_cases.p == pytest.approx(rules.swaps.p, abs=0.02)


def test_the_larger_p_counts_and_identical_outputs_differ_by_nothing():
    truth = random_truth(200)
    a, b = [random_outcome(truth, k) for k in range(3)], [random_outcome(truth, 10 + k, 1.4) for k in range(3)]
    swaps = case_swap_tests(truth, a, b, draws=300, seed=0)
    for metric, test in case_level_tests(truth, a, b, fixed=FREE, draws=300, seed=0).items():
        assert test.swaps == swaps[metric]
        assert test.p == max(test.swaps.p, test.runs_and_cases.p)
    same = case_level_tests(truth, a[:1] * 2, a[:1] * 2, fixed=FREE, draws=300, seed=0)
    assert [test.p for test in same.values()] == [1, 1, 1]
    assert same["auroc"].runs_and_cases is None  # nothing varies


def test_luck_of_runs_is_not_attributed_to_the_method():
    # one trained method, each configuration's runs alike but one configuration's better: swaps see a difference
    truth = random_truth(400)
    base = random_outcome(truth, 0)
    rng = np.random.default_rng(1)

    def runs(shifts):
        return [Outcome(base.likelihood + s * truth.positive + rng.normal(0, 0.3, 400), *NO_CANDIDATES) for s in shifts]

    test = case_level_tests(truth, runs((0.9, -0.1)), runs((0.1, -0.5)), fixed=FREE, draws=300, seed=0)["auroc"]
    assert test.swaps.p < 0.001
    assert test.p > 0.2


def test_arms_of_simulated_studies_have_the_influence_of_their_outcomes():
    positive, first, second = draw(SimulationSettings(runs=3, cases=150), np.random.default_rng(0))
    truth = TestSet(tuple(f"{k:05d}" for k in range(150)), positive, positive.astype(int))
    outcomes = [Outcome(row, np.arange(150), row, positive) for row in first]
    for metric, expected in by_patient(truth, outcomes).items():
        found = run_variances(positive, first, second, metric).first
        assert found.values == pytest.approx(expected.values, abs=1e-12), metric
        assert found.influence == pytest.approx(expected.influence, abs=1e-12), metric


@pytest.mark.parametrize("runs", [2, 5])
def test_level_is_kept_with_few_runs(runs):
    # closed form, so many studies are cheap: 3 standard errors of 1,500
    settings = null_settings(SimulationSettings(runs=runs, cases=150, run_sd=0.03), NULLS[0])
    generator = np.random.default_rng(runs)
    false = 0
    for _ in range(1500):
        study = run_variances(*draw(settings, generator))
        false += runs_and_cases_test(study.second, study.first).p <= 0.05
    assert false / 1500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.slow
def test_case_level_keeps_its_level_by_ap_where_swaps_alone_do_not():
    settings = replace(null_settings(SimulationSettings(runs=4, cases=150, run_sd=0.05), NULLS[0]), metric="ap")
    rates = false_positives(settings, studies=100, alpha=0.05, seed=1, replicates=100)
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    assert rates["case level"].value <= allowed
    assert rates["swaps alone"].value > allowed
