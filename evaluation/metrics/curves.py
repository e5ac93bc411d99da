"""ROC, precision–recall, FROC and AFROC curves: a point per distinct score, descending, from the counts that reach it.

* FROC: lesion sensitivity against false positives per case. Strict: one point per confidence, from (0, 0), whole.
  picai: as picai-eval draws it, that is without its last point.
* A missed lesion has the confidence 0: it counts in the number of lesions and is no detection.
* Resampled curves have one row per replicate, read at given abscissae; their weights say how often each case was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evaluation.matching.cases import ScoredCase
from evaluation.metrics.outcomes import BoolArray, FloatArray, IntArray, Outcome, TestSet
from evaluation.metrics.weighted_metrics import last_of_ties

FALSE_POSITIVES_PER_CASE = (0.125, 0.25, 0.5, 1.0, 2.0)
"""False positives per case at the operating points of ``metrics.json``."""
FALSE_POSITIVES_PER_CASE_IN_REPORT = (*FALSE_POSITIVES_PER_CASE, 4.0, 8.0)
"""False positives per case in the report's table and on the axis of its FROC curves."""

_MOST_THRESHOLDS = 10_000
_TOLERANCE = 1e-12  # of an abscissa


@dataclass(frozen=True)
class Froc:
    """A free-response curve, by descending confidence."""

    false_positives_per_case: npt.NDArray[np.floating]
    sensitivity: npt.NDArray[np.floating]
    """Lesion sensitivity."""

    def sensitivity_at(self, false_positives_per_case: float) -> float:
        """Sensitivity of the last point with at most so many false positives per case, 0 without such a point."""
        within = self.false_positives_per_case <= false_positives_per_case
        return float(self.sensitivity[within][-1]) if within.any() else 0.0


def sensitivity_key(false_positives_per_case: float) -> str:
    """Name of an operating point without dots, such as ``fp_0_125``."""
    return f"fp_{false_positives_per_case:g}".replace(".", "_")


def counts_by_threshold(
    target: IntArray | BoolArray, score: npt.NDArray[np.floating]
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.floating]]:
    """How many of target 0 and of target 1 reach each distinct score, and that score, descending."""
    order = np.argsort(-score, kind="stable")
    target, score = target[order], score[order]
    last = last_of_ties(score)
    hits = np.cumsum(target, dtype=np.int64)[last]
    return np.asarray(last + 1.0 - hits, dtype=np.float64), hits.astype(np.float64), score[last]


def roc_curve(truth: TestSet, outcome: Outcome) -> tuple[FloatArray, FloatArray]:
    """False positive rate and sensitivity of the cases, from (0, 0) to (1, 1)."""
    false, hits, _ = counts_by_threshold(truth.positive, outcome.likelihood)
    return np.append(0.0, false / max(1, false[-1])), np.append(0.0, hits / max(1, hits[-1]))


class AfrocScores(NamedTuple):
    """What an AFROC curve ranks: every lesion, and the most confident false positive of every negative case."""

    lesion_case: IntArray  # (lesions,), index of the case
    lesion: FloatArray  # (lesions,), confidence; 0 where missed
    negative_case: IntArray  # (negative cases,), index of the case
    negative: FloatArray  # (negative cases,), highest confidence; 0 without a false positive


def afroc_scores(truth: TestSet, outcome: Outcome) -> AfrocScores:
    """Scores of all lesions and of all negative cases; false positives of positive cases do not count."""
    case, confidence, hit = outcome.candidate_case, outcome.confidence, outcome.hit
    missed = np.maximum(0, truth.lesions - np.bincount(case[hit], minlength=truth.lesions.size))
    highest = np.zeros(truth.lesions.size)
    np.maximum.at(highest, case[~hit], confidence[~hit])
    return AfrocScores(
        np.concatenate([case[hit], np.repeat(np.arange(missed.size), missed)]),
        np.append(confidence[hit], np.zeros(missed.sum())),
        np.flatnonzero(~truth.positive),
        highest[~truth.positive],
    )


def afroc_curve(truth: TestSet, outcome: Outcome) -> tuple[FloatArray, FloatArray]:
    """Share of negative cases with a false positive at least as confident, and lesion sensitivity.

    From (0, 0) to (1, 1): the last point that candidates reach is joined to (1, 1), as in Chakraborty and Winter
    (Radiology 1990), so that the area is the probability that a lesion outranks a negative case.
    """
    found = afroc_scores(truth, outcome)
    score = np.concatenate([found.lesion, found.negative])
    is_lesion = np.arange(score.size) < found.lesion.size
    false, hits, _ = counts_by_threshold(is_lesion[score > 0], score[score > 0])
    share = false / max(1, found.negative.size)
    return np.concatenate([[0.0], share, [1.0]]), np.concatenate([[0.0], hits / max(1, found.lesion.size), [1.0]])


def detection_curve(truth: TestSet, outcome: Outcome) -> tuple[Froc, FloatArray]:
    """The FROC curve, and the precision at each of its points; at (0, 0), without candidates, it is 1 by convention."""
    order = np.argsort(-outcome.confidence, kind="stable")
    hit, confidence = outcome.hit[order], outcome.confidence[order]
    lesions, cases = max(1, truth.lesion_count), len(truth.case_ids)
    return _detection_curve(hit, confidence, np.ones(hit.size), lesions=lesions, cases=cases)


def strict_froc(cases: Sequence[ScoredCase], weights: Sequence[float] | None = None) -> Froc:
    """The whole curve: (0, 0), then one point per distinct confidence of a candidate that counts.

    Parameters
    ----------
    cases
        At least one lesion is among them.
    weights
        How much each case counts, and with it its lesions and candidates; absent: 1. Not negative.
    """
    weights = [1.0] * len(cases) if weights is None else weights
    is_lesion, confidence = lesions_and_candidates(cases)
    weight = np.array(
        [
            weight
            for case, weight in zip(cases, weights, strict=True)
            for finding in case.findings
            if finding.kind != "ignored"
        ],
        dtype=np.float64,
    )
    order = np.argsort(-confidence, kind="stable")
    hit, confidence, weight = is_lesion[order] == 1, confidence[order], weight[order]
    lesions = weight[hit].sum()
    detected = np.count_nonzero(confidence > 0)
    hit, confidence, weight = hit[:detected], confidence[:detected], weight[:detected]
    return _detection_curve(hit, confidence, weight, lesions=lesions, cases=float(np.sum(weights)))[0]


def picai_froc(cases: Sequence[ScoredCase]) -> Froc:
    """The curve of picai-eval 1.4.13: its last point is replaced by (∞, the sensitivity before), in float32."""
    is_lesion, confidence = lesions_and_candidates(cases)
    thresholds = _thinned(np.unique(confidence)[::-1])
    if thresholds.size < 2:
        return Froc(np.array([0.0, np.inf]), np.array([0.0, 0.0]))
    hits = _at_least(confidence[is_lesion == 1], thresholds).astype(np.float32)
    false = _at_least(confidence[is_lesion == 0], thresholds).astype(np.float32)
    hits[-1], false[-1] = hits[-2], np.inf
    return Froc(false / np.float32(len(cases)), hits / np.float32(count_lesions(cases)))


def lesions_and_candidates(cases: Sequence[ScoredCase]) -> tuple[IntArray, FloatArray]:
    """Whether each finding is a lesion, and its confidence (0 where missed); ignored candidates are left out."""
    rows = [finding for case in cases for finding in case.findings if finding.kind != "ignored"]
    is_lesion = np.array([finding.kind != "fp" for finding in rows], dtype=np.int64)
    return is_lesion, np.array([finding.confidence for finding in rows], dtype=np.float64)


def count_lesions(cases: Sequence[ScoredCase]) -> int:
    """Number of lesions, missed ones included."""
    return sum(finding.kind in ("tp", "fn") for case in cases for finding in case.findings)


def roc_at(truth: TestSet, outcome: Outcome, false_positive_rate: FloatArray) -> FloatArray:
    """Sensitivity at false positive rates, linear between the points of the ROC curve."""
    return _linear(*roc_curve(truth, outcome), false_positive_rate)


def afroc_at(truth: TestSet, outcome: Outcome, false_positive_rate: FloatArray) -> FloatArray:
    """Lesion sensitivity at shares of negative cases with a false positive, linear between the AFROC curve's points."""
    return _linear(*afroc_curve(truth, outcome), false_positive_rate)


def precision_at(truth: TestSet, outcome: Outcome, recall: FloatArray) -> FloatArray:
    """Precision at the first point that reaches each recall; NaN where none does."""
    curve, precision = detection_curve(truth, outcome)
    return np.append(precision, np.nan)[_first_reaching(curve.sensitivity, recall)]


def lesion_sensitivity_at(truth: TestSet, outcome: Outcome, false_positives_per_case: FloatArray) -> FloatArray:
    """Lesion sensitivity at the last point with at most so many false positives per case."""
    curve, _ = detection_curve(truth, outcome)
    place = _last_within(curve.false_positives_per_case, false_positives_per_case)
    return np.asarray(curve.sensitivity[place], dtype=np.float64)


def resampled_roc_at(truth: TestSet, outcome: Outcome, weights: FloatArray, at: FloatArray) -> FloatArray:
    """As :func:`roc_at` for each row of case weights, shape (replicates, places)."""
    order = np.argsort(-outcome.likelihood, kind="stable")
    drawn, positive = weights[:, order], truth.positive[order]
    hits, false = np.cumsum(drawn * positive, axis=1), np.cumsum(drawn * ~positive, axis=1)
    rows = [
        np.interp(at, np.append(0.0, x / max(1.0, x[-1])), np.append(0.0, y / max(1.0, y[-1])))
        for x, y in zip(false, hits, strict=True)
    ]
    return np.stack(rows)


def resampled_afroc_at(truth: TestSet, outcome: Outcome, weights: FloatArray, at: FloatArray) -> FloatArray:
    """As :func:`afroc_at` for each row of case weights."""
    found = afroc_scores(truth, outcome)
    case = np.concatenate([found.lesion_case, found.negative_case])
    score = np.concatenate([found.lesion, found.negative])
    is_lesion = np.arange(case.size) < found.lesion_case.size
    order = np.argsort(-score, kind="stable")
    order = order[score[order] > 0]
    last = last_of_ties(score[order])
    drawn, hit = weights[:, case[order]], is_lesion[order]
    hits, false = np.cumsum(drawn * hit, axis=1)[:, last], np.cumsum(drawn * ~hit, axis=1)[:, last]
    lesions, negatives = weights @ truth.lesions, weights @ ~truth.positive
    rows = [
        np.interp(at, [0.0, *(x / max(1.0, of_x)), 1.0], [0.0, *(y / max(1.0, of_y)), 1.0])
        for x, y, of_x, of_y in zip(false, hits, negatives, lesions, strict=True)
    ]
    return np.stack(rows)


def resampled_precision_at(truth: TestSet, outcome: Outcome, weights: FloatArray, at: FloatArray) -> FloatArray:
    """As :func:`precision_at` for each row of case weights, 0 where no point reaches the recall."""
    hits, false = _resampled_counts(outcome, weights)
    lesions = np.maximum(1.0, weights @ truth.lesions)
    precision = np.divide(hits, hits + false, out=np.zeros_like(hits), where=hits > 0)
    rows = [
        np.append(row, 0.0)[_first_reaching(found / count, at)]
        for row, found, count in zip(precision, hits, lesions, strict=True)
    ]
    return np.stack(rows)


def resampled_lesion_sensitivity_at(
    truth: TestSet, outcome: Outcome, weights: FloatArray, at: FloatArray
) -> FloatArray:
    """As :func:`lesion_sensitivity_at` for each row of case weights."""
    hits, false = _resampled_counts(outcome, weights)
    lesions, cases = np.maximum(1.0, weights @ truth.lesions), weights.sum(axis=1)
    rows = []
    for found, wrong, lesion_count, case_count in zip(hits, false, lesions, cases, strict=True):
        place = _last_within(wrong / case_count, at)
        rows.append(np.where(place >= 0, np.append(found, 0.0)[place], 0.0) / lesion_count)
    return np.stack(rows)


def _linear(x: FloatArray, y: FloatArray, at: FloatArray) -> FloatArray:
    """Ordinates of a rising curve, linear between its points; of a vertical stretch its upper end."""
    before = np.searchsorted(x, at, "right") - 1
    after = np.minimum(before + 1, x.size - 1)
    width = x[after] - x[before]
    part = np.divide(at - x[before], width, out=np.zeros_like(at), where=width > 0)
    return np.asarray(y[before] + part * (y[after] - y[before]))


def _detection_curve(
    hit: BoolArray, descending: FloatArray, weight: FloatArray, *, lesions: float, cases: float
) -> tuple[Froc, FloatArray]:
    """FROC and precision of candidates by descending confidence."""
    last = last_of_ties(descending)
    hits, false = np.cumsum(weight * hit)[last], np.cumsum(weight * ~hit)[last]
    precision = np.divide(hits, hits + false, out=np.zeros_like(hits), where=hits > 0)
    return Froc(np.append(0.0, false / cases), np.append(0.0, hits / lesions)), np.append(1.0, precision)


def _resampled_counts(outcome: Outcome, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Hits and false positives among the first candidates by confidence, shape (replicates, candidates)."""
    order = np.argsort(-outcome.confidence, kind="stable")
    drawn, hit = weights[:, outcome.candidate_case[order]], outcome.hit[order]
    return np.cumsum(drawn * hit, axis=1), np.cumsum(drawn * ~hit, axis=1)


def _first_reaching(sensitivity: npt.NDArray[np.floating], recall: FloatArray) -> IntArray:
    return np.searchsorted(sensitivity, np.maximum(recall, 1e-9) - _TOLERANCE)


def _last_within(false_positives: npt.NDArray[np.floating], allowed: FloatArray) -> IntArray:
    return np.searchsorted(false_positives, allowed + _TOLERANCE, "right") - 1


def _at_least(confidence: FloatArray, thresholds: FloatArray) -> IntArray:
    """How many confidences reach each threshold."""
    return confidence.size - np.searchsorted(np.sort(confidence), thresholds, side="left")


def _thinned(thresholds: FloatArray) -> FloatArray:
    """picai-eval's choice among more than 10,000 descending thresholds; its integer step makes it keep the first."""
    if thresholds.size <= _MOST_THRESHOLDS:
        return thresholds
    places = np.arange(1, thresholds.size, thresholds.size / _MOST_THRESHOLDS, dtype=np.int32)
    kept = np.isin(thresholds, thresholds[places]) | (thresholds > 0.8) | np.isin(thresholds, thresholds[-20:])
    return thresholds[kept]
