"""What each patient's weight changes in a metric."""

import math
from dataclasses import replace

import numpy as np
import pytest
from evaluation_makers import NO_CANDIDATES, random_outcome, random_truth

from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.metrics.weighted_metrics import weighted_ap, weighted_auroc
from evaluation.planning.simulation import SimulatedStudy, SimulationSettings, draw
from evaluation.planning.simulation import metric_by_patient as simulated_by_patient
from evaluation.statistics.variance.influence import afroc_by_patient, ap_influence, auroc_influence, by_patient


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


@pytest.mark.parametrize("patients", [None, 17])
def test_influence_on_afroc_is_the_derivative_by_the_weight_of_a_case(patients):
    """Of the weighted share of pairs of a lesion and a negative case, written out pair by pair."""
    truth = random_truth(60, patients)
    outcome = random_outcome(truth, 0)
    rows = list(zip(outcome.candidate_case, outcome.confidence, outcome.hit, strict=True))
    lesions = [(case, confidence) for case, confidence, hit in rows if hit]
    for case, count in enumerate(truth.lesions):
        lesions += [(case, 0.0)] * (count - sum(of == case for of, _ in lesions))
    negatives = [
        (case, max((c for of, c, hit in rows if of == case and not hit), default=0.0))
        for case in np.flatnonzero(~truth.positive)
    ]

    def area(weights):
        pairs = [(weights[i] * weights[j], (a > b) + 0.5 * (a == b)) for i, a in lesions for j, b in negatives]
        return sum(w * right for w, right in pairs) / sum(w for w, _ in pairs)

    step = 1e-6
    one = np.ones(60)
    slopes = np.array([(area(one + step * (np.arange(60) == case)) - area(one)) / step for case in range(60)])
    ill = np.unique(truth.patients[truth.positive]).size
    slopes *= np.where(truth.positive, math.sqrt(ill / (ill - 1)), math.sqrt(30 / 29))
    found = afroc_by_patient(truth, [outcome])
    assert found.values == pytest.approx([area(one)])
    assert found.influence[0] == pytest.approx(np.bincount(truth.patients, slopes), abs=1e-6)


def test_afroc_is_undefined_without_lesions_or_without_negative_cases():
    truth = random_truth(20)
    nothing = Outcome(np.zeros(20), *NO_CANDIDATES)
    for positive in (np.zeros(20, dtype=bool), np.ones(20, dtype=bool)):
        found = afroc_by_patient(replace(truth, positive=positive, lesions=positive * 1), [nothing])
        assert np.isnan(found.values).all()
        assert np.isnan(found.influence).all()


def test_influence_sums_to_zero():
    truth = random_truth(60)
    outcome = random_outcome(truth, 0)
    assert auroc_influence(truth, outcome.likelihood).sum() == pytest.approx(0, abs=1e-12)
    assert ap_influence(truth, outcome).sum() == pytest.approx(0, abs=1e-12)
    assert not ap_influence(truth, Outcome(outcome.likelihood, *NO_CANDIDATES)).any()


def test_products_of_influences_are_delongs_covariances():
    """By structural components written out pair by pair."""
    truth = random_truth()
    outcomes = [random_outcome(truth, 0), random_outcome(truth, 1, 0.3)]

    def components(outcome):
        x, y = outcome.likelihood[truth.positive], outcome.likelihood[~truth.positive]
        psi = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
        return psi.mean(axis=1), psi.mean(axis=0)

    (a10, a01), (b10, b01) = map(components, outcomes)
    expected = np.cov(a10, b10) / a10.size + np.cov(a01, b01) / a01.size
    found = by_patient(truth, outcomes)["auroc"]
    assert found.values == pytest.approx([a10.mean(), b10.mean()])
    assert found.influence @ found.influence.T == pytest.approx(expected)


@pytest.mark.parametrize("patients", [None, 100])
def test_squares_of_influences_are_the_variance_over_resampled_patients(patients):
    truth = random_truth(400, patients)
    outcome = random_outcome(truth, 0)
    count = truth.patient_count
    drawn = np.random.default_rng(3).multinomial(count, np.full(count, 1 / count), size=2000)[:, truth.patients]
    auroc = weighted_auroc(truth, outcome.likelihood, drawn.astype(float))
    ap = weighted_ap(truth, outcome, drawn.astype(float))
    for metric, values in {"auroc": auroc, "ap": ap, "score": (auroc + ap) / 2}.items():
        found = math.sqrt((by_patient(truth, [outcome])[metric].influence ** 2).sum())
        assert found == pytest.approx(np.std(values), rel=0.08), metric


@pytest.mark.parametrize("per_patient", [1, 2])
def test_arms_of_simulated_studies_have_the_influence_of_their_outcomes(per_patient):
    settings = SimulationSettings(runs=3, cases=150, studies_per_patient=per_patient)
    study: SimulatedStudy = draw(settings, np.random.default_rng(0))
    ids = tuple(f"{k:05d}" for k in range(150))
    truth = TestSet(ids, study.positive, study.positive.astype(int), tuple(f"{k:05d}" for k in study.patients))
    outcomes = [Outcome(row, np.arange(150), row, study.positive) for row in study.arms[0]]
    for metric, expected in by_patient(truth, outcomes).items():
        found = simulated_by_patient(study, metric)[0]
        assert found.values == pytest.approx(expected.values, abs=1e-12), metric
        assert found.influence == pytest.approx(expected.influence, abs=1e-12), metric
