"""Likelihoods as probabilities: reliability, expected calibration error, and logistic recalibration.

Each is of one run, but for the bins of the figure, which pool the cases of all runs. Cases with equal likelihoods, such
as those without candidates, share their mean truth, so that the order of cases changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from evaluation.metrics.outcomes import BoolArray, FloatArray, IntArray
from evaluation.metrics.scored_run import ScoredRun

BINS = 10
_CASES_PER_BIN = 20
CLIPPED = 0.001
"""Likelihoods are kept within this and 1 − this before their logit is taken."""
_MOST_STEPS = 50


@dataclass(frozen=True)
class Calibration:
    """Likelihood against the share of positive cases, the cases of all runs in bins of equal numbers."""

    likelihood: FloatArray  # mean of each bin
    positive: FloatArray  # share of each bin


@dataclass(frozen=True)
class Recalibration:
    """``logit P(positive) = intercept + slope · logit(likelihood)``, by maximum likelihood."""

    slope: float
    intercept: float
    in_the_large: float
    """The intercept where the slope is held at 1."""
    influence: FloatArray  # of each case's weight on the three, (3, cases)


def calibration(runs: Sequence[ScoredRun]) -> Calibration:
    """Reliability of the likelihoods as probabilities, pooled over runs."""
    likelihood = np.concatenate([run.outcome.likelihood for run in runs])
    positive = np.concatenate([run.truth.positive for run in runs])
    bins, count = bins_of(likelihood, cases=len(runs[0].truth.case_ids))
    sizes = np.bincount(bins, minlength=count)
    shared = _mean_of_ties(likelihood, positive.astype(np.float64))
    return Calibration(
        likelihood=np.bincount(bins, likelihood, minlength=count) / sizes,
        positive=np.bincount(bins, shared, minlength=count) / sizes,
    )


def bins_of(likelihood: FloatArray, *, cases: int) -> tuple[IntArray, int]:
    """The bin of each likelihood and how many there are: ten of equal numbers, or fewer, with 20 cases each."""
    count = max(1, min(BINS, cases // _CASES_PER_BIN))
    bins = np.empty(likelihood.size, dtype=np.int64)
    for number, part in enumerate(np.array_split(np.argsort(likelihood, kind="stable"), count)):
        bins[part] = number
    return bins, count


def calibration_error(positive: BoolArray, likelihood: FloatArray) -> tuple[float, FloatArray]:
    """ECE, mean distance of likelihood and truth over the bins, and its derivative by each case's weight, bins kept."""
    bins, count = bins_of(likelihood, cases=positive.size)
    above = likelihood - positive
    gaps = np.bincount(bins, _mean_of_ties(likelihood, above), minlength=count)
    error = float(np.abs(gaps).sum()) / positive.size
    signs = _mean_of_ties(likelihood, np.sign(gaps)[bins])
    return error, (signs * above - error) / positive.size


def recalibration(positive: BoolArray, likelihood: FloatArray) -> Recalibration | None:
    """Calibration slope and intercepts; None where the likelihoods separate the classes or are all equal."""
    ill, well = likelihood[positive], likelihood[~positive]
    if not ill.size or not well.size or well.max() <= ill.min() or ill.max() <= well.min():
        return None
    x = logit(np.clip(likelihood, CLIPPED, 1 - CLIPPED))
    design = np.column_stack([x, np.ones_like(x)])
    found = _logistic(design, positive)
    if found is None:
        return None
    shift = float(brentq(lambda intercept: float((positive - expit(intercept + x)).sum()), -50, 50, xtol=1e-13))
    fitted, shifted = expit(design @ found), expit(shift + x)
    of_both = np.linalg.solve(_information(design, fitted), design.T * (positive - fitted))
    of_shift = (positive - shifted) / (shifted * (1 - shifted)).sum()
    return Recalibration(float(found[0]), float(found[1]), shift, np.vstack([of_both, of_shift]))


def _logistic(design: FloatArray, positive: BoolArray) -> FloatArray | None:
    """Newton's method; None where it does not converge, as where clipped likelihoods separate the classes."""
    found = np.zeros(design.shape[1])
    for _ in range(_MOST_STEPS):
        fitted = expit(design @ found)
        information = _information(design, fitted)
        if np.linalg.cond(information) > 1 / np.finfo(np.float64).eps:
            return None
        step = np.linalg.solve(information, design.T @ (positive - fitted))
        found = found + np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-10:
            return np.asarray(found)
    return None


def _information(design: FloatArray, fitted: FloatArray) -> FloatArray:
    return np.asarray((design.T * (fitted * (1 - fitted))) @ design)


def _mean_of_ties(likelihood: FloatArray, values: FloatArray) -> FloatArray:
    """The mean value of each case's ties."""
    _, group, sizes = np.unique(likelihood, return_inverse=True, return_counts=True)
    return np.asarray((np.bincount(group, values) / sizes)[group])
