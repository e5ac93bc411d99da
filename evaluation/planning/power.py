"""Planning: runs and cases for a comparison, the level of the tests, interim analyses.

Answers are tables of text, and the record that ``--output`` writes. A pilot (some scored runs) replaces the assumed
metric, prevalence and variances by its own.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr
from scipy.stats import norm, rankdata

from contract.errors import OncoduetError
from contract.files import sha256_file
from contract.records import Record
from contract.schema import Frozen
from evaluation.metrics.outcomes import FloatArray
from evaluation.metrics.scored_runs import ScoredRun, group_by_configuration, read_scored_runs
from evaluation.planning.group_sequential import InterimResult, interim_analysis, simulate_looks
from evaluation.planning.simulation import (
    NULLS,
    RATES,
    ErrorRate,
    SimulationSettings,
    false_positives,
    null_settings,
    power,
    separation_of,
)
from evaluation.statistics.analysis_file import Metric, read_analysis
from evaluation.statistics.case_level import MetricByPatient, by_patient, own_variance_by_cases
from evaluation.statistics.verdict import METRIC_NAMES

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """What is shown of an answer."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


class Share(Frozen):
    """A share of simulated studies, with its 95 % interval."""

    share: float
    interval: tuple[float, float]


class Design(Frozen):
    """So many runs per configuration on so many cases, and how often they show the difference."""

    runs: int
    cases: int
    shown: Mapping[str, Share]
    """``run level``, ``case level``, ``better`` and, with a margin, ``on par``."""


class PlanRecord(Record):
    """``plan.json``."""

    question: str
    metric: Metric
    assumptions: Mapping[str, float]
    pilot: Mapping[str, float]
    """What the pilot gave; empty without one."""
    alpha: float
    comparisons: int
    studies: int
    seed: int
    designs: tuple[Design, ...]
    false_positives: Mapping[str, Mapping[str, Share]]
    """By what "no difference" means and by test."""
    sentence: str


def plan_power(
    settings: SimulationSettings,
    *,
    runs: Sequence[int],
    cases: Sequence[int],
    target: float,
    alpha: float,
    comparisons: int,
    margin: float | None,
    studies: int,
    seed: int,
    workers: int = 1,
    pilot: Mapping[str, float] | None = None,
) -> tuple[PlanRecord, Table]:
    """Find by simulation the runs and cases that show ``settings.difference`` with the target power.

    Parameters
    ----------
    settings
        What is assumed; its numbers of runs and cases are replaced by those of the grid.
    target
        Target power of the code *better*.
    comparisons
        Of the family: each is tested at alpha over this number, which is Holm's first step and so on the safe side.
    """
    grid = [(n, m) for n in sorted(set(runs)) for m in sorted(set(cases))]
    designs = []
    for n, m in grid:
        found = power(
            replace(settings, runs=n, cases=m),
            studies=studies,
            alpha=alpha / comparisons,
            seed=seed,
            margin=margin,
            workers=workers,
        )
        designs.append(Design(runs=n, cases=m, shown=_shares(found)))
        _log.info("%d runs per configuration, %d cases: done", n, m)
    enough = [each for each in designs if each.shown["better"].share >= target]
    if enough:
        best = min(enough, key=lambda each: (each.runs * each.cases, each.runs))
        sentence = (
            f"{best.runs} runs per configuration on {best.cases} cases show a difference of {settings.difference:g} "
            f"with {100 * best.shown['better'].share:.0f} % power: the fewest predictions among these designs that "
            f"reach {100 * target:.0f} %."
        )
    else:
        best = max(designs, key=lambda each: each.shown["better"].share)
        sentence = (
            f"None of these designs shows a difference of {settings.difference:g} with {100 * target:.0f} % power; the "
            f"best, {best.runs} runs on {best.cases} cases, reaches {100 * best.shown['better'].share:.0f} %."
        )
    record = _record(
        f"power for a difference of {settings.difference:g} in {METRIC_NAMES[settings.metric]}",
        settings,
        alpha=alpha,
        comparisons=comparisons,
        studies=studies,
        seed=seed,
        designs=tuple(designs),
        pilot=dict(pilot or {}),
        sentence=sentence,
    )
    names = list(designs[0].shown)
    rows = [
        [str(each.runs), str(each.cases), *(f"{100 * each.shown[name].share:.0f} %" for name in names)]
        for each in designs
    ]
    note = (
        f"{studies} simulated studies per row (± {100 * 1.96 * math.sqrt(0.25 / studies):.0f} points at most). Run "
        "level: the methods differ on this test set. Case level: they differ on new cases. Better: both, and the "
        "two-level interval excludes 0. " + _assumed(settings)
    )
    return record, Table(
        f"Power for {settings.difference:+g} {METRIC_NAMES[settings.metric]}",
        ["runs", "cases", *names],
        rows,
        f"{note}\n{sentence}",
    )


def plan_simulation(
    settings: SimulationSettings,
    *,
    alpha: float,
    studies: int,
    seed: int,
    workers: int = 1,
    pilot: Mapping[str, float] | None = None,
) -> tuple[PlanRecord, Table]:
    """Show by simulation how often the tests and the verdict see a difference where there is none."""
    found = {}
    for null in NULLS:
        found[null] = false_positives(
            null_settings(settings, null), studies=studies, alpha=alpha, seed=seed, workers=workers
        )
        _log.info("%s: done", null)
    retrained = found[NULLS[0]]
    sentence = (
        f"Same method, retrained: the verdict is wrong in {_percent(retrained[RATES[3]])} of studies, bootstrapping "
        f"single runs in {_percent(retrained[RATES[4]])}."
    )
    record = _record(
        f"false positives by {METRIC_NAMES[settings.metric]}",
        settings,
        alpha=alpha,
        comparisons=1,
        studies=studies,
        seed=seed,
        false_positives={null: _shares(rates) for null, rates in found.items()},
        pilot=dict(pilot or {}),
        sentence=sentence,
    )
    rows = [[rate, *(_percent(found[null][rate]) for null in NULLS)] for rate in RATES]
    note = (
        f"{studies} studies per column, {settings.runs} runs per configuration, {settings.cases} cases, α = {alpha:g}; "
        "in brackets the 95 % interval of the simulation. Swaps alone apply to the trained networks: where runs "
        "differ in quality they take luck in training for the method, so the case level also asks for runs and cases. "
        "Of two methods that are equally good the run level rightly finds that they differ on this "
        "test set. " + _assumed(settings)
    )
    return record, Table(
        f"False positives by {METRIC_NAMES[settings.metric]}", ["", *NULLS], rows, f"{note}\n{sentence}"
    )


def plan_interim_analysis(scores: Sequence[Path], analysis: Path) -> tuple[InterimResult, Table]:
    """Decide whether the campaign of these scored runs can stop.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.metrics.scored_runs.read_scored_runs` and
        :func:`evaluation.planning.group_sequential.interim_analysis`.
    """
    plan, runs = read_analysis(analysis), read_scored_runs(scores)
    declared = plan.pairs(list(group_by_configuration(runs)), analysis)
    found = interim_analysis(runs, plan, declared, analysis=sha256_file(analysis))
    rows = [
        [
            f"{each.a} – {each.b}",
            each.metric,
            f"{each.runs[0]} v {each.runs[1]}",
            "–" if each.difference is None else f"{each.difference:+.4f}",
            *("–" if p is None else f"{p:.4g}" for p in (each.p, each.p_holm, each.best_p_at_the_end)),
            each.state,
        ]
        for each in found.comparisons
    ]
    note = (
        f"Looks at {', '.join(map(str, found.looks))} runs per configuration; this one may spend "
        f"{found.alpha_here:.4g} of {found.alpha:g}, the last one {found.alpha_at_the_end:.4g}."
    )
    header = ["comparison", "metric", "runs", "difference", "p", "Holm", "best p at the end", "state"]
    return found, Table("Interim analysis", header, rows, f"{note}\n{found.sentence}")


def simulate_interim_analyses(
    looks: Sequence[int], *, alpha: float, studies: int, seed: int, difference: float, run_sd: float
) -> Table:
    """Show what interim analyses do to the type-I error, and how many runs they save."""
    rows = []
    for name, size in (("no difference", 0.0), (f"difference {difference:g}", difference)):
        found = simulate_looks(looks, alpha=alpha, studies=studies, seed=seed, difference=size, run_sd=run_sd)
        rows.append(
            [
                name,
                f"{100 * found.shown:.1f} %",
                f"{100 * found.shown_without_spending:.1f} %",
                f"{found.mean_runs:.1f} of {looks[-1]}",
            ]
        )
    note = (
        f"{studies} campaigns, looks at {', '.join(map(str, looks))} runs per configuration, spread of runs "
        f"{run_sd:g}. Without spending: each look uses all of α."
    )
    return Table("Interim analyses", ["", "shown", "without spending", "mean runs"], rows, note)


def pilot_settings(scores: Sequence[Path], settings: SimulationSettings) -> tuple[SimulationSettings, dict[str, float]]:
    """Take the metric, prevalence and spreads from scored runs: of each configuration at least two runs.

    Likelihoods become normal scores within run and class. Their mean correlation between runs of one configuration is
    the share of case and method together, that between runs of two configurations the share of the case. The
    spread of the metric between runs is the observed one without what the sampling of cases adds to it. Under a metric
    other than AUROC ``auroc`` becomes the AUROC that goes with its value.

    Raises
    ------
    OncoduetError
        No configuration has two runs, or the test set lacks positive or negative cases.
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
    within = float(np.mean([_mean_correlation(each, each) for each in scored]))
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
        scores[kind] = values / max(1e-12, values.std())
    return scores


def _mean_correlation(a: FloatArray, b: FloatArray) -> float:
    """Mean correlation of the rows of ``a`` with those of ``b``, or of the different rows of ``a`` with each other."""
    products = a @ b.T / a.shape[1]
    return float(products[~np.eye(len(a), dtype=bool)].mean() if a is b else products.mean())


def _run_variance(measured: MetricByPatient) -> float:
    """Variance of the metric between runs, less what each run sees of the cases in its own way."""
    return float(measured.values.var(ddof=1)) - own_variance_by_cases(measured.influence)


def _record(question: str, settings: SimulationSettings, **values: object) -> PlanRecord:
    assumptions = {
        "auroc": settings.auroc,
        "difference": settings.difference,
        "prevalence": settings.prevalence,
        "run_sd": settings.run_sd,
        "case_share": settings.case_share,
        "method_share": settings.method_share,
        "run_share": settings.run_share,
    }
    empty: dict[str, object] = {"designs": (), "false_positives": {}, "metric": settings.metric}
    return PlanRecord.model_validate({"question": question, "assumptions": assumptions, **empty, **values})


def _shares(rates: Mapping[str, ErrorRate]) -> dict[str, Share]:
    return {name: Share(share=rate.value, interval=rate.interval) for name, rate in rates.items()}


def _percent(rate: ErrorRate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _assumed(settings: SimulationSettings) -> str:
    value = "" if settings.metric == "auroc" else f" and so {METRIC_NAMES[settings.metric]} {settings.value:.3f}"
    candidates = "" if settings.metric == "auroc" else " One candidate per case, one lesion per positive case."
    return (
        f"Assumed: AUROC {settings.auroc:.3f}{value}, prevalence {settings.prevalence:.2f}, spread between runs "
        f"{settings.run_sd:.4f}; "
        f"variance by case {settings.case_share:.2f}, method × case {settings.method_share:.2f}, run × case "
        f"{settings.run_share:.2f}.{candidates}"
    )
