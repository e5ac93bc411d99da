"""Matching exactly as picai-eval 1.4.13 does it: the same rows, in the same order, to the last bit.

Differences from ``evaluation.matching.strict`` are its properties and are kept: overlaps carry an epsilon, the
assignment maximises the sum of (1 + overlap) regardless of confidences, and overlaps make a detour through 1 + overlap
- 1. Reference: ``picai_eval/eval.py`` and ``analysis_utils.py`` of DIAGNijmegen/picai_eval 1.4.13.
"""

from collections.abc import Collection

import numpy as np

from evaluation.masks.components import intersections
from evaluation.matching.assignment import assign
from evaluation.matching.cases import Case, Finding, Float64Array, MatchingRule

_EPSILON = 1e-8


def match(case: Case, rule: MatchingRule) -> tuple[Finding, ...]:
    """Match candidates with lesions: hits by lesion, missed lesions, false positives; ignored candidates come last."""
    confidences = [float(each) for each in case.confidences]
    if not len(case.lesions):
        return tuple(Finding("fp", confidence, 0.0, candidate=c) for c, confidence in enumerate(confidences))
    weight = overlaps(case, rule)
    weight[weight < rule.minimum_overlap] = 0
    weight[weight > 0] += 1
    pairs = assign(weight, weight > 0)
    hits = [Finding("tp", confidences[c], float(weight[lesion, c] - 1), lesion, c) for lesion, c in pairs]
    missed = _without(len(case.lesions), [lesion for lesion, _ in pairs])
    touching = np.flatnonzero((weight > 0).any(axis=0)).tolist()
    false = _without(len(confidences), touching)
    matched = {candidate for _, candidate in pairs}
    return (
        *hits,
        *(Finding("fn", 0.0, 0.0, lesion) for lesion in missed),
        *(Finding("fp", confidences[c], 0.0, candidate=c) for c in false),
        *(Finding("ignored", confidences[c], 0.0, candidate=c) for c in touching if c not in matched),
    )


def overlaps(case: Case, rule: MatchingRule) -> Float64Array:
    """Overlap of each lesion with each candidate, shape (lesions, candidates), with the reference's epsilon."""
    shared = intersections(case.lesions, case.candidates)
    sizes = case.lesions.sizes[:, None] + case.candidates.sizes[None, :]
    ratio: Float64Array
    if rule.overlap == "dice":
        ratio = (shared * 2.0 + _EPSILON) / (sizes + _EPSILON)
    else:
        ratio = (shared + _EPSILON) / (sizes - shared + _EPSILON)
    return ratio


def _without(count: int, taken: Collection[int]) -> list[int]:
    """Numbers below ``count`` that are not taken, in CPython's set order: from eight candidates on, not ascending.

    The order of rows changes no metric; it is kept so that rows can be compared one by one.
    """
    return list(set(range(count)) - set(taken))
