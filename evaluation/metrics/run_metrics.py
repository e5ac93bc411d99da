"""The metrics of a run: AUROC, average precision (AP), FROC and ranking score over its scored cases.

* AUROC: case-level, over likelihoods. AP: over lesions and candidates pooled from all cases, without interpolation; a
  missed lesion counts only in recall's denominator. Both answers use the same code, so that they
  differ only by what was matched. The sums are taken in the order of the scikit-learn calls of
  picai-eval 1.4.13 and give the same bits; scikit-learn itself would take longer to import than 100 cases to score.
* FROC: :mod:`evaluation.metrics.curves`.
* What the cases leave undefined is null with a reason. Only picai's AP without any lesion is picai-eval's -0.0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from contract.records import Metrics
from evaluation.matching.cases import ScoredCase
from evaluation.metrics.curves import (
    FALSE_POSITIVES_PER_CASE,
    Froc,
    count_lesions,
    counts_by_threshold,
    lesions_and_candidates,
    picai_froc,
    sensitivity_key,
    strict_froc,
)


def strict_metrics(cases: Sequence[ScoredCase]) -> Metrics:
    """The strict answer, which ranks. AUROC needs both kinds of case, AP and sensitivities need lesions."""
    precision = curve = reason = None
    if count_lesions(cases):
        precision = average_precision(cases) + 0.0  # -0.0 where nothing was hit
        curve = strict_froc(cases)
    else:
        reason = "AP and lesion sensitivity are undefined: there is no lesion"
    return _metrics(cases, np.float64, precision, curve, reason)


def picai_metrics(cases: Sequence[ScoredCase]) -> Metrics:
    """What picai-eval 1.4.13 computes, AP of -0.0 without lesions included; where it gives NaN or raises: null."""
    cases = sorted(cases, key=lambda case: case.case_id)
    precision = reason = None
    if lesions_and_candidates(cases)[0].size:
        precision = average_precision(cases)
    else:
        reason = "AP is undefined: there is neither lesion nor candidate"
    return _metrics(cases, np.float32, precision, picai_froc(cases) if count_lesions(cases) else None, reason)


def auroc(positive: Sequence[bool], likelihood: npt.NDArray[np.floating]) -> float:
    """Probability that a positive case is more likely than a negative one, ties counted half.

    Parameters
    ----------
    positive
        Whether each case is positive; both kinds must occur.
    likelihood
        Likelihood of each case, compared in its own precision.
    """
    false, hits, _ = counts_by_threshold(np.array(positive, dtype=np.int64), likelihood)
    corner = np.ones(hits.size, dtype=np.bool_)
    corner[1:-1] = (np.diff(false, 2) != 0) | (np.diff(hits, 2) != 0)  # points on a line drop out: same bits
    false, hits = np.append(0.0, false[corner]), np.append(0.0, hits[corner])
    return float(np.trapezoid(hits / hits[-1], false / false[-1]))


def average_precision(cases: Sequence[ScoredCase]) -> float:
    """Σ ΔTP(t) · TP(t) / (TP(t) + FP(t)) over distinct confidences t > 0, divided by all lesions, missed ones too."""
    target, confidence = lesions_and_candidates(cases)
    false, hits, thresholds = counts_by_threshold(target, confidence)
    precision = hits / (hits + false)
    precision[thresholds == 0] = 0  # missed lesions have confidence 0: they are no detections
    recall = hits / hits[-1] if hits[-1] else np.ones(hits.size)
    return float(-np.sum(np.diff(np.append(recall[::-1], 0.0)) * precision[::-1]))


def _metrics(
    cases: Sequence[ScoredCase],
    precision_of_likelihoods: type[np.floating],
    ap: float | None,
    curve: Froc | None,
    reason: str | None,
) -> Metrics:
    positive = [case.positive for case in cases]
    area, reasons = None, [reason]
    if any(positive) and not all(positive):
        area = auroc(positive, np.array([case.likelihood for case in cases], dtype=precision_of_likelihoods))
    else:
        kind = "positive" if any(positive) else "negative"
        reasons.insert(0, f"AUROC is undefined: all {len(positive)} cases are {kind}")
    return Metrics(
        auroc=area,
        ap=ap,
        score=None if area is None or ap is None else (area + ap) / 2,
        cases=len(cases),
        positive_cases=sum(positive),
        lesions=count_lesions(cases),
        missing=sum(case.missing for case in cases),
        lesion_sensitivity_at_fp={
            sensitivity_key(rate): None if curve is None else curve.sensitivity_at(rate)
            for rate in FALSE_POSITIVES_PER_CASE
        },
        reason="; ".join(filter(None, reasons)) or None,
    )
