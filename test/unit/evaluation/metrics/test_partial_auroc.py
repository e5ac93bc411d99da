import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.metrics.partial_auroc import partial_auroc

POSITIVE = np.random.default_rng(0).random(97) < 0.4


def scores(decimals, seed=1):
    return np.round(np.random.default_rng(seed).normal(0, 1, 97) + 1.2 * POSITIVE, decimals)


@pytest.mark.parametrize("specificity", [0.2, 0.8, 0.93])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_partial_auroc_is_that_of_scikit_learn(decimals, specificity):
    s = scores(decimals)
    found, _ = partial_auroc(POSITIVE, s, specificity)
    assert found == pytest.approx(roc_auc_score(POSITIVE, s, max_fpr=1 - specificity), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_derivative_is_that_of_scikit_learn_by_the_cases_weight(decimals):
    s = scores(decimals)
    _, derivative = partial_auroc(POSITIVE, s, 0.83)

    def weighted(weights):
        return roc_auc_score(POSITIVE, s, max_fpr=0.17, sample_weight=weights)

    step = 1e-5
    slopes = [(weighted(1 + step * row) - weighted(1 - step * row)) / (2 * step) for row in np.eye(97)]
    assert derivative == pytest.approx(slopes, abs=1e-7)
    assert derivative.sum() == pytest.approx(0, abs=1e-12)


def test_area_at_high_sensitivity_is_that_of_swapped_classes():
    s = scores(9)
    found, _ = partial_auroc(~POSITIVE, -s, 0.8)
    # by hand: average of specificity over sensitivities of 0.8 and more, between the points of the curve
    at = np.linspace(0.8, 1, 200_001)
    negatives, positives = np.sort(s[~POSITIVE]), np.sort(s[POSITIVE])[::-1]
    below = np.searchsorted(negatives, positives) / negatives.size
    area = below[np.minimum((at * positives.size).astype(int), positives.size - 1)].mean() * 0.2
    assert found == pytest.approx(0.5 * (1 + (area - 0.02) / 0.18), abs=1e-4)
