"""Descriptive figures of a configuration: operating points, and cases whose answer depends on the run.

All of it is descriptive, over the runs on this test set; only AUROC, AP and score are tested. Each run has its own
threshold: that of specificity 0.90 is the lowest likelihood which at least 90 % of its negative cases do not exceed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.metrics.curves import FALSE_POSITIVES_PER_CASE_IN_REPORT, detection_curve
from evaluation.metrics.outcomes import BoolArray, FloatArray
from evaluation.metrics.scored_run import ScoredRun

SPECIFICITY = 0.90
SENSITIVITIES = (0.90, 0.95)


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
            rate: spread([lesion_sensitivity(run, rate) for run in runs]) if has_lesions else None
            for rate in FALSE_POSITIVES_PER_CASE_IN_REPORT
        },
        sensitivity_at_specificity=spread([sensitivity_at(run, SPECIFICITY) for run in runs]) if both else None,
        specificity_at_sensitivity={
            wanted: spread([specificity_at(run, wanted) for run in runs]) if both else None for wanted in SENSITIVITIES
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
    threshold = threshold_of_sensitivity(run.truth.positive, run.outcome.likelihood, sensitivity)
    return float((run.outcome.likelihood[~run.truth.positive] < threshold).mean())


def called(run: ScoredRun, specificity: float) -> BoolArray:
    """Which cases a run calls positive where it has at least that specificity, shape (cases,)."""
    return run.outcome.likelihood >= threshold_of_specificity(run.truth.positive, run.outcome.likelihood, specificity)


def threshold_of_specificity(positive: BoolArray, likelihood: FloatArray, specificity: float) -> float:
    """The lowest threshold that at least such a share of negative cases does not reach."""
    negatives = np.sort(likelihood[~positive])
    highest = negatives[int(np.ceil(specificity * negatives.size - 1e-9)) - 1]
    return float(np.nextafter(highest, np.inf))


def threshold_of_sensitivity(positive: BoolArray, likelihood: FloatArray, sensitivity: float) -> float:
    """The highest threshold that at least such a share of positive cases reaches."""
    positives = np.sort(likelihood[positive])[::-1]
    return float(positives[int(np.ceil(sensitivity * positives.size - 1e-9)) - 1])


def discordant_cases(
    configuration: str, runs: Sequence[ScoredRun], thresholds: Mapping[str, float] | None = None
) -> list[DiscordantCase]:
    """Cases whose answer at specificity 0.90 differs between runs; the most divided first.

    Parameters
    ----------
    thresholds
        Thresholds of likelihood by run, where chosen on other cases; without any, those of this test set.
    """
    truth = runs[0].truth
    if len(runs) < 2 or not 0 < truth.positive_count < len(truth.case_ids):
        return []
    answers = [
        called(run, SPECIFICITY) if thresholds is None else run.outcome.likelihood >= thresholds[run.name]
        for run in runs
    ]
    right = (np.stack(answers) == truth.positive).sum(axis=0)
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


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation over runs."""
    array: npt.NDArray[np.float64] = np.array(values)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None)
