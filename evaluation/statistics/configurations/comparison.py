"""Compare configurations on one test set: estimates, tests, Holm's adjustment, code and sentence of each declared pair.

The result depends on what was scored and on the analysis file, not on the order of the runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from contract.process.workers import each_of
from evaluation.metrics.outcomes import BoolArray, TestSet
from evaluation.metrics.scored_run import ScoredRun
from evaluation.statistics.adjustment import holm
from evaluation.statistics.analysis_file import Analysis, Metric
from evaluation.statistics.conclusions import (
    NOT_ASKED_SENTENCE,
    NOT_TESTED,
    ORDER_NOT_TESTED,
    TWO_NETWORKS,
    decide,
    is_shown,
    sentence,
    spoken,
)
from evaluation.statistics.configurations.run_level import (
    RunValues,
    describe,
    no_exchange,
    on_common_folds,
    run_level,
    values_of,
)
from evaluation.statistics.configurations.summaries import mean_or_none, summarise, summarise_from_table
from evaluation.statistics.resampling.case_permutation import case_swap_tests
from evaluation.statistics.resampling.run_permutation import PermutationResult
from evaluation.statistics.variance.arms import (
    SAME_PREDICTIONS,
    Arm,
    arms_of,
    compare_arms,
    drawn,
    interval_of,
    same_predictions,
)
from evaluation.statistics.variance.pairing import Pairing, pairing
from evaluation.statistics.variance.runs_and_cases import DifferenceTest, approximation, nested
from evaluation.statistics.verdict_records import (
    Code,
    Control,
    Equivalence,
    Networks,
    NonInferiority,
    PairVerdict,
    RunLevel,
    RunsAndCases,
    Verdict,
)

NO_CASES = "a table of runs holds no cases"


@dataclass(frozen=True)
class ComparisonInput:
    """The scored configurations on their test set, and how they are to be compared."""

    plan: Analysis
    arms: Mapping[str, Arm]
    positive: BoolArray  # whether a patient has a positive case, (patients,)
    swaps: Mapping[tuple[str, str], Mapping[Metric, PermutationResult]]  # of single networks


def compare_configurations(
    runs: Sequence[ScoredRun], plan: Analysis, declared: Sequence[tuple[str, str]], *, analysis: str, workers: int = 1
) -> Verdict:
    """Estimate and test every declared pair of configurations by every metric.

    Parameters
    ----------
    analysis
        sha256 of the analysis file, or ``exploratory``.
    workers
        Processes; they change no result.
    """
    truth, source = runs[0].truth, runs[0].source
    arms = arms_of(runs)
    networks = [(a, b) for a, b in declared if arms[a].is_single and arms[b].is_single]
    swapped = each_of(
        partial(_swaps, truth, plan), [(arms[a].runs, arms[b].runs) for a, b in networks], workers=workers
    )
    study = ComparisonInput(plan, arms, truth.positive_patients, dict(zip(networks, swapped, strict=True)))
    pairs: list[PairVerdict] = []
    for metric in plan.metrics:
        judged = _compare_metric(study, metric, declared)
        pairs += [pair.model_copy(update={"controls": _controls(study, pair, judged)}) for pair in judged]
    return Verdict(
        **_declared(plan, declared, analysis),
        parents={run.name: run.metrics_sha256 for run in runs},
        card=source.card,
        card_sha256=source.card_sha256,
        data_licences=tuple(sorted({run.source.data_licence for run in runs})),
        profiles=tuple(sorted({run.source.profile for run in runs})),
        patients=truth.patient_count,
        configurations=tuple(summarise(arm, truth.positive_patients, plan) for arm in arms.values()),
        pairs=tuple(pairs),
    )


def compare_table_of_runs(
    table: Mapping[Metric, Mapping[str, RunValues]],
    plan: Analysis,
    declared: Sequence[tuple[str, str]],
    *,
    analysis: str,
    parents: Mapping[str, str],
) -> Verdict:
    """Compare a table of runs, which holds no cases: only by the run level and the metrics that it has."""
    given = [metric for metric in plan.metrics if all(arm.defined for arm in table[metric].values())]
    pairs = []
    for metric in given:
        levels = run_levels(metric, plan, declared, table[metric], [None] * len(declared))
        for (a, b), level in zip(declared, levels, strict=True):
            means = [mean_or_none(arm.values) for arm in on_common_folds(table[metric][a], table[metric][b])]
            pairs.append(
                PairVerdict(
                    a=a,
                    b=b,
                    metric=metric,
                    endpoint=plan.endpoint(metric),
                    estimate=None if means[0] is None or means[1] is None else means[0] - means[1],
                    interval=None,
                    p=None,
                    p_holm=None,
                    alpha=level.alpha,
                    runs_and_cases=None,
                    reason=NO_CASES,
                    networks=None,
                    run_level=level,
                    equivalence=None,
                    non_inferiority=None,
                    ensemble=None,
                    controls=(),
                    code="undecided",
                    sentence=NOT_ASKED_SENTENCE.format(
                        metric=spoken(metric, plan.endpoint(metric)), a=a, b=b, reason=NO_CASES
                    ),
                )
            )
    return Verdict(
        **_declared(plan, declared, analysis),
        parents=parents,
        card=None,
        card_sha256=None,
        data_licences=(),
        profiles=(),
        patients=None,
        configurations=tuple(summarise_from_table(name, table) for name in table["auroc"]),
        pairs=tuple(pairs),
    )


def _declared(plan: Analysis, declared: Sequence[tuple[str, str]], analysis: str) -> dict[str, Any]:
    """What was declared, as the verdict has it."""
    same = ("primary", "alpha", "seed", "replicates", "swaps", "looks")
    return {
        "analysis": analysis,
        "analysis_name": plan.name,
        "margins": plan.margin,
        "family": len(declared),
        **{name: getattr(plan, name) for name in same},
    }


def _swaps(
    truth: TestSet, plan: Analysis, arms: tuple[Sequence[ScoredRun], Sequence[ScoredRun]]
) -> dict[Metric, PermutationResult]:
    (a,), (b,) = arms
    return case_swap_tests(truth, a.outcome, b.outcome, draws=plan.swaps, seed=plan.seed)


def _compare_metric(study: ComparisonInput, metric: Metric, declared: Sequence[tuple[str, str]]) -> list[PairVerdict]:
    plan, arms, positive = study.plan, study.arms, study.positive
    designs = [pairing(arms[a].runs, arms[b].runs) for a, b in declared]
    found = [
        compare_arms(arms[a], arms[b], metric, design, positive)
        for (a, b), design in zip(declared, designs, strict=True)
    ]
    margin = plan.margin.get(metric)
    tests = [each.test for each in found]
    p_holm = holm([test.p if test else None for test in tests])
    counts = [[len(arms[name].runs) for name in pair if not arms[name].is_fixed] for pair in declared]
    alphas = [plan.level_at(each) for each in counts]
    equivalent = _equivalence(tests, margin, plan, alphas)
    inferior = _non_inferiority(tests, margin, plan, alphas)
    of_networks = _networks(study, declared, designs, metric)
    levels = run_levels(
        metric,
        plan,
        declared,
        {name: values_of(arm.runs, metric) for name, arm in arms.items()},
        [no_exchange(arms[a].runs, arms[b].runs) for a, b in declared],
    )
    verdicts = []
    name = spoken(metric, plan.endpoint(metric))
    for number, (a, b) in enumerate(declared):
        estimate, test, reason = found[number]
        alpha, networks = alphas[number], of_networks[number]
        equivalence = equivalent[number]
        shown = equivalence is not None and equivalence.shown
        code = decide(estimate=estimate, p_holm=p_holm[number], alpha=alpha, equivalent=shown)
        verdicts.append(
            PairVerdict(
                a=a,
                b=b,
                metric=metric,
                endpoint=plan.endpoint(metric),
                estimate=estimate,
                interval=interval_of(test, 1 - plan.alpha) if test else None,
                p=test.p if test else None,
                p_holm=p_holm[number],
                alpha=alpha,
                runs_and_cases=_described(test, arms[a], arms[b], designs[number], positive) if test else None,
                reason=reason,
                networks=networks,
                run_level=levels[number],
                equivalence=equivalence,
                non_inferiority=inferior[number],
                ensemble=_claimed_ensemble(arms[a], arms[b]),
                controls=(),
                code=code,
                sentence=_not_compared(
                    a, b, name, reason=reason or plan.not_due(counts[number]), networks=networks, alpha=plan.alpha
                )
                or sentence(
                    code, a=a, b=b, metric=metric, margin=margin, equivalent=shown, endpoint=plan.endpoint(metric)
                ),
            )
        )
    return verdicts


def _not_compared(
    a: str, b: str, metric: str, *, reason: str | None, networks: Networks | None, alpha: float
) -> str | None:
    """The sentence where new runs are not asked about."""
    if reason is None:
        return None
    if networks is None:
        return NOT_TESTED.format(metric=metric, a=a, b=b, reason=reason)
    differ = "differ on new cases" if networks.p_holm <= alpha else "are not shown to differ on new cases"
    return TWO_NETWORKS.format(metric=metric, a=a, b=b, differ=differ)


def run_levels(
    metric: Metric,
    plan: Analysis,
    declared: Sequence[tuple[str, str]],
    values: Mapping[str, RunValues],
    reasons: Sequence[str | None],
) -> list[RunLevel]:
    """The run level of every declared pair, after Holm's adjustment, with its sentence.

    Parameters
    ----------
    values
        Values of runs by configuration.
    reasons
        Reason by pair why its design forbids the test; None where it does not.
    """
    levels = [
        run_level(metric, values[a], values[b], plan, reason=reason)
        for (a, b), reason in zip(declared, reasons, strict=True)
    ]
    adjusted = holm([level.p for level in levels])
    found = []
    for (a, b), level, p_holm in zip(declared, levels, adjusted, strict=True):
        whole = level.model_copy(update={"p_holm": p_holm})
        not_due = plan.not_due([len(values[name].runs) for name in (a, b)])
        said = describe(whole, values[a], values[b], looks=bool(plan.looks))
        if said is not None and not_due is not None:
            said = ORDER_NOT_TESTED.format(reason=not_due)
        found.append(whole.model_copy(update={"sentence": said}))
    return found


def _described(test: DifferenceTest, a: Arm, b: Arm, design: Pairing, positive: BoolArray) -> RunsAndCases:
    runs = (len(design.a), len(design.b))
    return RunsAndCases(
        design=design.design,
        runs=runs,
        variance_of_runs=test.variance_of_runs,
        variance_of_cases=test.variance_of_cases,
        degrees_of_freedom=test.degrees_of_freedom,
        note="; ".join(filter(None, (design.note, SAME_PREDICTIONS if same_predictions(a, b) else None))) or None,
        approximate=approximation(positive, drawn(a, b, design)),
    )


def _networks(
    study: ComparisonInput, declared: Sequence[tuple[str, str]], designs: Sequence[Pairing], metric: Metric
) -> list[Networks | None]:
    """The comparisons of two single networks, adjusted by Holm; None for all others."""
    tests: list[DifferenceTest | None] = []
    for pair, design in zip(declared, designs, strict=True):
        is_asked = metric in study.swaps.get(pair, {}) and design.reason is None
        of_a, of_b = (study.arms[name].metrics[metric] for name in pair)
        tests.append(nested(of_a, of_b, study.positive, fixed=(True, True)) if is_asked else None)
    found: list[Networks | None] = []
    for pair, test, p_holm in zip(declared, tests, holm([test.p if test else None for test in tests]), strict=True):
        if test is None or p_holm is None:
            found.append(None)
            continue
        swapped = study.swaps[pair][metric]
        found.append(
            Networks(
                p=test.p,
                p_holm=p_holm,
                interval=interval_of(test, 1 - study.plan.alpha),
                p_of_swaps=swapped.p,
                p_interval=swapped.p_interval,
                exact=swapped.exact,
                swaps=None if swapped.exact else swapped.arrangements,
                approximate=approximation(study.positive, []),
            )
        )
    return found


def _equivalence(
    tests: Sequence[DifferenceTest | None], margin: float | None, plan: Analysis, alphas: Sequence[float]
) -> list[Equivalence | None]:
    if margin is None:
        return [None] * len(tests)
    p_values = [test.p_not_equivalent(margin) if test else None for test in tests]
    return [
        Equivalence(
            margin=margin,
            interval=interval_of(test, 1 - 2 * plan.alpha),
            p=p,
            p_holm=p_holm,
            shown=is_shown(p_holm, alpha),
        )
        if test is not None and p is not None
        else None
        for test, p, p_holm, alpha in zip(tests, p_values, holm(p_values), alphas, strict=True)
    ]


def _non_inferiority(
    tests: Sequence[DifferenceTest | None], margin: float | None, plan: Analysis, alphas: Sequence[float]
) -> list[NonInferiority | None]:
    if margin is None:
        return [None] * len(tests)
    of_a = [test.p_not_above(-margin) if test else None for test in tests]
    of_b = [test.p_not_below(margin) if test else None for test in tests]
    adjusted = holm([*of_a, *of_b], most_true=len(tests) - tests.count(None))
    found: list[NonInferiority | None] = []
    for number, (test, p_of_a, p_of_b) in enumerate(zip(tests, of_a, of_b, strict=True)):
        if test is None or p_of_a is None or p_of_b is None:
            found.append(None)
            continue
        p_holm_of_a, p_holm_of_b = adjusted[number], adjusted[len(tests) + number]
        found.append(
            NonInferiority(
                margin=margin,
                interval=interval_of(test, 1 - 2 * plan.alpha),
                p_of_a=p_of_a,
                p_of_b=p_of_b,
                p_holm_of_a=p_holm_of_a,
                p_holm_of_b=p_holm_of_b,
                a_not_inferior=is_shown(p_holm_of_a, alphas[number]),
                b_not_inferior=is_shown(p_holm_of_b, alphas[number]),
            )
        )
    return found


def _claimed_ensemble(a: Arm, b: Arm) -> str | None:
    """The ensemble that a comparison makes a claim about: the one side that mixes configurations."""
    if a.runs[0].is_control or b.runs[0].is_control:
        return None
    mixed = [arm.name for arm in (a, b) if arm.runs[0].is_ensemble]
    return mixed[0] if len(mixed) == 1 else None


def _controls(study: ComparisonInput, pair: PairVerdict, judged: Sequence[PairVerdict]) -> tuple[Control, ...]:
    """Every control with as many runs as the ensemble that the pair makes a claim about."""
    if pair.ensemble is None:
        return ()
    ensemble = study.arms[pair.ensemble]
    size = {len(run.source.runs) for run in ensemble.runs}
    found = []
    for name, arm in study.arms.items():
        if not arm.runs[0].is_control or {len(run.source.runs) for run in arm.runs} != size:
            continue
        estimate, test, _ = compare_arms(ensemble, arm, pair.metric, pairing(ensemble.runs, arm.runs), study.positive)
        found.append(
            Control(
                control=name,
                estimate=estimate,
                interval=interval_of(test, 1 - study.plan.alpha) if test else None,
                code=_code_of(judged, pair.ensemble, name),
            )
        )
    return tuple(found)


def _code_of(judged: Sequence[PairVerdict], first: str, second: str) -> Code | None:
    """A comparison's code, seen from the first; None where it was not made."""
    turned: Mapping[Code, Code] = {"better": "worse", "worse": "better"}
    for pair in judged:
        if (pair.a, pair.b) == (first, second):
            return pair.code
        if (pair.a, pair.b) == (second, first):
            return turned.get(pair.code, pair.code)
    return None
