"""Planning: how many runs and cases a question needs, whether the tests keep their level, may a campaign stop.

Answers are tables of text beside the record that ``--output`` writes. A pilot, some scored runs, replaces the assumed
AUROC, prevalence and spreads by its own.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import norm, rankdata

from contract.cards import Frozen
from contract.errors import OncoduetError
from contract.files import sha256_file
from contract.records import Record
from evaluation.analysis import read_analysis
from evaluation.outcomes import FloatArray
from evaluation.scored_runs import ScoredRun, group_by_configuration, read_scored_runs
from evaluation.sequential import Looked, look, simulate_looks
from evaluation.simulation import NULLS, RATES, Rate, World, false_positives, null_world, power

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """What is shown of an answer."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


class Share(Frozen):
    """A share of simulated studies, with its 95 % interval by the chance of simulation."""

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
    world: World,
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
    """Tell by simulation how many runs and cases show ``world.difference`` with the wanted power.

    Parameters
    ----------
    world
        What is assumed; its numbers of runs and cases are replaced by those of the grid.
    target
        Wanted power of the code *better*.
    comparisons
        Of the family: each is tested at alpha over this number, which is Holm's first step and so on the safe side.
    """
    grid = [(n, m) for n in sorted(set(runs)) for m in sorted(set(cases))]
    designs = []
    for n, m in grid:
        found = power(
            replace(world, runs=n, cases=m),
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
            f"{best.runs} runs per configuration on {best.cases} cases show a difference of {world.difference:g} with "
            f"{100 * best.shown['better'].share:.0f} % power: the fewest predictions among these designs that reach "
            f"{100 * target:.0f} %."
        )
    else:
        best = max(designs, key=lambda each: each.shown["better"].share)
        sentence = (
            f"None of these designs shows a difference of {world.difference:g} with {100 * target:.0f} % power; the "
            f"best, {best.runs} runs on {best.cases} cases, reaches {100 * best.shown['better'].share:.0f} %."
        )
    record = _record(
        f"power for a difference of {world.difference:g} in AUROC",
        world,
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
        "level: the methods differ on this test set. Case level: these networks differ on new cases. Better: both, and "
        "the two-level interval excludes 0. " + _assumed(world)
    )
    return record, Table(
        f"Power for {world.difference:+g} AUROC", ["runs", "cases", *names], rows, f"{note}\n{sentence}"
    )


def plan_simulation(
    world: World, *, alpha: float, studies: int, seed: int, workers: int = 1, pilot: Mapping[str, float] | None = None
) -> tuple[PlanRecord, Table]:
    """Show by simulation how often the tests and the verdict see a difference where there is none."""
    found = {}
    for null in NULLS:
        found[null] = false_positives(null_world(world, null), studies=studies, alpha=alpha, seed=seed, workers=workers)
        _log.info("%s: done", null)
    retrained = found[NULLS[0]]
    sentence = (
        f"Same method, retrained: the verdict is wrong in {_percent(retrained[RATES[3]])} of studies, bootstrapping "
        f"single runs in {_percent(retrained[RATES[4]])}."
    )
    record = _record(
        "false positives",
        world,
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
        f"{studies} studies per column, {world.runs} runs per configuration, {world.cases} cases, α = {alpha:g}; in "
        "brackets 95 % by the chance of simulation. The case-level p alone speaks of the networks that were trained: "
        "where runs differ in quality it takes luck in training for the method, so the verdict asks for the run level, "
        "or at least for the two-level interval (“case level”). Under equal AUROC of two methods the run level rightly "
        "finds that they differ on this test set. " + _assumed(world)
    )
    return record, Table("False positives", ["", *NULLS], rows, f"{note}\n{sentence}")


def plan_looks(scores: Sequence[Path], analysis: Path) -> tuple[Looked, Table]:
    """Decide whether the campaign that these scored runs belong to may stop.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.scored_runs.read_scored_runs` and :func:`evaluation.sequential.look`.
    """
    plan, runs = read_analysis(analysis), read_scored_runs(scores)
    declared = plan.pairs(list(group_by_configuration(runs)), analysis)
    found = look(runs, plan, declared, analysis=sha256_file(analysis))
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
    return found, Table("Looks at a running campaign", header, rows, f"{note}\n{found.sentence}")


def plan_looks_by_simulation(
    looks: Sequence[int], *, alpha: float, studies: int, seed: int, difference: float, run_sd: float
) -> Table:
    """Show what looking at a campaign does to the type-I error, and how many runs it spares."""
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
        f"{run_sd:g}. Without spending: every look uses all of α."
    )
    return Table("Looking", ["", "shown", "without spending", "mean runs"], rows, note)


def pilot_world(scores: Sequence[Path], world: World) -> tuple[World, dict[str, float]]:
    """Take AUROC, prevalence and spreads from scored runs: of each configuration at least two runs.

    Likelihoods become normal scores within run and class. Their mean correlation between runs of one configuration is
    the share of case and method together, that between runs of two configurations the share of the case alone. The
    spread of AUROC between runs is the observed one without what the sampling of cases adds to it.

    Raises
    ------
    OncoduetError
        No configuration has two runs, or the test set lacks positive or negative cases.
    """
    runs = [run for run in read_scored_runs(scores) if not run.is_baseline and not run.is_ensemble]
    groups = [members for members in group_by_configuration(runs).values() if len(members) > 1]
    where = ", ".join(map(str, scores))
    if not groups:
        raise OncoduetError(f"{where}: expected a pilot with two runs of a configuration, found none")
    truth = groups[0][0].truth
    if not 1 < truth.positive_count < len(truth.case_ids) - 1:
        raise OncoduetError(f"{where}: expected positive and negative cases in the pilot, found one kind")
    scored = [np.stack([_normal_scores(run) for run in members]) for members in groups]
    within = float(np.mean([_mean_correlation(each, each) for each in scored]))
    across = [_mean_correlation(a, b) for k, a in enumerate(scored) for b in scored[:k]]
    between = min(within, float(np.mean(across))) if across else within / 2
    found = replace(
        world,
        auroc=float(np.mean([run.strict.auroc for members in groups for run in members])),
        prevalence=truth.positive_count / len(truth.case_ids),
        run_sd=math.sqrt(max(0.0, float(np.mean([_run_variance(members) for members in groups])))),
        case_share=max(0.0, between),
        method_share=max(0.0, within - max(0.0, between)),
    )
    pilot = {
        "configurations": float(len(groups)),
        "runs": float(sum(map(len, groups))),
        "cases": float(len(truth.case_ids)),
        "correlation_within": within,
        "correlation_between": between,
    }
    return found, pilot


def _normal_scores(run: ScoredRun) -> FloatArray:
    scores = np.empty(run.outcome.likelihood.size)
    for kind in (run.truth.positive, ~run.truth.positive):
        values = norm.ppf((rankdata(run.outcome.likelihood[kind]) - 0.5) / kind.sum())
        scores[kind] = values / max(1e-12, values.std())
    return scores


def _mean_correlation(a: FloatArray, b: FloatArray) -> float:
    """Of the rows of one with those of the other; of one with itself: of its different rows."""
    products = a @ b.T / a.shape[1]
    return float(products[~np.eye(len(a), dtype=bool)].mean() if a is b else products.mean())


def _run_variance(members: Sequence[ScoredRun]) -> float:
    """Variance of AUROC between runs, less what cases add: DeLong's variance of each run's distance to the mean."""
    positive = members[0].truth.positive
    ones, zeros = int(positive.sum()), int((~positive).sum())
    of_ones, of_zeros, aurocs = [], [], []
    for run in members:
        ranks = rankdata(run.outcome.likelihood)
        of_ones.append((ranks[positive] - rankdata(run.outcome.likelihood[positive])) / zeros)
        of_zeros.append(1 - (ranks[~positive] - rankdata(run.outcome.likelihood[~positive])) / ones)
        aurocs.append(of_ones[-1].mean())
    cases = sum(
        float((np.stack(of) - np.mean(of, axis=0)).var(axis=1, ddof=1).mean()) / count
        for of, count in ((of_ones, ones), (of_zeros, zeros))
    )
    return float(np.var(aurocs, ddof=1)) - cases * len(members) / (len(members) - 1)


def _record(question: str, world: World, **values: object) -> PlanRecord:
    assumptions = {
        "auroc": world.auroc,
        "difference": world.difference,
        "prevalence": world.prevalence,
        "run_sd": world.run_sd,
        "case_share": world.case_share,
        "method_share": world.method_share,
        "run_share": world.run_share,
    }
    empty: dict[str, object] = {"designs": (), "false_positives": {}}
    return PlanRecord.model_validate({"question": question, "assumptions": assumptions, **empty, **values})


def _shares(rates: Mapping[str, Rate]) -> dict[str, Share]:
    return {name: Share(share=rate.value, interval=rate.interval) for name, rate in rates.items()}


def _percent(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _assumed(world: World) -> str:
    return (
        f"Assumed: AUROC {world.auroc:.3f}, prevalence {world.prevalence:.2f}, spread between runs {world.run_sd:.4f}; "
        f"variance by case {world.case_share:.2f}, method × case {world.method_share:.2f}, run × case "
        f"{world.run_share:.2f}."
    )
