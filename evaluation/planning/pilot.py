"""A pilot (some scored runs) supplies metric, prevalence and variances in place of the assumed ones."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr
from scipy.stats import norm, rankdata

from contract.errors import OncoduetError
from evaluation.metrics.outcomes import FloatArray
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import group_by_configuration, read_scored_runs
from evaluation.planning.simulation import SimulationSettings, separation_of
from evaluation.statistics.variance.influence import MetricByPatient, by_patient, own_variance_by_cases


def pilot_settings(scores: Sequence[Path], settings: SimulationSettings) -> tuple[SimulationSettings, dict[str, float]]:
    """Take the metric, prevalence and spreads from scored runs: of each configuration at least two runs.

    Likelihoods become normal scores within run and class. Their mean correlation between runs of one configuration is
    the share of case and method together, that between runs of two configurations the share of the case. The
    spread of the metric between runs is the observed one without what the sampling of cases adds to it. Under a metric
    other than AUROC ``auroc`` becomes the AUROC that goes with its value.

    Raises
    ------
    OncoduetError
        No configuration has two runs, the test set lacks positive or negative cases, or a run answers all cases of a
        class alike.
    """
    runs = [run for run in read_scored_runs(scores) if not run.is_baseline and not run.is_ensemble]
    groups = [members for members in group_by_configuration(runs).values() if len(members) > 1]
    where = ", ".join(map(str, scores))
    if not groups:
        raise OncoduetError(where, "a pilot needs two runs of a configuration")
    truth = groups[0][0].truth
    if not 1 < truth.positive_count < len(truth.case_ids) - 1:
        raise OncoduetError(where, "a pilot needs two positive and two negative cases")
    scored = [np.stack([_normal_scores(run) for run in members]) for members in groups]
    within = min(1.0, float(np.mean([_mean_correlation(each, each) for each in scored])))
    across = [_mean_correlation(a, b) for k, a in enumerate(scored) for b in scored[:k]]
    between = min(within, float(np.mean(across))) if across else within / 2
    measured = [by_patient(truth, [run.outcome for run in members])[settings.metric] for members in groups]
    values = np.concatenate([each.values for each in measured])
    prevalence = truth.positive_count / len(truth.case_ids)
    found = replace(
        settings,
        auroc=float(ndtr(separation_of(settings.metric, float(values.mean()), prevalence) / math.sqrt(2))),
        prevalence=prevalence,
        run_sd=math.sqrt(max(0.0, float(np.mean([_run_variance(each) for each in measured])))),
        case_share=max(0.0, between),
        method_share=max(0.0, within - max(0.0, between)),
    )
    pilot = {
        "configurations": float(len(groups)),
        "runs": float(sum(map(len, groups))),
        "cases": float(len(truth.case_ids)),
        "correlation_within": within,
        "correlation_between": between,
        settings.metric: float(values.mean()),
    }
    return found, pilot


def _normal_scores(run: ScoredRun) -> FloatArray:
    scores = np.empty(run.outcome.likelihood.size)
    for kind in (run.truth.positive, ~run.truth.positive):
        values = norm.ppf((rankdata(run.outcome.likelihood[kind]) - 0.5) / kind.sum())
        if values.std() == 0:
            name = "positive" if run.truth.positive[kind].all() else "negative"
            raise OncoduetError(run.name, f"a pilot needs {name} cases that differ in likelihood")
        scores[kind] = values / max(1e-12, values.std())
    return scores


def _mean_correlation(a: FloatArray, b: FloatArray) -> float:
    """Mean correlation of the rows of ``a`` with those of ``b``, or of the different rows of ``a`` with each other."""
    products = a @ b.T / a.shape[1]
    return float(products[~np.eye(len(a), dtype=bool)].mean() if a is b else products.mean())


def _run_variance(measured: MetricByPatient) -> float:
    """Variance of the metric between runs, less what each run sees of the cases in its own way."""
    return float(measured.values.var(ddof=1)) - own_variance_by_cases(measured.influence)
