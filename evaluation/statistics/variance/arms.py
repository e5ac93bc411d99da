"""Arms of a comparison: a configuration's runs, and estimate, test and interval of a difference between two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evaluation.metrics.outcomes import BoolArray
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import group_by_configuration
from evaluation.statistics.analysis_file import METRIC_NAMES, Metric
from evaluation.statistics.variance.influence import MetricByPatient, by_patient
from evaluation.statistics.variance.pairing import Pairing, pairing
from evaluation.statistics.variance.runs_and_cases import (
    DifferenceTest,
    approximation,
    mean_of,
    nested,
    paired,
    too_few,
)
from evaluation.statistics.verdict_records import Interval

SAME_PREDICTIONS = "their predictions are the same"


@dataclass(frozen=True)
class Arm:
    """One configuration's runs with the influence of each patient on their metrics."""

    runs: Sequence[ScoredRun]
    metrics: Mapping[Metric, MetricByPatient]

    @property
    def name(self) -> str:
        """The configuration."""
        return self.runs[0].source.configuration

    @property
    def is_fixed(self) -> bool:
        """Whether it is a fixed rule, which has no variance over runs."""
        return self.runs[0].is_baseline

    @property
    def is_single(self) -> bool:
        """Whether it is one network or a fixed rule."""
        return len(self.runs) == 1


class ArmComparison(NamedTuple):
    """One comparison by one metric, before Holm's adjustment."""

    estimate: float | None
    test: DifferenceTest | None
    reason: str | None


def arms_of(runs: Sequence[ScoredRun]) -> dict[str, Arm]:
    """Configurations by name, in the order of the runs."""
    return {
        name: Arm(members, {metric: _undefined(members, metric, found) for metric, found in metrics.items()})
        for name, members in group_by_configuration(runs).items()
        for metrics in [by_patient(members[0].truth, [run.outcome for run in members])]
    }


def _undefined(runs: Sequence[ScoredRun], metric: Metric, found: MetricByPatient) -> MetricByPatient:
    """A metric, or NaN where a run lacks it, such as AP without detection maps."""
    if all(getattr(run.strict, metric) is not None for run in runs):
        return found
    return MetricByPatient(np.full_like(found.values, np.nan), np.full_like(found.influence, np.nan))


def compare_arms(a: Arm, b: Arm, metric: Metric, design: Pairing, positive: BoolArray) -> ArmComparison:
    """Estimate and test a − b for new runs and cases.

    Parameters
    ----------
    positive
        Whether a patient has a positive case, shape (patients,).
    """
    of_a, of_b = a.metrics[metric], b.metrics[metric]
    if not np.isfinite([*of_a.values, *of_b.values]).all():
        return ArmComparison(None, None, f"{METRIC_NAMES[metric]} is undefined on this test set")
    if design.reason is not None:
        return ArmComparison(float(of_a.values.mean() - of_b.values.mean()), None, design.reason)
    estimate = float(of_a.values[list(design.a)].mean() - of_b.values[list(design.b)].mean())
    if few := too_few(positive):
        return ArmComparison(estimate, None, f"there {'is' if few.startswith('1 ') else 'are'} {few}")
    if a.is_single and b.is_single and same_predictions(a, b):
        return ArmComparison(estimate, None, SAME_PREDICTIONS)
    for arm in (a, b):
        if arm.is_single and not arm.is_fixed:
            return ArmComparison(
                estimate, None, f"of {arm.name} a single run was scored: how much runs vary is not known"
            )
    test = _tested((a, of_a), (b, of_b), design, positive)
    return ArmComparison(estimate, test, None if test else _why_not(a, b, design))


def _why_not(a: Arm, b: Arm, design: Pairing) -> str:
    """Why there is no test in spite of enough runs and cases."""
    if len(design.pairs) == 1:
        return "a single pair of runs has common folds or networks: how much runs vary is not known"
    for arm, runs in ((a, design.a), (b, design.b)):
        if len(runs) == 1 and not arm.is_fixed:
            return f"of {arm.name} a single run is of a common fold: how much runs vary is not known"
    return SAME_PREDICTIONS if same_predictions(a, b) else "nothing varies between runs or between cases"


def same_predictions(a: Arm, b: Arm) -> bool:
    """Whether every run of each arm answers all cases as one of the other's does."""
    parts = ("likelihood", "candidate_case", "confidence", "hit")
    of_a, of_b = ({tuple(getattr(run.outcome, part).tobytes() for part in parts) for run in arm.runs} for arm in (a, b))
    return of_a == of_b


def tested_difference(
    a: Arm, b: Arm, of_a: MetricByPatient, of_b: MetricByPatient, positive: BoolArray
) -> DifferenceTest | None:
    """Test any metric of two arms as the verdict does; of single networks for new cases only.

    Parameters
    ----------
    of_a, of_b
        Metric of each arm's runs.
    positive
        Patients by the class that the degrees of freedom count, shape (patients,).
    """
    design = pairing(a.runs, b.runs)
    if design.reason is not None:
        return None
    if a.is_single and b.is_single:
        return nested(of_a, of_b, positive, fixed=(True, True))
    return _tested((a, of_a), (b, of_b), design, positive)


def _tested(
    of_a: tuple[Arm, MetricByPatient], of_b: tuple[Arm, MetricByPatient], design: Pairing, positive: BoolArray
) -> DifferenceTest | None:
    (a, metric_of_a), (b, metric_of_b) = of_a, of_b
    if design.pairs:
        return paired(metric_of_a, metric_of_b, positive, design.pairs)
    fixed = (a.is_fixed, b.is_fixed)
    return nested(chosen(metric_of_a, design.a), chosen(metric_of_b, design.b), positive, fixed=fixed)


def chosen(arm: MetricByPatient, runs: Sequence[int]) -> MetricByPatient:
    """Some of an arm's runs, by index."""
    return MetricByPatient(arm.values[list(runs)], arm.influence[list(runs)])


def drawn(a: Arm, b: Arm, design: Pairing) -> list[tuple[int, str]]:
    """What varies between trainings, for :func:`approximation`."""
    if design.pairs:
        return [(len(design.pairs), "pairs of runs")]
    return [
        (len(runs), "runs")
        for arm, runs in ((a, design.a), (b, design.b))
        if not arm.is_fixed and not (a.is_single and b.is_single)
    ]


def approximate(a: Arm, b: Arm, *groups: BoolArray) -> str | None:
    """Why p is approximate in any of several groups of patients, given by their class; None where it is not."""
    varying = drawn(a, b, pairing(a.runs, b.runs))
    return next((why for positive in groups if (why := approximation(positive, varying))), None)


def interval_of(test: DifferenceTest, level: float, *, farthest: float = 1.0) -> Interval:
    """The interval of a difference as a record, cut to what it can be: ± ``farthest``."""
    low, high = test.interval(level)
    return Interval(low=max(-farthest, low), high=min(farthest, high), level=level)


def interval_of_mean(arm: MetricByPatient, positive: BoolArray, *, fixed: bool, level: float) -> Interval | None:
    """The interval of one configuration's mean, on the logit scale, so that it stays within 0 and 1."""
    found = mean_of(arm, positive, fixed=fixed) if np.isfinite(arm.values).all() else None
    if found is None or not 0 < found.estimate < 1:
        return None
    low, high = found.logit_interval(level)
    return Interval(low=low, high=high, level=level)
