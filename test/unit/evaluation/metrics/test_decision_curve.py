import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from evaluation.metrics.decision_curve import THRESHOLDS, net_benefit, net_benefit_of_all

POSITIVE = np.random.default_rng(0).random(150) < 0.3
LIKELIHOOD = np.round(np.random.default_rng(1).random(150) * 0.6 + 0.3 * POSITIVE, 2)


def test_net_benefit_is_vickers_formula_on_the_confusion_matrix():
    expected = []
    for t in THRESHOLDS:
        _, fp, _, tp = confusion_matrix(POSITIVE, t <= LIKELIHOOD).ravel()
        expected.append(tp / 150 - fp / 150 * t / (1 - t))
    assert net_benefit(POSITIVE, LIKELIHOOD, THRESHOLDS) == pytest.approx(expected)


def test_calling_all_is_a_likelihood_of_1_and_calling_none_is_worth_0():
    everybody = net_benefit(POSITIVE, np.ones(150), THRESHOLDS)
    assert net_benefit_of_all(POSITIVE.mean(), THRESHOLDS) == pytest.approx(everybody)
    assert not net_benefit(POSITIVE, np.zeros(150), THRESHOLDS).any()
    assert net_benefit_of_all(0.3, np.array([0.3])) == pytest.approx(0)
