import numpy as np
import pytest
from evaluation_makers import random_outcome, random_truth
from sklearn.metrics import auc, precision_recall_curve
from sklearn.metrics import roc_curve as sklearn_roc_curve

from evaluation.metrics.curves import (
    FALSE_POSITIVES_PER_CASE,
    afroc_at,
    afroc_curve,
    detection_curve,
    lesion_sensitivity_at,
    precision_at,
    resampled_afroc_at,
    resampled_lesion_sensitivity_at,
    resampled_precision_at,
    resampled_roc_at,
    roc_at,
    roc_curve,
    sensitivity_key,
)
from evaluation.metrics.outcomes import Outcome, TestSet
from evaluation.metrics.scored_runs import read_scored_runs


@pytest.fixture
def run(scores):
    scores.run("a", "ce")
    (run,) = read_scored_runs([scores.root])
    return run


def test_roc_curve_equals_scikit_learn(run):
    rate, sensitivity = roc_curve(run.truth, run.outcome)
    expected = sklearn_roc_curve(run.truth.positive, run.outcome.likelihood, drop_intermediate=False)
    assert np.allclose(rate, expected[0])
    assert np.allclose(sensitivity, expected[1])
    assert auc(rate, sensitivity) == pytest.approx(run.strict.auroc)


def test_precision_equals_scikit_learn_and_its_steps_add_up_to_ap(run):
    curve, precision = detection_curve(run.truth, run.outcome)
    expected, *_ = precision_recall_curve(run.outcome.hit, run.outcome.confidence)
    assert np.allclose(precision, expected[::-1])
    assert np.sum(np.diff(curve.sensitivity) * precision[1:]) == pytest.approx(run.strict.ap)


def test_froc_curve_gives_the_reported_sensitivities(run):
    curve, _ = detection_curve(run.truth, run.outcome)
    for rate in FALSE_POSITIVES_PER_CASE:
        expected = run.strict.lesion_sensitivity_at_fp[sensitivity_key(rate)]
        assert curve.sensitivity_at(rate) == pytest.approx(expected)
        assert lesion_sensitivity_at(run.truth, run.outcome, np.array([rate])) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("plain", "resampled"),
    [
        (roc_at, resampled_roc_at),
        (precision_at, resampled_precision_at),
        (lesion_sensitivity_at, resampled_lesion_sensitivity_at),
        (afroc_at, resampled_afroc_at),
    ],
)
def test_resampled_curves_with_unit_weights_are_the_curves(run, plain, resampled):
    at = np.linspace(0.0, 1.0, 41)
    weights = np.ones((2, len(run.truth.case_ids)))
    found = resampled(run.truth, run.outcome, weights, at)
    assert np.allclose(found, np.nan_to_num(plain(run.truth, run.outcome, at)))


def brute_force_afroc(truth, outcome, threshold=None):
    """The area by all pairs of a lesion and a negative case; with a threshold the point of the curve that it gives."""
    found = list(zip(outcome.candidate_case, outcome.confidence, outcome.hit, strict=True))
    lesions = []
    for case, count in enumerate(truth.lesions):
        hits = [confidence for of, confidence, hit in found if of == case and hit]
        lesions += hits + [-np.inf] * (count - len(hits))
    negatives = [
        max((confidence for of, confidence, hit in found if of == case and not hit), default=-np.inf)
        for case in np.flatnonzero(~truth.positive)
    ]
    if threshold is not None:
        return np.mean(np.array(negatives) >= threshold), np.mean(np.array(lesions) >= threshold)
    return np.mean([(a > b) + 0.5 * (a == b) for a in lesions for b in negatives])


@pytest.mark.parametrize("seed", range(5))
def test_afroc_is_that_of_all_pairs_of_lesions_and_negative_cases(seed):
    truth = random_truth()
    outcome = random_outcome(truth, seed)
    share, sensitivity = afroc_curve(truth, outcome)
    assert np.trapezoid(sensitivity, share) == pytest.approx(brute_force_afroc(truth, outcome))
    thresholds = np.unique(outcome.confidence)[::-1]
    points = {brute_force_afroc(truth, outcome, threshold) for threshold in thresholds}
    assert points <= set(zip(share, sensitivity, strict=True))
    assert (share[-1], sensitivity[-1]) == (1, 1)


def test_afroc_of_weights_is_that_of_repeated_cases():
    truth = random_truth(20)
    outcome = random_outcome(truth, 3)
    weights = np.random.default_rng(0).integers(1, 4, 20)
    drawn = np.repeat(np.arange(20), weights)
    repeated = TestSet(tuple(f"{i}_{i}" for i in range(drawn.size)), truth.positive[drawn], truth.lesions[drawn])
    rows = [
        (confidence, place, hit)
        for place, case in enumerate(drawn)
        for of, confidence, hit in zip(outcome.candidate_case, outcome.confidence, outcome.hit, strict=True)
        if of == case
    ]
    at = np.linspace(0, 1, 21)
    (found,) = resampled_afroc_at(truth, outcome, weights[None, :].astype(float), at)
    assert found == pytest.approx(afroc_at(repeated, Outcome.of(outcome.likelihood[drawn], rows), at))
