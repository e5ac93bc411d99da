"""AUROC and AP under case weights; with unit weights they are the reported metrics themselves.

The weights are how often a resample draws each case: one row of weights per replicate, all replicates at once.
"""

import numpy as np
import numpy.typing as npt

from evaluation.metrics.outcomes import BoolArray, FloatArray, IntArray, Outcome, TestSet


def weighted_auroc(truth: TestSet, likelihood: FloatArray, weights: FloatArray) -> FloatArray:
    """AUROC of the cases' likelihoods under each row of case weights.

    ``(1 / W₁W₀) Σᵢⱼ wᵢ wⱼ (1[sᵢ > sⱼ] + ½·1[sᵢ = sⱼ])`` over positive i and negative j: with whole weights every
    number on the way is exact.

    Parameters
    ----------
    likelihood
        Shape (cases,).
    weights
        Shape (replicates, cases), not negative.

    Returns
    -------
    Shape (replicates,), NaN where a class has no weight.
    """
    positive = truth.positive
    above, below = likelihood[positive][:, None], likelihood[~positive][None, :]
    order = (above > below) + 0.5 * (above == below)
    of_positives, of_negatives = weights[:, positive], weights[:, ~positive]
    total = of_positives.sum(axis=1) * of_negatives.sum(axis=1)
    return _divide((of_positives @ order * of_negatives).sum(axis=1), total)


def weighted_ap(truth: TestSet, outcome: Outcome, weights: FloatArray) -> FloatArray:
    """Average precision of the candidates under each row of case weights.

    ``(1 / W) Σₜ ΔTP(t) · TP(t) / (TP(t) + FP(t))`` over the distinct confidences t > 0, with W the weight of all
    lesions, missed ones included; no interpolation.

    Parameters
    ----------
    weights
        Shape (replicates, cases), not negative.

    Returns
    -------
    Shape (replicates,), NaN where no lesion has weight.
    """
    order = np.argsort(-outcome.confidence, kind="stable")
    hit = outcome.hit[order]
    steps = steps_with_hits(-outcome.confidence[order], hit)
    of_candidates = weights[:, outcome.candidate_case[order]]
    true_positives = np.cumsum(of_candidates * hit, axis=1)[:, steps]
    candidates = np.cumsum(of_candidates, axis=1)[:, steps]
    return _divide(precision_sum(true_positives, candidates), weights @ truth.lesions)


def steps_with_hits(ascending: FloatArray, hit: BoolArray) -> IntArray:
    """Index of the last candidate of each group of ties that holds a hit: only there does sensitivity rise.

    Parameters
    ----------
    ascending
        Sorted keys, the most confident candidate first, shape (candidates,).
    hit
        In the same order.
    """
    last = last_of_ties(ascending)
    hits = np.diff(np.cumsum(hit)[last], prepend=0)
    return last[hits > 0]


def last_of_ties(ordered: npt.NDArray[np.floating]) -> IntArray:
    """Index of the last of each group of equal values in an ordered array."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], ordered.size > 0)[: ordered.size]).astype(np.int64)


def precision_sum(true_positives: FloatArray, candidates: FloatArray) -> FloatArray:
    """``Σ ΔTP · TP / N`` along the last axis, where the cumulative counts are given at each step."""
    gained = np.diff(true_positives, axis=1, prepend=0.0)
    precision = np.divide(true_positives, candidates, out=np.zeros_like(true_positives), where=candidates > 0)
    return np.asarray((gained * precision).sum(axis=1))


def _divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.asarray(np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0))
