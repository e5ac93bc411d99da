"""Holm's adjustment; statsmodels is the oracle."""

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from evaluation.statistics.adjustment import holm


def test_holm_of_a_worked_example_with_a_gap():
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([None, None]) == [None, None]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_holm_is_statsmodels(count):
    p_values = np.random.default_rng(count).choice([0.001, 0.01, 0.0213, 0.2, 0.7, 1.0], count)  # with ties
    assert holm(p_values.tolist()) == multipletests(p_values, method="holm")[1].tolist()
