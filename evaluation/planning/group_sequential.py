"""Interim analyses of a running campaign: whether it can stop early, without more false positives.

The analysis file declares the looks, as runs per configuration. At each look the run-level p after Holm is compared
with the level of that look (:mod:`evaluation.statistics.alpha_spending`): early ones are strict and cost little, and
nearly all of alpha is left for the last. Between looks nothing is tested, so nothing is spent twice.

A comparison is *shown* (stop), *out of reach* (stop: even if every run still to come favoured one side, the last look
could not show it), or *open* (continue). Where a primary metric is declared, only its comparisons decide. All of this
concerns the ranking of the runs on this test set, whose bounds over the remaining runs are known. New runs and new
cases are the question of ``compare``, which uses the same looks and levels and may answer differently.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from contract.errors import OncoduetError
from contract.files.reading import sha256_file
from contract.records import Record
from contract.schema import Frozen
from evaluation.metrics.scored_run import ScoredRun
from evaluation.metrics.scored_runs import group_by_configuration, read_scored_runs
from evaluation.planning.plan_record import AnswerTable
from evaluation.statistics.adjustment import holm
from evaluation.statistics.alpha_spending import nominal_levels
from evaluation.statistics.analysis_file import METRIC_NAMES, Analysis, Metric, read_analysis
from evaluation.statistics.configurations.run_level import common_folds, no_exchange, run_level, values_of
from evaluation.statistics.resampling.random_streams import stream
from evaluation.statistics.resampling.run_permutation import order_test, smallest_order_p
from evaluation.statistics.variance.pairing import known_folds

State = Literal["shown", "out of reach", "open"]


class InterimComparison(Frozen):
    """One comparison by one metric at a look."""

    a: str
    b: str
    metric: Metric
    runs: tuple[int, int]
    difference: float | None
    p: float | None
    p_holm: float | None
    best_p_at_the_end: float | None
    """Smallest p that is still possible at the last look; null where there is no run-level test."""
    state: State


class InterimResult(Record):
    """``sequential.json``. ``parents``: sha256 of each scored run's ``metrics.json``, by run."""

    analysis: str
    """sha256 of the analysis file."""
    looks: tuple[int, ...]
    look: int | None
    """Runs per configuration at the look that is due; null between looks."""
    next_look: int | None
    alpha: float
    alpha_here: float
    """Level of this look; 0 between looks."""
    alpha_at_the_end: float
    cannot_stop: tuple[int, ...]
    """Looks whose level is below the smallest p that their runs can give."""
    comparisons: tuple[InterimComparison, ...]
    stop: bool
    sentence: str


def interim_analysis(
    runs: Sequence[ScoredRun], plan: Analysis, declared: Sequence[tuple[str, str]], *, analysis: str
) -> InterimResult:
    """Decide whether the campaign of these runs can stop.

    Raises
    ------
    OncoduetError
        The analysis file declares no looks, or there are more runs than planned.
    """
    if not plan.looks:
        raise OncoduetError(plan.where, "no looks are declared, such as looks = [5, 10]")
    groups = group_by_configuration(runs)
    names = list(dict.fromkeys(name for pair in declared for name in pair))
    counts = {name: len(groups[name]) for name in names}
    fewest, most = min(counts.values()), max(counts.values())
    plan.require_planned(counts)
    due = fewest if fewest in plan.looks and fewest == most else None
    here = plan.level_at([due]) if due else 0.0
    last = plan.level_at([plan.looks[-1]])
    comparisons = [
        each for metric in plan.metrics for each in _compare(metric, groups, declared, plan, here=here, last=last)
    ]
    following = next((each for each in plan.looks if each > fewest), None)
    decisive = [each for each in comparisons if plan.primary in (None, each.metric)]
    settled = all(each.state != "open" for each in decisive)
    stop = due is not None and (settled or following is None)
    return InterimResult(
        parents={run.name: run.metrics_sha256 for run in runs},
        analysis=analysis,
        looks=plan.looks,
        look=due,
        next_look=following,
        alpha=plan.alpha,
        alpha_here=here,
        alpha_at_the_end=last,
        cannot_stop=looks_that_cannot_stop(plan.looks, plan.alpha),
        comparisons=tuple(comparisons),
        stop=stop,
        sentence=_sentence(due, counts, following, decisive, stop=stop),
    )


def looks_that_cannot_stop(looks: Sequence[int], alpha: float) -> tuple[int, ...]:
    """Looks at which even perfectly separated runs give no p below the level."""
    levels = nominal_levels(tuple(looks), alpha)
    return tuple(look for look, level in zip(looks, levels, strict=True) if smallest_order_p(look, look) > level)


@dataclass(frozen=True)
class Simulated:
    """Error and size of simulated campaigns with interim analyses."""

    shown: float  # share with a difference shown at some look
    shown_without_spending: float  # the same if every look used the whole alpha
    mean_runs: float  # per configuration, when stopped


def simulate_looks(
    looks: Sequence[int], *, alpha: float, studies: int, seed: int, difference: float = 0.0, run_sd: float = 0.01
) -> Simulated:
    """Simulate campaigns of two configurations; without a difference ``shown`` is the type-I error."""
    generator = stream(seed, "looks")
    levels = nominal_levels(tuple(looks), alpha)
    shown = naive = total = 0
    for _ in range(studies):
        a = generator.normal(difference, run_sd, looks[-1])
        b = generator.normal(0, run_sd, looks[-1])
        p = [order_test(a[:count].tolist(), b[:count].tolist()).p for count in looks]
        first = next((k for k, value in enumerate(p) if value <= levels[k]), None)
        shown += first is not None
        naive += min(p) <= alpha
        total += looks[-1 if first is None else first]
    return Simulated(shown / studies, naive / studies, total / studies)


def plan_interim_analysis(scores: Sequence[Path], analysis: Path) -> tuple[InterimResult, AnswerTable]:
    """Decide whether the campaign of these scored runs can stop.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.metrics.scored_runs.read_scored_runs` and :func:`interim_analysis`; or one configuration
        was scored, so that there is no pair.
    """
    plan, runs = read_analysis(analysis), read_scored_runs(scores)
    configurations = list(group_by_configuration(runs))
    declared = plan.pairs(configurations, analysis)
    if not declared:
        where = ", ".join(map(str, scores))
        raise OncoduetError(where, expected="two scored configurations", found=", ".join(configurations))
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
        f"Looks at {', '.join(map(str, found.looks))} runs per configuration; the level of this one is "
        f"{found.alpha_here:.4g}, of the last one {found.alpha_at_the_end:.4g}.{_cannot_stop(found.cannot_stop)}"
    )
    header = ["comparison", "metric", "runs", "difference", "p", "Holm", "best p at the end", "state"]
    return found, AnswerTable("Interim analysis", header, rows, note, found.sentence)


def simulate_interim_analyses(
    looks: Sequence[int], *, alpha: float, studies: int, seed: int, difference: float, run_sd: float
) -> AnswerTable:
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
        f"{run_sd:g}. Without spending: each look uses all of α.{_cannot_stop(looks_that_cannot_stop(looks, alpha))}"
    )
    return AnswerTable("Interim analyses", ["", "shown", "without spending", "mean runs"], rows, note)


def _compare(
    metric: Metric,
    groups: Mapping[str, Sequence[ScoredRun]],
    declared: Sequence[tuple[str, str]],
    plan: Analysis,
    *,
    here: float,
    last: float,
) -> list[InterimComparison]:
    of = {name: values_of(runs, metric) for name, runs in groups.items()}
    levels = [run_level(metric, of[a], of[b], plan, reason=no_exchange(groups[a], groups[b])) for a, b in declared]
    adjusted = holm([level.p for level in levels])
    found = []
    for (a, b), level, p_holm in zip(declared, levels, adjusted, strict=True):
        defined = [of[name].defined for name in (a, b)]
        means = [float(np.mean(arm)) if arm else None for arm in defined]
        best = None if level.reason is not None else _best_p(groups[a], groups[b], defined, plan.looks[-1])
        state: State = "open"
        if p_holm is not None and p_holm <= here:
            state = "shown"
        elif best is None or best > last:
            state = "out of reach"
        found.append(
            InterimComparison(
                a=a,
                b=b,
                metric=metric,
                runs=(len(groups[a]), len(groups[b])),
                difference=None if means[0] is None or means[1] is None else means[0] - means[1],
                p=level.p,
                p_holm=p_holm,
                best_p_at_the_end=best,
                state=state,
            )
        )
    return found


def _best_p(a: Sequence[ScoredRun], b: Sequence[ScoredRun], values: Sequence[Sequence[float]], planned: int) -> float:
    """Run-level p at the last look if all remaining runs favoured one arm; their folds continue in turn."""
    folds = [known_folds(arm) for arm in (a, b)]
    planned_folds = None
    if all(folds):
        cycles = [sorted(set(arm)) for arm in folds]
        planned_folds = common_folds(
            *(
                arm + [cycle[k % len(cycle)] for k in range(planned - len(arm))]
                for arm, cycle in zip(folds, cycles, strict=True)
            )
        )
    best = 1.0
    for above, below in ((0, 1), (1, 0)):
        arms = [list(arm) for arm in values]
        arms[above] += [max(map(max, values)) + 1.0] * (planned - len(arms[above]))
        arms[below] += [min(map(min, values)) - 1.0] * (planned - len(arms[below]))
        best = min(best, order_test(arms[0], arms[1], folds=planned_folds).p)
    return best


def _sentence(
    due: int | None, counts: Mapping[str, int], following: int | None, found: Sequence[InterimComparison], *, stop: bool
) -> str:
    if due is None:
        least = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"No look is due ({least}); the next one is at {following} runs per configuration."
    shown = [f"{each.a} and {each.b} by {METRIC_NAMES[each.metric]}" for each in found if each.state == "shown"]
    what = f"the ranking of the runs on this test set shows {'a difference between ' if shown else 'no difference'}"
    what += "; ".join(shown)
    if following is None:
        return f"Stop: all {due} planned runs are done; {what}."
    if stop:
        return f"Stop at {due} runs per configuration: {what}, and can show nothing else by the planned end."
    still = sum(each.state == "open" for each in found)
    return f"Continue: at {due} runs per configuration {what}; {still} of {len(found)} comparisons are open."


def _cannot_stop(looks: Sequence[int]) -> str:
    if not looks:
        return ""
    return f" At {', '.join(map(str, looks))} runs no campaign can stop: p cannot get below the level of that look."
