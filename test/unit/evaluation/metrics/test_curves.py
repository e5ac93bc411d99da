import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve
from sklearn.metrics import roc_curve as sklearn_roc_curve

from evaluation.metrics.curves import (
    FALSE_POSITIVES_PER_CASE,
    detection_curve,
    lesion_sensitivity_at,
    precision_at,
    resampled_lesion_sensitivity_at,
    resampled_precision_at,
    resampled_roc_at,
    roc_at,
    roc_curve,
    sensitivity_key,
)
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
    ],
)
def test_resampled_curves_with_unit_weights_are_the_curves(run, plain, resampled):
    at = np.linspace(0.0, 1.0, 41)
    weights = np.ones((2, len(run.truth.case_ids)))
    found = resampled(run.truth, run.outcome, weights, at)
    assert np.allclose(found, np.nan_to_num(plain(run.truth, run.outcome, at)))
