"""Placement values: the share of the other class that each case is ranked correctly against (DeLong, Biometrics 1988).

Over the cases of either class they average to AUROC, ties counted half; their spread is its variance by cases.
"""

import numpy as np
from scipy.stats import rankdata

from evaluation.metrics.outcomes import BoolArray, FloatArray


def placement_values(positive: BoolArray, likelihood: FloatArray) -> FloatArray:
    """Placement value of each case.

    Parameters
    ----------
    positive
        Shape (cases,); both classes occur.
    likelihood
        Shape (cases,) or (runs, cases).

    Returns
    -------
    The shape of ``likelihood``, in [0, 1].
    """
    ones, zeros = int(positive.sum()), int((~positive).sum())
    of_all = rankdata(likelihood, axis=-1)
    found = np.empty(likelihood.shape)
    found[..., positive] = (of_all[..., positive] - rankdata(likelihood[..., positive], axis=-1)) / zeros
    found[..., ~positive] = 1 - (of_all[..., ~positive] - rankdata(likelihood[..., ~positive], axis=-1)) / ones
    return found


def count_below(values: FloatArray, others: FloatArray) -> FloatArray:
    """For each value the number of others below it, equal ones counted half: a placement value before its division."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
