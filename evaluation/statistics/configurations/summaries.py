"""Summaries of a configuration's runs for ``verdict.json``: means, spreads and intervals of its metrics."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.metrics.outcomes import BoolArray
from evaluation.statistics.analysis_file import METRICS, Analysis, Metric
from evaluation.statistics.configurations.run_level import RunValues, values_of
from evaluation.statistics.variance.arms import Arm, interval_of_mean
from evaluation.statistics.variance.influence import afroc_by_patient
from evaluation.statistics.verdict_records import ConfigurationKind, ConfigurationSummary, MetricSummary


def summarise_from_table(name: str, table: Mapping[Metric, Mapping[str, RunValues]]) -> ConfigurationSummary:
    """Summarise one configuration of a table of runs, which holds no cases."""
    return ConfigurationSummary(
        name=name,
        kind="configuration",
        runs=len(table["auroc"][name].runs),
        cases=None,
        positive_cases=None,
        lesions=None,
        missing=None,
        candidate_free_cases=None,
        metrics={
            metric: MetricSummary(
                mean=mean_or_none(arms[name].values),
                sd=float(np.std(arms[name].defined, ddof=1)) if arms[name].defined else None,
                interval=None,
                runs=dict(zip(arms[name].runs, arms[name].values, strict=True)),
                picai_mean=None,
                reason=None if arms[name].defined else "not in the table",
            )
            for metric, arms in table.items()
        },
        lesion_sensitivity_at_fp={},
    )


def summarise(arm: Arm, positive: BoolArray, plan: Analysis) -> ConfigurationSummary:
    """Summarise one configuration's scored runs.

    Parameters
    ----------
    positive
        Whether a patient has a positive case, shape (patients,).
    """
    first = arm.runs[0]
    kind: ConfigurationKind = "baseline" if first.is_baseline else "ensemble" if first.is_ensemble else "configuration"
    keys = first.strict.lesion_sensitivity_at_fp
    return ConfigurationSummary(
        name=arm.name,
        kind=kind,
        runs=len(arm.runs),
        cases=first.strict.cases,
        positive_cases=first.strict.positive_cases,
        lesions=first.strict.lesions,
        missing=sum(run.strict.missing for run in arm.runs),
        candidate_free_cases=sum(run.candidate_free_cases for run in arm.runs)
        if all(run.has_maps for run in arm.runs)
        else None,
        prepared_sha256=next((sha256 for run in arm.runs if (sha256 := run.source.prepared_sha256)), None),
        trained_on={run.name: 0 if run.is_baseline else run.trained_on for run in arm.runs},
        metrics={metric: _metric_summary(metric, arm, positive, plan) for metric in METRICS},
        lesion_sensitivity_at_fp={
            key: mean_or_none([run.strict.lesion_sensitivity_at_fp.get(key) for run in arm.runs]) for key in keys
        },
        afroc=_afroc_summary(arm, positive, plan),
    )


def _afroc_summary(arm: Arm, positive: BoolArray, plan: Analysis) -> MetricSummary | None:
    if any(run.strict.ap is None for run in arm.runs):
        return None
    found = afroc_by_patient(arm.runs[0].truth, [run.outcome for run in arm.runs])
    if not np.isfinite(found.values).all():
        return None
    return MetricSummary(
        mean=float(found.values.mean()),
        sd=float(found.values.std(ddof=1)) if len(arm.runs) > 1 else None,
        interval=interval_of_mean(found, positive, fixed=arm.is_single, level=1 - plan.alpha),
        runs={run.name: float(value) for run, value in zip(arm.runs, found.values, strict=True)},
        picai_mean=None,
    )


def _metric_summary(metric: Metric, arm: Arm, positive: BoolArray, plan: Analysis) -> MetricSummary:
    values = values_of(arm.runs, metric).values
    mean = mean_or_none(values)
    defined = [value for value in values if value is not None]
    return MetricSummary(
        mean=mean,
        sd=float(np.std(defined, ddof=1)) if mean is not None and len(defined) > 1 else None,
        interval=interval_of_mean(arm.metrics[metric], positive, fixed=arm.is_single, level=1 - plan.alpha),
        runs={run.name: value for run, value in zip(arm.runs, values, strict=True)},
        picai_mean=mean_or_none([getattr(run.picai, metric) for run in arm.runs]),
        reason=None if mean is not None else arm.runs[0].strict.reason,
    )


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean, or None where any value is missing."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined and len(defined) == len(values) else None
