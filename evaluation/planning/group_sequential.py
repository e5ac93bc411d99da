"""Interim analyses of a running campaign: whether it can stop early, without more false positives.

The analysis file declares the looks, as runs per configuration. By look k the type-I error may have been spent up to
``α(t) = 2 − 2 Φ(z(α/2)/√t)``, with t the share of the planned runs (Lan and DeMets' form of O'Brien and Fleming's
boundaries). At each look the run-level p after Holm is held against what that look adds to it; since the additions sum
to α, the error over all looks stays below α however they depend on one another. Early looks cost little: nearly all of
α is left for the last.

A comparison is *shown* (stop), *out of reach* (stop: even if every run still to come favoured one side, the last look
could not show it), or *open* (continue).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from contract.errors import OncoduetError
from contract.records import Record
from contract.schema import Frozen
from evaluation.metrics.scored_runs import ScoredRun, group_by_configuration
from evaluation.statistics.analysis_file import Analysis, Metric
from evaluation.statistics.bootstrap import stream
from evaluation.statistics.run_level import common_folds, holm, known_folds, run_level, run_values
from evaluation.statistics.run_permutation import order_test
from evaluation.statistics.verdict import METRIC_NAMES

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
    """Smallest p that the last look could still give; null where there is no run-level test."""
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
    """What this look may spend."""
    alpha_at_the_end: float
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
        raise OncoduetError(plan.name, expected="looks in the analysis file, such as looks = [5, 10]", found="none")
    groups = group_by_configuration(runs)
    names = list(dict.fromkeys(name for pair in declared for name in pair))
    counts = {name: len(groups[name]) for name in names}
    fewest, most = min(counts.values()), max(counts.values())
    if most > plan.looks[-1]:
        many = next(name for name, count in counts.items() if count == most)
        raise OncoduetError(plan.name, expected=f"at most {plan.looks[-1]} runs of {many} (looks)", found=most)
    due = fewest if fewest in plan.looks and fewest == most else None
    here = plan.alpha_at(due) if due else 0.0
    last = plan.alpha_at(plan.looks[-1])
    comparisons = [
        each for metric in plan.metrics for each in _compare(metric, groups, declared, plan, here=here, last=last)
    ]
    following = next((each for each in plan.looks if each > fewest), None)
    settled = all(each.state != "open" for each in comparisons)
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
        comparisons=tuple(comparisons),
        stop=stop,
        sentence=_sentence(due, counts, following, comparisons, stop=stop),
    )


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
    plan = Analysis(name="simulated", alpha=alpha, looks=tuple(looks))
    spent = [plan.alpha_at(each) for each in looks]
    shown = naive = total = 0
    for _ in range(studies):
        a = generator.normal(difference, run_sd, looks[-1])
        b = generator.normal(0, run_sd, looks[-1])
        p = [order_test(a[:count].tolist(), b[:count].tolist()).p for count in looks]
        first = next((k for k, value in enumerate(p) if value <= spent[k]), None)
        shown += first is not None
        naive += min(p) <= alpha
        total += looks[-1 if first is None else first]
    return Simulated(shown / studies, naive / studies, total / studies)


def _compare(
    metric: Metric,
    groups: Mapping[str, Sequence[ScoredRun]],
    declared: Sequence[tuple[str, str]],
    plan: Analysis,
    *,
    here: float,
    last: float,
) -> list[InterimComparison]:
    levels = [run_level(metric, groups[a], groups[b], plan) for a, b in declared]
    adjusted = holm([level.p for level in levels])
    found = []
    for (a, b), level, p_holm in zip(declared, levels, adjusted, strict=True):
        values = [run_values(groups[name], metric) for name in (a, b)]
        defined = [[value for value in arm if value is not None] for arm in values]
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
    """Run-level p at the last look if all runs to come favoured one arm; their folds continue in turn."""
    folds = [known_folds(arm) for arm in (a, b)]
    planned_folds = None
    if all(folds):
        turns = [sorted(set(arm)) for arm in folds]
        planned_folds = common_folds(
            *(
                arm + [turn[k % len(turn)] for k in range(planned - len(arm))]
                for arm, turn in zip(folds, turns, strict=True)
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
    what = f"a difference is shown between {'; '.join(shown)}" if shown else "no difference is shown"
    if following is None:
        return f"Stop: all {due} planned runs are done; {what}."
    if stop:
        return f"Stop at {due} runs per configuration: {what}, and nothing else can be shown by the planned end."
    still = sum(each.state == "open" for each in found)
    return f"Continue: at {due} runs per configuration {what}; {still} of {len(found)} comparisons are open."
