"""Influence of each patient's weight on a metric of a run: the infinitesimal jackknife.

The squares of the influences sum to the metric's variance by cases; their products over two runs to the covariance. For
AUROC and one case per patient these are DeLong's (Biometrics 1988).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics.curves import afroc_scores
from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet
from evaluation.metrics.placement_values import count_below, placement_values
from evaluation.metrics.weighted_metrics import last_of_ties, weighted_ap, weighted_auroc
from evaluation.statistics.analysis_file import Metric


@dataclass(frozen=True)
class MetricByPatient:
    """A metric of several runs, and each patient's influence on it."""

    values: FloatArray  # (runs,)
    influence: FloatArray  # (runs, patients); their squares sum to the metric's variance by cases


def by_patient(truth: TestSet, outcomes: Sequence[Outcome]) -> Mapping[Metric, MetricByPatient]:
    """Each metric of some runs with the patients' influence; NaN where the truth leaves it undefined."""
    one = np.ones((1, len(truth.case_ids)))
    auroc = MetricByPatient(
        np.array([weighted_auroc(truth, outcome.likelihood, one)[0] for outcome in outcomes]),
        np.stack([auroc_influence(truth, outcome.likelihood) for outcome in outcomes]),
    )
    ap = MetricByPatient(
        np.array([weighted_ap(truth, outcome, one)[0] for outcome in outcomes]),
        np.stack([ap_influence(truth, outcome) for outcome in outcomes]),
    )
    score = MetricByPatient((auroc.values + ap.values) / 2, (auroc.influence + ap.influence) / 2)
    return {"auroc": auroc, "ap": ap, "score": score}


def auroc_influence(truth: TestSet, likelihood: FloatArray) -> FloatArray:
    """Derivative of AUROC by each patient's weight, shape (patients,); each class n/(n − 1) as in DeLong's variance."""
    positive = truth.positive
    ones, zeros = truth.positive_count, len(truth.case_ids) - truth.positive_count
    if not ones or not zeros:
        return np.full(truth.patient_count, np.nan)
    placement = placement_values(positive, likelihood)
    area = placement[positive].mean()
    count = np.where(positive, ones, zeros)
    of_cases = (placement - area) / count * np.sqrt(count / np.maximum(1, count - 1))
    return sum_by_patient(truth, of_cases)


def ap_influence(truth: TestSet, outcome: Outcome) -> FloatArray:
    """Derivative of AP by each patient's weight, shape (patients,), times √(n/(n − 1)) for n patients with a lesion."""
    if not truth.lesion_count:
        return np.full(truth.patient_count, np.nan)
    of_cases = ap_derivative(truth, outcome, np.ones(len(truth.case_ids)))
    ill = np.unique(truth.patients[truth.lesions > 0]).size
    return sum_by_patient(truth, of_cases) * math.sqrt(ill / max(1, ill - 1))


def ap_derivative(truth: TestSet, outcome: Outcome, weights: FloatArray) -> FloatArray:
    """Derivative of AP by each case's weight, shape (cases,), where cases have these weights; there are lesions.

    With AP = (1/L) Σ ΔTP(t) · TP(t)/N(t) a candidate at the confidence t adds ``[hit] · precision(t)`` and, at every
    confidence u ≤ t, ``ΔTP(u) ([hit] − precision(u)) / N(u)``; a lesion takes AP/L.
    """
    lesions = weights @ truth.lesions
    of_cases = -weighted_ap(truth, outcome, weights[None])[0] * truth.lesions / lesions
    if outcome.confidence.size:
        order = np.argsort(-outcome.confidence, kind="stable")
        confidence, hit = outcome.confidence[order], outcome.hit[order]
        counted = weights[outcome.candidate_case[order]]
        last = last_of_ties(confidence)
        hits, candidates = np.cumsum(counted * hit)[last], np.cumsum(counted)[last]
        gained = np.diff(hits, prepend=0)
        precision = hits / candidates
        of_hits = np.cumsum((gained / candidates)[::-1])[::-1]
        of_all = np.cumsum((gained * precision / candidates)[::-1])[::-1]
        group = np.repeat(np.arange(last.size), np.diff(last, prepend=-1))
        added = hit * (precision[group] + of_hits[group]) - of_all[group]
        of_cases += np.bincount(outcome.candidate_case[order], added, minlength=of_cases.size) / lesions
    return np.asarray(of_cases)


def afroc_by_patient(truth: TestSet, outcomes: Sequence[Outcome]) -> MetricByPatient:
    """Area under the AFROC curve of some runs, with the patients' influence; NaN without lesions or negative cases.

    The area is the share of pairs of a lesion and a negative case that are ranked rightly, ties counted half. Factors
    of n/(n − 1) as for AUROC and AP.
    """
    found = [_afroc(truth, outcome) for outcome in outcomes]
    return MetricByPatient(np.array([area for area, _ in found]), np.stack([influence for _, influence in found]))


def _afroc(truth: TestSet, outcome: Outcome) -> tuple[float, FloatArray]:
    scores = afroc_scores(truth, outcome)
    lesions, negatives = scores.lesion.size, scores.negative.size
    if not lesions or not negatives:
        return math.nan, np.full(truth.patient_count, np.nan)
    of_lesions = count_below(scores.lesion, scores.negative) / negatives
    of_negatives = 1 - count_below(scores.negative, scores.lesion) / lesions
    area = float(of_lesions.mean())
    of_cases = np.bincount(scores.lesion_case, of_lesions - area, minlength=truth.positive.size) / lesions
    ill = np.unique(truth.patients[truth.lesions > 0]).size
    of_cases *= math.sqrt(ill / max(1, ill - 1))
    of_cases[scores.negative_case] += (of_negatives - area) / negatives * math.sqrt(negatives / max(1, negatives - 1))
    return area, sum_by_patient(truth, of_cases)


def own_variance_by_cases(influence: FloatArray) -> float:
    """Variance by cases of one run minus the covariance of two runs: the run × case interaction."""
    runs = len(influence)
    if runs < 2:
        return 0.0
    return float(((influence - influence.mean(axis=0)) ** 2).sum()) / (runs - 1)


def sum_by_patient(truth: TestSet, of_cases: FloatArray) -> FloatArray:
    """Sum over each patient's cases, shape (patients,)."""
    return np.asarray(np.bincount(truth.patients, of_cases, minlength=truth.patient_count), dtype=np.float64)
