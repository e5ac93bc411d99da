"""AUROC, average precision, FROC and ranking score over scored cases.

* AUROC: case-level, over likelihoods. AP: over lesions and candidates pooled from all cases, without interpolation; a
  missed lesion counts in recall's denominator alone. Both go through the same lines for either answer, so that the two
  can differ by what was matched and by nothing else. The sums are taken in the order of the scikit-learn calls of
  picai-eval 1.4.13 and give the same bits; scikit-learn itself would take longer to import than 100 cases to score.
* FROC: lesion sensitivity against false positives per case. Strict: one point per confidence, from (0, 0), whole.
  picai: as picai-eval draws it, that is without its last point.
* What the cases leave undefined is null with a reason. Only picai's AP without any lesion is picai-eval's -0.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.records import Metrics
from evaluation.matching.cases import Float64Array, ScoredCase

FALSE_POSITIVES_PER_CASE = (0.125, 0.25, 0.5, 1.0, 2.0)

_MOST_THRESHOLDS = 10_000


@dataclass(frozen=True)
class Froc:
    """A free-response curve, by descending confidence."""

    false_positives_per_case: npt.NDArray[np.floating]
    sensitivity: npt.NDArray[np.floating]
    """Of lesions."""

    def sensitivity_at(self, false_positives_per_case: float) -> float:
        """Sensitivity of the last point with at most so many false positives per case, 0 without such a point."""
        within = self.false_positives_per_case <= false_positives_per_case
        return float(self.sensitivity[within][-1]) if within.any() else 0.0


def strict_metrics(cases: Sequence[ScoredCase]) -> Metrics:
    """The answer that ranks. Undefined: AUROC without both kinds of case; AP, sensitivities without a lesion."""
    reasons = []
    positive = [case.positive for case in cases]
    area = precision = None
    if any(positive) and not all(positive):
        area = auroc(positive, np.array([case.likelihood for case in cases], dtype=np.float64))
    else:
        reasons.append(_one_kind_of_case(positive))
    curve = None
    if _lesions(cases):
        precision = average_precision(cases) + 0.0  # -0.0 where nothing was hit
        curve = strict_froc(cases)
    else:
        reasons.append("AP and lesion sensitivity are undefined: there is no lesion")
    return _metrics(cases, area, precision, curve, reasons)


def picai_metrics(cases: Sequence[ScoredCase]) -> Metrics:
    """What picai-eval 1.4.13 computes, AP of -0.0 without lesions included; where it gives NaN or raises: null."""
    cases = sorted(cases, key=lambda case: case.case_id)
    reasons = []
    positive = [case.positive for case in cases]
    area = precision = None
    if any(positive) and not all(positive):
        area = auroc(positive, np.array([case.likelihood for case in cases], dtype=np.float32))
    else:
        reasons.append(_one_kind_of_case(positive))
    if _rows(cases)[0].size:
        precision = average_precision(cases)
    else:
        reasons.append("AP is undefined: there is neither lesion nor candidate")
    curve = picai_froc(cases) if _lesions(cases) else None
    return _metrics(cases, area, precision, curve, reasons)


def auroc(positive: Sequence[bool], likelihood: npt.NDArray[np.floating]) -> float:
    """Probability that a positive case is more likely than a negative one, ties counted half.

    Parameters
    ----------
    positive
        Of each case; both kinds must occur.
    likelihood
        Of each case; compared at the precision that it comes in.
    """
    false, hits, _ = _counts(np.array(positive, dtype=np.int64), likelihood)
    corner = np.ones(hits.size, dtype=np.bool_)
    corner[1:-1] = (np.diff(false, 2) != 0) | (np.diff(hits, 2) != 0)  # others lie on a line; left out, bits agree
    false, hits = np.append(0.0, false[corner]), np.append(0.0, hits[corner])
    return float(np.trapezoid(hits / hits[-1], false / false[-1]))


def average_precision(cases: Sequence[ScoredCase]) -> float:
    """Σ ΔTP(t) · TP(t) / (TP(t) + FP(t)) over distinct confidences t > 0, divided by all lesions, missed ones too."""
    target, confidence = _rows(cases)
    false, hits, thresholds = _counts(target, confidence)
    precision = hits / (hits + false)
    precision[thresholds == 0] = 0  # missed lesions stand at 0: they are no detections
    recall = hits / hits[-1] if hits[-1] else np.ones(hits.size)
    return float(-np.sum(np.diff(np.append(recall[::-1], 0.0)) * precision[::-1]))


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
    target, confidence = _rows(cases)
    weight = np.array(
        [
            weight
            for case, weight in zip(cases, weights, strict=True)
            for each in case.findings
            if each.kind != "ignored"
        ]
    )
    order = np.argsort(-confidence, kind="stable")
    target, confidence, weight = target[order], confidence[order], weight[order]
    lesions = weight[target == 1].sum()
    steps = np.flatnonzero(np.diff(confidence, append=-np.inf) != 0)
    steps = steps[confidence[steps] > 0]  # missed lesions stand at 0: they are no detections
    hits, false = (np.cumsum(weight * (target == kind))[steps] for kind in (1, 0))
    return Froc(np.append(0.0, false / np.sum(weights)), np.append(0.0, hits / lesions))


def picai_froc(cases: Sequence[ScoredCase]) -> Froc:
    """The curve of picai-eval 1.4.13: its last point is replaced by (∞, the sensitivity before), in float32."""
    target, confidence = _rows(cases)
    thresholds = _thinned(np.unique(confidence)[::-1])
    if thresholds.size < 2:
        return Froc(np.array([0.0, np.inf]), np.array([0.0, 0.0]))
    hits = _at_least(confidence[target == 1], thresholds).astype(np.float32)
    false = _at_least(confidence[target == 0], thresholds).astype(np.float32)
    hits[-1], false[-1] = hits[-2], np.inf
    return Froc(false / np.float32(len(cases)), hits / np.float32(_lesions(cases)))


def sensitivity_key(false_positives_per_case: float) -> str:
    """Name of an operating point without dots, such as ``fp_0_125``."""
    return f"fp_{false_positives_per_case:g}".replace(".", "_")


def _metrics(
    cases: Sequence[ScoredCase], area: float | None, precision: float | None, curve: Froc | None, reasons: list[str]
) -> Metrics:
    return Metrics(
        auroc=area,
        ap=precision,
        score=None if area is None or precision is None else (area + precision) / 2,
        cases=len(cases),
        positive_cases=sum(case.positive for case in cases),
        lesions=_lesions(cases),
        missing=sum(case.missing for case in cases),
        lesion_sensitivity_at_fp={
            sensitivity_key(rate): None if curve is None else curve.sensitivity_at(rate)
            for rate in FALSE_POSITIVES_PER_CASE
        },
        reason="; ".join(reasons) or None,
    )


def _rows(cases: Sequence[ScoredCase]) -> tuple[npt.NDArray[np.int64], Float64Array]:
    """Whether each finding is a lesion, and its confidence (0 where missed); ignored candidates are left out."""
    rows = [finding for case in cases for finding in case.findings if finding.kind != "ignored"]
    target = np.array([finding.kind != "fp" for finding in rows], dtype=np.int64)
    return target, np.array([finding.confidence for finding in rows], dtype=np.float64)


def _counts(
    target: npt.NDArray[np.int64], confidence: npt.NDArray[np.floating]
) -> tuple[Float64Array, Float64Array, npt.NDArray[np.floating]]:
    """How many of target 0 and of target 1 reach each distinct confidence, and that confidence, descending."""
    order = np.argsort(-confidence, kind="stable")
    target, confidence = target[order], confidence[order]
    last = np.append(np.flatnonzero(np.diff(confidence)), confidence.size - 1)
    hits = np.cumsum(target)[last]
    return (last + 1.0) - hits, hits.astype(np.float64), confidence[last]


def _lesions(cases: Sequence[ScoredCase]) -> int:
    return sum(finding.kind in ("tp", "fn") for case in cases for finding in case.findings)


def _one_kind_of_case(positive: Sequence[bool]) -> str:
    return f"AUROC is undefined: all {len(positive)} cases are {'positive' if any(positive) else 'negative'}"


def _at_least(confidence: Float64Array, thresholds: Float64Array) -> npt.NDArray[np.int64]:
    """How many confidences reach each threshold."""
    return confidence.size - np.searchsorted(np.sort(confidence), thresholds, side="left")


def _thinned(thresholds: Float64Array) -> Float64Array:
    """picai-eval's choice among more than 10,000 descending thresholds; its integer step makes it keep the first."""
    if thresholds.size <= _MOST_THRESHOLDS:
        return thresholds
    places = np.arange(1, thresholds.size, thresholds.size / _MOST_THRESHOLDS, dtype=np.int32)
    kept = np.isin(thresholds, thresholds[places]) | (thresholds > 0.8) | np.isin(thresholds, thresholds[-20:])
    return thresholds[kept]
