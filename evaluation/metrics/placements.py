"""Placements: the share of the other class that each case is ranked correctly against (DeLong, Biometrics 1988).

Over the cases of either class they average to AUROC, ties counted half; their spread is its variance by cases.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import rankdata

from evaluation.metrics.outcomes import BoolArray, FloatArray

Ranking = Callable[[FloatArray], FloatArray]
"""Ranks along the last axis, from 1."""

midranks: Ranking = partial(rankdata, axis=-1)


def placements(positive: BoolArray, likelihood: FloatArray, *, ranks: Ranking = midranks) -> FloatArray:
    """Placement of each case.

    Parameters
    ----------
    positive
        Shape (cases,); both classes occur.
    likelihood
        Shape (cases,) or (runs, cases).
    ranks
        :func:`ranks_without_ties` is faster for many rows.

    Returns
    -------
    The shape of ``likelihood``, in [0, 1].
    """
    ones, zeros = int(positive.sum()), int((~positive).sum())
    of_all = ranks(likelihood)
    found = np.empty(likelihood.shape)
    found[..., positive] = (of_all[..., positive] - ranks(likelihood[..., positive])) / zeros
    found[..., ~positive] = 1 - (of_all[..., ~positive] - ranks(likelihood[..., ~positive])) / ones
    return found


def ranks_without_ties(values: FloatArray) -> FloatArray:
    """Rank of each value in its row, shape (runs, cases)."""
    order = np.argsort(values, axis=1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, values.shape[1] + 1)[None, :], axis=1)
    return ranks


def count_below(values: FloatArray, others: FloatArray) -> FloatArray:
    """For each value the number of others below it, equal ones counted half: a placement before its division."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
