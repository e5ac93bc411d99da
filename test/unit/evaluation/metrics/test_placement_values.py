import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.metrics.placement_values import count_below, placement_values


@pytest.mark.parametrize("levels", [4, 1000])
def test_placement_values_equal_brute_force_and_average_to_auroc(levels):
    rng = np.random.default_rng(levels)
    positive, likelihood = rng.random(41) < 0.4, rng.integers(0, levels, (3, 41)) / levels
    found = placement_values(positive, likelihood)
    for row, values in zip(found, likelihood, strict=True):
        for case, value in enumerate(values):
            others = values[positive != positive[case]]
            below = np.mean((others < value) + 0.5 * (others == value))
            assert row[case] == pytest.approx(below if positive[case] else 1 - below)
        assert row[positive].mean() == pytest.approx(roc_auc_score(positive, values))
        assert row[~positive].mean() == pytest.approx(row[positive].mean())
        zeros = np.count_nonzero(~positive)
        assert np.allclose(count_below(values[positive], values[~positive]) / zeros, row[positive])
