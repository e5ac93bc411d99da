"""Means over a configuration's runs of the metrics by other hit criteria (:mod:`evaluation.matching.hit_criteria`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.matching.hit_criteria import HitCriterion
from evaluation.metrics.operating_points import Spread, spread
from evaluation.metrics.scored_run import ScoredRun


@dataclass(frozen=True)
class CriterionMeans:
    """One configuration by one hit criterion; None where a run has no value."""

    configuration: str
    runs: int
    criterion: HitCriterion
    ap: Spread | None
    lesion_sensitivity_at_fp: Mapping[str, Spread | None]


def means_by_criterion(configuration: str, runs: Sequence[ScoredRun]) -> list[CriterionMeans]:
    """Mean and standard deviation by each criterion that all runs have; empty where a run lacks the sweep."""
    swept = [run.by_criterion for run in runs if run.by_criterion is not None]
    if len(swept) < len(runs):
        return []
    return [
        CriterionMeans(
            configuration=configuration,
            runs=len(runs),
            criterion=criterion,
            ap=_mean([each[criterion].ap for each in swept]),
            lesion_sensitivity_at_fp={
                rate: _mean([each[criterion].lesion_sensitivity_at_fp[rate] for each in swept])
                for rate in first.lesion_sensitivity_at_fp
            },
        )
        for criterion, first in swept[0].items()
        if all(criterion in each for each in swept)
    ]


def _mean(values: Sequence[float | None]) -> Spread | None:
    defined = [value for value in values if value is not None]
    return spread(defined) if len(defined) == len(values) else None
