"""Descriptive figures of a configuration: operating points, calibration, and cases whose answer depends on the run.

All of it is descriptive, over the runs on this test set; only AUROC, AP and score are tested. Each run has its own
threshold: that of specificity 0.90 is the lowest likelihood which at least 90 % of its negative cases do not exceed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE_IN_REPORT, detection_curve
from evaluation.metrics.outcomes import BoolArray, FloatArray
from evaluation.metrics.scored_runs import ScoredRun

SPECIFICITY = 0.90
SENSITIVITIES = (0.90, 0.95)
BINS = 10
_CASES_PER_BIN = 20


@dataclass(frozen=True)
class Spread:
    """A value over the runs of a configuration."""

    mean: float
    sd: float | None  # None for a single run


@dataclass(frozen=True)
class OperatingPoints:
    """Operating points of one configuration; None where a class is missing or there is no lesion."""

    lesion_sensitivity: dict[float, Spread | None]  # by false positives per case
    sensitivity_at_specificity: Spread | None
    specificity_at_sensitivity: dict[float, Spread | None]


@dataclass(frozen=True)
class Calibration:
    """Likelihood against the share of positive cases, the cases of all runs in bins of equal numbers.

    There are ten bins, or fewer where they would hold fewer than twenty cases of the test set.
    """

    likelihood: FloatArray  # mean of each bin
    positive: FloatArray  # share of each bin
    error: float  # mean distance of the two, weighted by cases
    brier: float  # mean squared distance of likelihood and truth


@dataclass(frozen=True)
class DiscordantCase:
    """A case above the threshold in some runs of a configuration and below it in others."""

    configuration: str
    case_id: str
    positive: bool
    right: int  # runs that answer correctly
    runs: int
    likelihoods: tuple[float, float]  # lowest and highest


def operating_points(runs: Sequence[ScoredRun]) -> OperatingPoints:
    """Mean and standard deviation over runs of each operating point."""
    truth = runs[0].truth
    both = 0 < truth.positive_count < len(truth.case_ids)
    has_lesions = truth.lesion_count > 0 and runs[0].strict.ap is not None
    return OperatingPoints(
        lesion_sensitivity={
            rate: _spread([lesion_sensitivity(run, rate) for run in runs]) if has_lesions else None
            for rate in FALSE_POSITIVES_PER_CASE_IN_REPORT
        },
        sensitivity_at_specificity=_spread([sensitivity_at(run, SPECIFICITY) for run in runs]) if both else None,
        specificity_at_sensitivity={
            wanted: _spread([specificity_at(run, wanted) for run in runs]) if both else None for wanted in SENSITIVITIES
        },
    )


def lesion_sensitivity(run: ScoredRun, false_positives_per_case: float) -> float:
    """Largest share of lesions that is found with at most so many false positives per case."""
    curve, _ = detection_curve(run.truth, run.outcome)
    return curve.sensitivity_at(false_positives_per_case)


def sensitivity_at(run: ScoredRun, specificity: float) -> float:
    """Share of positive cases above the threshold of a specificity."""
    return float(called(run, specificity)[run.truth.positive].mean())


def specificity_at(run: ScoredRun, sensitivity: float) -> float:
    """Largest share of negative cases below a threshold that at least so many positive cases reach."""
    positives = np.sort(run.outcome.likelihood[run.truth.positive])[::-1]
    threshold = positives[int(np.ceil(sensitivity * positives.size - 1e-9)) - 1]
    return float((run.outcome.likelihood[~run.truth.positive] < threshold).mean())


def called(run: ScoredRun, specificity: float) -> BoolArray:
    """Which cases a run calls positive where it has at least that specificity, shape (cases,)."""
    negatives = np.sort(run.outcome.likelihood[~run.truth.positive])
    highest = negatives[int(np.ceil(specificity * negatives.size - 1e-9)) - 1]
    return np.asarray(run.outcome.likelihood > highest)


def calibration(runs: Sequence[ScoredRun]) -> Calibration:
    """Reliability of the likelihoods as probabilities, pooled over runs."""
    likelihood = np.concatenate([run.outcome.likelihood for run in runs])
    positive = np.concatenate([run.truth.positive for run in runs]).astype(np.float64)
    order = np.argsort(likelihood, kind="stable")
    number = max(1, min(BINS, len(runs[0].truth.case_ids) // _CASES_PER_BIN))
    bins = [part for part in np.array_split(order, number) if part.size]
    means = np.array([likelihood[part].mean() for part in bins])
    shares = np.array([positive[part].mean() for part in bins])
    sizes = np.array([part.size for part in bins])
    return Calibration(
        likelihood=means,
        positive=shares,
        error=float((np.abs(means - shares) * sizes).sum() / sizes.sum()),
        brier=float(((likelihood - positive) ** 2).mean()),
    )


def discordant_cases(configuration: str, runs: Sequence[ScoredRun]) -> list[DiscordantCase]:
    """Cases whose answer at specificity 0.90 differs between runs; the most divided first."""
    truth = runs[0].truth
    if len(runs) < 2 or not 0 < truth.positive_count < len(truth.case_ids):
        return []
    right = np.stack([called(run, SPECIFICITY) == truth.positive for run in runs]).sum(axis=0)
    likelihood = np.stack([run.outcome.likelihood for run in runs])
    divided = np.flatnonzero((right > 0) & (right < len(runs)))
    order = divided[np.lexsort((divided, np.abs(2 * right[divided] - len(runs))))]
    return [
        DiscordantCase(
            configuration=configuration,
            case_id=truth.case_ids[case],
            positive=bool(truth.positive[case]),
            right=int(right[case]),
            runs=len(runs),
            likelihoods=(float(likelihood[:, case].min()), float(likelihood[:, case].max())),
        )
        for case in order
    ]


def _spread(values: Sequence[float]) -> Spread:
    array: npt.NDArray[np.float64] = np.array(values)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None)
