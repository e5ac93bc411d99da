import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES, random_outcome, random_truth
from refusals import refused_with
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.metrics.outcomes import Outcome, TestSet, require_patients
from evaluation.metrics.weighted_metrics import weighted_ap, weighted_auroc


def a_test_set(seed):
    truth = random_truth(31, patients=16)
    return truth, random_outcome(truth, seed)


def resamples(cases, seed, replicates=25):
    rng = np.random.default_rng(seed)
    return rng.multinomial(cases, np.full(cases, 1 / cases), size=replicates).astype(float)


@pytest.mark.parametrize("seed", range(4))
def test_weighted_auroc_equals_scikit_learn_on_the_resampled_cases(seed):
    truth, outcome = a_test_set(seed)
    weights = resamples(31, seed)
    found = weighted_auroc(truth, outcome.likelihood, weights)
    for replicate, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(31), replicate.astype(int))
        assert value == pytest.approx(roc_auc_score(truth.positive[drawn], outcome.likelihood[drawn]), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_weighted_ap_equals_scikit_learn_on_the_resampled_cases(seed):
    # scikit-learn knows no missed lesions: its AP over the candidates counts the share of lesions that was found
    truth, outcome = a_test_set(seed)
    weights = resamples(31, seed)
    found = weighted_ap(truth, outcome, weights)
    for replicate, value in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(outcome.hit.size), replicate[outcome.candidate_case].astype(int))
        share = outcome.hit[rows].sum() / (replicate @ truth.lesions)
        expected = share * average_precision_score(outcome.hit[rows], outcome.confidence[rows])
        assert value == pytest.approx(expected, abs=1e-12)


def test_ap_of_a_hand_worked_table():
    # TP .9, FP .8, TP .7, FP .6, TP .5 and one missed lesion: (1 + 2/3 + 3/5) / 4
    truth = TestSet(("a", "b", "c", "d"), np.array([True] * 4), np.array([1, 1, 1, 1]))
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    hit = np.array([True, False, True, False, True])
    outcome = Outcome(np.zeros(4), np.array([0, 0, 1, 1, 2]), confidence, hit)
    assert weighted_ap(truth, outcome, np.ones((1, 4)))[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-15)


def test_metrics_without_a_class_or_a_lesion_are_undefined():
    truth, outcome = a_test_set(0)
    only_negative = np.where(truth.positive, 0.0, 1.0)[None, :]
    assert np.isnan(weighted_auroc(truth, outcome.likelihood, only_negative)).all()
    assert np.isnan(weighted_ap(truth, outcome, only_negative)).all()


def test_ap_of_a_run_without_candidates_is_zero():
    truth, outcome = a_test_set(0)
    nothing = Outcome(outcome.likelihood, *NO_CANDIDATES)
    assert weighted_ap(truth, nothing, np.ones((1, 31)))[0] == 0


def test_patients_come_from_ids_or_are_given_and_never_guessed():
    facts = np.array([True, False, True]), np.array([1, 0, 1])
    told = TestSet(("7_1", "7_2", "70_1"), *facts)
    assert (told.patients.tolist(), told.patient_count) == ([0, 0, 1], 2)
    given = TestSet(("pancreas_1", "pancreas_2", "pancreas_3"), *facts, patient_names=("b", "a", "b"))
    assert given.patients.tolist() == [1, 0, 1]
    with refused_with(found=r"pancreas_1, pancreas_2 \(3 cases begin with pancreas_\)"):
        _ = TestSet(given.case_ids, *facts).patients


def test_fewer_than_20_patients_are_refused_unless_allowed():
    def of(cases):
        return TestSet(tuple(f"{k}_{k}" for k in range(cases)), np.arange(cases) % 2 == 0, np.ones(cases, dtype=int))

    with refused_with("here", expected="at least 20 patients", found="19; --few allows it"):
        require_patients(of(19), "here", few=False, way_out="--few")
    require_patients(of(19), "here", few=True, way_out="--few")
    require_patients(of(20), "here", few=False, way_out="--few")
