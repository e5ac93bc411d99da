"""The case level of a comparison, which asks whether a difference would hold on new cases.

Two tests are made, and the larger p counts. *Swaps* (:mod:`evaluation.statistics.case_permutation`) take the trained
networks as they are: exact for any distribution, but where some runs are better by luck they take that luck for the
method. *Runs and cases* takes both as drawn, by the analysis of Obuchowski and Rockette (Communications in
Statistics 1995) for readers who are nested within a modality: runs are the readers, configurations the modalities. Its
variance is::

    V = s²(a)/r(a) + s²(b)/r(b) + max(0, Cov₂(a) + Cov₂(b) − 2 Cov₃)

with s² the variance of the metric over r runs, Cov₂ the covariance by cases of two runs of one configuration, and Cov₃
that of a run of each. ``difference/√V`` is compared with Student's t with Satterthwaite's degrees of freedom, which for
arms of equal size and spread are Hillis' (Statistics in Medicine 2007). Covariances come from each patient's influence
on a run's metric, its derivative by the patient's weight (the infinitesimal jackknife); for AUROC and one case per
patient they are DeLong's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet, last_of_ties, weighted_ap, weighted_auroc
from evaluation.metrics.placements import placements
from evaluation.statistics.analysis_file import METRICS, Metric
from evaluation.statistics.case_permutation import case_swap_tests
from evaluation.statistics.run_permutation import PermutationResult


@dataclass(frozen=True)
class MetricByPatient:
    """A metric of some runs, and what each patient's weight would change in it."""

    values: FloatArray  # (runs,)
    influence: FloatArray  # (runs, patients); their squares sum to the metric's variance by cases


@dataclass(frozen=True)
class RunsAndCases:
    """The test that takes runs and cases as drawn."""

    p: float
    """Two-sided."""
    degrees_of_freedom: float | None
    """None: infinitely many, since no spread of runs was estimated."""
    variance_of_runs: float
    variance_of_cases: float


@dataclass(frozen=True)
class CaseTest:
    """Both tests of one metric."""

    swaps: PermutationResult
    runs_and_cases: RunsAndCases | None
    """None where an arm's spread over runs is unknown, or nothing varies."""

    @property
    def p(self) -> float:
        """The larger one."""
        return max(self.swaps.p, self.runs_and_cases.p if self.runs_and_cases else 0.0)


def case_level_tests(
    truth: TestSet, a: Sequence[Outcome], b: Sequence[Outcome], *, fixed: tuple[bool, bool], draws: int, seed: int
) -> dict[str, CaseTest]:
    """Test the differences of two configurations' mean AUROC, AP and score.

    Parameters
    ----------
    a, b
        One outcome per run.
    fixed
        Whether an arm is a fixed rule, which has no spread over runs.
    draws, seed
        Of the swaps.

    Returns
    -------
    By metric; a metric that the truth leaves undefined is absent.
    """
    swaps = case_swap_tests(truth, a, b, draws=draws, seed=seed)
    of_a, of_b = by_patient(truth, a), by_patient(truth, b)
    return {
        metric: CaseTest(swaps[metric], runs_and_cases_test(of_a[metric], of_b[metric], fixed=fixed))
        for metric in METRICS
        if metric in swaps
    }


def runs_and_cases_test(
    a: MetricByPatient, b: MetricByPatient, *, fixed: tuple[bool, bool] = (False, False)
) -> RunsAndCases | None:
    """Test the difference of two arms' means over runs and cases; None where that cannot be asked."""
    if any(len(arm.values) < 2 and not rule for arm, rule in zip((a, b), fixed, strict=True)):
        return None
    of_runs = [_variance_of_mean(arm) for arm in (a, b)]
    # the variance by cases of the difference, the runs as they are, holds 1/r of what each run sees in its own way;
    # so does s²/r, and it must count once
    together = float(((a.influence.mean(axis=0) - b.influence.mean(axis=0)) ** 2).sum())
    cases = max(0.0, together - sum(own_variance_by_cases(arm.influence) / len(arm.values) for arm in (a, b)))
    variance = sum(of_runs) + cases
    if variance <= 0:
        return None
    spread = sum(each**2 / (len(arm.values) - 1) for each, arm in zip(of_runs, (a, b), strict=True) if each)
    degrees = variance**2 / spread if spread else None
    reach = abs(float(a.values.mean() - b.values.mean())) / math.sqrt(variance)
    p = 2 * float(student.sf(reach, math.inf if degrees is None else degrees))
    return RunsAndCases(p, degrees, sum(of_runs), cases)


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
    placement = placements(positive, likelihood)
    area = placement[positive].mean()
    count = np.where(positive, ones, zeros)
    of_cases = (placement - area) / count * np.sqrt(count / np.maximum(1, count - 1))
    return _by_patient(truth, of_cases)


def ap_influence(truth: TestSet, outcome: Outcome) -> FloatArray:
    """Derivative of AP by each patient's weight, shape (patients,), times √(n/(n − 1)) for n patients with a lesion.

    With AP = (1/L) Σ ΔTP(t) · TP(t)/N(t) a candidate at the confidence t adds ``[hit] · precision(t)`` and, at every
    confidence u ≤ t, ``ΔTP(u) ([hit] − precision(u)) / N(u)``; a lesion takes AP/L.
    """
    lesions = truth.lesion_count
    if not lesions:
        return np.full(truth.patient_count, np.nan)
    of_cases = -weighted_ap(truth, outcome, np.ones((1, len(truth.case_ids))))[0] * truth.lesions / lesions
    if outcome.confidence.size:
        order = np.argsort(-outcome.confidence, kind="stable")
        confidence, hit = outcome.confidence[order], outcome.hit[order]
        last = last_of_ties(confidence)
        hits, candidates = np.cumsum(hit)[last], last + 1
        gained = np.diff(hits, prepend=0)
        precision = hits / candidates
        of_hits = np.cumsum((gained / candidates)[::-1])[::-1]
        of_all = np.cumsum((gained * precision / candidates)[::-1])[::-1]
        group = np.repeat(np.arange(last.size), np.diff(last, prepend=-1))
        added = hit * (precision[group] + of_hits[group]) - of_all[group]
        of_cases += np.bincount(outcome.candidate_case[order], added, minlength=of_cases.size) / lesions
    ill = np.unique(truth.patients[truth.lesions > 0]).size
    return _by_patient(truth, of_cases) * math.sqrt(ill / max(1, ill - 1))


def own_variance_by_cases(influence: FloatArray) -> float:
    """Variance by cases of one run less the covariance of two runs: what each run sees of the cases in its own way."""
    runs = len(influence)
    if runs < 2:
        return 0.0
    return float(((influence - influence.mean(axis=0)) ** 2).sum()) / (runs - 1)


def _by_patient(truth: TestSet, of_cases: FloatArray) -> FloatArray:
    return np.asarray(np.bincount(truth.patients, of_cases, minlength=truth.patient_count), dtype=np.float64)


def _variance_of_mean(arm: MetricByPatient) -> float:
    return float(arm.values.var(ddof=1)) / len(arm.values) if len(arm.values) > 1 else 0.0
