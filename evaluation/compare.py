"""Compare configurations over their scored runs: verdict, report and figures.

Scored runs are grouped by the configuration in their ``source.json``. Each declared pair is estimated, given a
two-level interval, and tested at run level and at case level; Holm adjusts per metric and level over the declared
pairs. The result depends only on what was scored and on the analysis file, not on the order or place of the folders.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from contract.errors import OncoduetError
from contract.files import sha256_file, sha256_json
from contract.marksheet import contradictions
from contract.outputs import Output, require_apart
from contract.records import write_record
from evaluation.metrics.outcomes import FloatArray, Outcome, TestSet, require_patients
from evaluation.metrics.scored_runs import ScoredRun, group_by_configuration, read_scored_runs
from evaluation.report.missed_lesions import find_misses
from evaluation.report.page import REPORT_FILES, write_report
from evaluation.statistics.analysis_file import EXPLORATORY, METRICS, Analysis, Metric, read_analysis
from evaluation.statistics.bootstrap import delong_interval, percentile_interval, two_level_bootstrap
from evaluation.statistics.case_level import CaseTest, case_level_tests
from evaluation.statistics.parallel import each_of
from evaluation.statistics.run_level import holm, no_common_fold, no_exchange, run_level, run_values
from evaluation.statistics.subgroups import Groups, compare_subgroups, read_groups
from evaluation.statistics.verdict import (
    DISAGREE,
    METRIC_NAMES,
    NOT_TESTED,
    CaseLevel,
    Code,
    ConfigurationSummary,
    Control,
    Equivalence,
    Interval95,
    Kind,
    MetricSummary,
    NonInferiority,
    PairVerdict,
    Verdict,
    decide,
    sentence,
)

MOST_CONFIGURATIONS = 12
MOST_RUNS = 20
"""Of one configuration: up to here the run level is exact for means too."""

Draws = Mapping[str, Mapping[str, FloatArray]]

_log = logging.getLogger(__name__)


def compare(
    scores: Sequence[Path],
    output: Path,
    *,
    analysis: Path | None,
    marksheet: Path | None = None,
    archive: Path | None = None,
    predictions: Sequence[Path] = (),
    patients: str | None = None,
    few_patients: bool = False,
    workers: int = 1,
) -> None:
    """Compare scored runs and write ``verdict.json``, ``report.html``, ``figures/`` and ``tables/`` into ``output``.

    Parameters
    ----------
    scores
        Scored runs, or folders of such.
    analysis
        The analysis file; without one all pairs are compared and the verdict says that it is exploratory.
    marksheet
        CSV with ``patient_id``, ``study_id`` and the columns that the analysis file declares as subgroups.
    archive, predictions
        Images and label maps, and what was scored: for pictures of the worst misses
        (:mod:`evaluation.report.missed_lesions`).
    patients
        Value of ``--patients``; overrides what is recorded with the scores.
    few_patients
        Allow fewer than 20 patients to be resampled.
    workers
        Processes; the result does not depend on them.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.metrics.scored_runs.read_scored_runs`; also for faults in the analysis file, for another
        number of configurations than 2 to 12, for more than 20 runs of one, for ambiguous or too few patients, and for
        an output that holds files of other origin under the same names. Nothing is written.
    """
    require_apart(output, scores=scores, archive=archive, predictions=predictions)
    plan = read_analysis(analysis) if analysis else EXPLORATORY
    runs = read_scored_runs(scores, patients=patients)
    place = _place(output, runs[0].truth)
    place.check()
    where = ", ".join(map(str, scores[:3]))
    require_patients(runs[0].truth, where, few=few_patients, way_out="--few-patients")
    by_configuration = group_by_configuration(runs)
    _require_legible(scores, by_configuration)
    declared = plan.pairs(list(by_configuration), analysis)
    groups = _subgroups(plan, marksheet, runs[0].truth, analysis)
    _log.info("comparing %d scored runs in %d pairs", len(runs), len(declared))
    for run in runs:
        if run.trained_on:
            _log.warning("%s: %d of %d studies were trained on", run.name, run.trained_on, run.strict.cases)
    misses = [] if archive is None else find_misses(runs, archive, predictions)
    named = sha256_file(analysis) if analysis else "exploratory"
    verdict = compare_configurations(runs, plan, declared, analysis=named, workers=workers)
    if groups:
        compared, left_out = compare_subgroups(groups, by_configuration, declared, plan, few_patients=few_patients)
        for each in left_out:
            _log.warning("subgroup not tested: %s", each)
        verdict = verdict.model_copy(update={"subgroups": compared, "subgroups_left_out": left_out})
    with place.staged() as stage:
        write_record(stage / "verdict.json", verdict)
        write_report(stage, verdict, runs, misses)
    _log.info("%s", output / "report.html")


def _place(output: Path, truth: TestSet) -> Output:
    """Output for one test set: more runs, or another analysis, replace the last comparison."""
    cases = sha256_json(dict(zip(truth.case_ids, truth.lesions.tolist(), strict=True)))
    files = ["verdict.json", *REPORT_FILES]
    return Output(output, "evaluation compare", files, identity={"cases": cases}, record="verdict.json")


def _require_legible(scores: Sequence[Path], groups: Mapping[str, Sequence[ScoredRun]]) -> None:
    where = ", ".join(map(str, scores[:3])) + (f" and {len(scores) - 3} more" if len(scores) > 3 else "")
    if not 2 <= len(groups) <= MOST_CONFIGURATIONS:
        raise OncoduetError(
            where,
            expected=f"2 to {MOST_CONFIGURATIONS} configurations to compare",
            found=f"{len(groups)} ({', '.join(groups)})",
        )
    for name, members in groups.items():
        if len(members) > MOST_RUNS:
            raise OncoduetError(where, expected=f"at most {MOST_RUNS} runs of {name}", found=len(members))


def _subgroups(plan: Analysis, marksheet: Path | None, truth: TestSet, where: object) -> Groups:
    if marksheet is None and plan.subgroups:
        raise OncoduetError(where, expected=f"--marksheet for the subgroups {', '.join(plan.subgroups)}", found="none")
    if marksheet is not None and not plan.subgroups:
        raise OncoduetError(marksheet, "the analysis file declares no subgroups")
    if marksheet is not None:
        for line in contradictions(marksheet, dict(zip(truth.case_ids, truth.positive.tolist(), strict=True))):
            _log.warning("%s", line)
    return {} if marksheet is None else read_groups(marksheet, plan.subgroups, truth)


def compare_configurations(
    runs: Sequence[ScoredRun], plan: Analysis, declared: Sequence[tuple[str, str]], *, analysis: str, workers: int = 1
) -> Verdict:
    """Estimate and test every declared pair of configurations by every metric."""
    groups = group_by_configuration(runs)
    truth = runs[0].truth
    draws = two_level_bootstrap(
        truth,
        {name: [run.outcome for run in members] for name, members in groups.items()},
        replicates=plan.replicates,
        seed=plan.seed,
        workers=workers,
    )
    _log.info("bootstrap done, %d replicates", plan.replicates)
    pieces = [
        (
            [run.outcome for run in groups[a]],
            [run.outcome for run in groups[b]],
            (groups[a][0].is_baseline, groups[b][0].is_baseline),
        )
        for a, b in declared
    ]
    case_level = {}
    for (a, b), found in zip(
        declared, each_of(partial(_case_level, truth, plan), pieces, workers=workers), strict=True
    ):
        case_level[a, b] = found
        _log.info("%s against %s done", a, b)
    pairs = []
    for metric in plan.metrics:
        of_metric = _compare_by_metric(metric, plan, declared, groups=groups, draws=draws, case_level=case_level)
        for pair in of_metric:
            controls = _controls(pair, of_metric, groups=groups, draws=draws)
            pairs.append(pair.model_copy(update={"controls": controls}))
    source = runs[0].source
    return Verdict(
        parents={run.name: run.metrics_sha256 for run in runs},
        analysis=analysis,
        analysis_name=plan.name,
        card=source.card,
        card_sha256=source.card_sha256,
        alpha=plan.alpha,
        seed=plan.seed,
        replicates=plan.replicates,
        swaps=plan.swaps,
        looks=plan.looks,
        family=len(declared),
        data_licences=tuple(sorted({run.source.data_licence for run in runs})),
        profiles=tuple(sorted({run.source.profile for run in runs})),
        patients=truth.patient_count,
        configurations=tuple(_summary(name, members, draws[name]) for name, members in groups.items()),
        pairs=tuple(pairs),
    )


def _case_level(
    truth: TestSet, plan: Analysis, piece: tuple[Sequence[Outcome], Sequence[Outcome], tuple[bool, bool]]
) -> dict[str, CaseTest]:
    a, b, fixed = piece
    return case_level_tests(truth, a, b, fixed=fixed, draws=plan.swaps, seed=plan.seed)


def _compare_by_metric(
    metric: Metric,
    plan: Analysis,
    declared: Sequence[tuple[str, str]],
    *,
    groups: Mapping[str, Sequence[ScoredRun]],
    draws: Draws,
    case_level: Mapping[tuple[str, str], Mapping[str, CaseTest]],
) -> list[PairVerdict]:
    run_levels = [run_level(metric, groups[a], groups[b], plan) for a, b in declared]
    case_tests = [None if no_common_fold(groups[a], groups[b]) else case_level[a, b].get(metric) for a, b in declared]
    run_holm = holm([level.p for level in run_levels])
    case_holm = holm([test.p if test else None for test in case_tests])
    verdicts = []
    for number, (a, b) in enumerate(declared):
        at_run_level = run_levels[number].model_copy(update={"p_holm": run_holm[number]})
        confounded = no_common_fold(groups[a], groups[b])
        at_case_level = _at_case_level(case_tests[number], case_holm[number], confounded)
        estimate = _difference(groups[a], groups[b], metric)
        difference = draws[a][metric] - draws[b][metric]
        interval = Interval95.of(difference) if estimate is not None else None
        margin = None if estimate is None or confounded else plan.margin.get(metric)
        equivalence = _equivalence(difference, margin, plan.alpha)
        applies = no_exchange(groups[a], groups[b]) is None
        above = at_run_level.probability_above
        order_agrees = above in (None, 0.5) or estimate is None or (above - 0.5) * estimate > 0
        code = decide(
            estimate=estimate,
            interval=interval,
            run_level_p_holm=run_holm[number],
            case_level_p_holm=case_holm[number],
            run_level_applies=applies,
            spread_known=all(len(groups[name]) > 1 or groups[name][0].is_baseline for name in (a, b)),
            equivalent=equivalence is not None and equivalence.shown,
            alpha=plan.alpha,
            run_level_alpha=at_run_level.alpha,
            order_agrees=order_agrees,
            comparable=confounded is None,
        )
        said = sentence(code, a=a, b=b, metric=metric, estimate=estimate, run_level_applies=applies)
        if confounded:
            said = NOT_TESTED.format(metric=METRIC_NAMES[metric], a=a, b=b, reason=confounded)
        elif not order_agrees and (run_holm[number] or 0) <= at_run_level.alpha:
            said = _disagreement(metric, groups[a], groups[b], ordered=a if (above or 0) > 0.5 else b)
        verdicts.append(
            PairVerdict(
                a=a,
                b=b,
                metric=metric,
                estimate=estimate,
                interval=interval,
                delong_interval=_delong(groups[a], groups[b]) if metric == "auroc" else None,
                run_level_p=at_run_level.p,
                case_level_p=at_case_level.p,
                run_level=at_run_level,
                case_level=at_case_level,
                equivalence=equivalence,
                non_inferiority=_non_inferiority(difference, margin, plan.alpha),
                ensemble=_claimed_ensemble(groups, a, b),
                controls=(),
                code=code,
                sentence=said,
            )
        )
    return verdicts


def _disagreement(metric: Metric, a: Sequence[ScoredRun], b: Sequence[ScoredRun], *, ordered: str) -> str:
    """The sentence where order and means disagree, with the run farthest from the median of its arm."""
    names = [arm[0].source.configuration for arm in (a, b)]
    farthest = max(
        (abs(value - float(np.median(values))), run.name)
        for arm in (a, b)
        if (values := [each for each in run_values(arm, metric) if each is not None])
        for run, value in zip(arm, values, strict=True)
    )
    return DISAGREE.format(
        metric=METRIC_NAMES[metric],
        a=names[0],
        b=names[1],
        ordered=ordered,
        favoured=next(name for name in names if name != ordered),
        run=farthest[1],
    )


def _at_case_level(test: CaseTest | None, p_holm: float | None, reason: str | None) -> CaseLevel:
    swaps, both = (test.swaps, test.runs_and_cases) if test else (None, None)
    return CaseLevel(
        p=test.p if test else None,
        p_holm=p_holm,
        p_of_swaps=swaps.p if swaps else None,
        p_interval=swaps.p_interval if swaps else None,
        exact=bool(swaps and swaps.exact),
        swaps=None if swaps is None or swaps.exact else swaps.arrangements,
        p_of_runs_and_cases=both.p if both else None,
        degrees_of_freedom=both.degrees_of_freedom if both else None,
        reason=reason,
    )


def _summary(name: str, members: Sequence[ScoredRun], draws: Mapping[str, FloatArray]) -> ConfigurationSummary:
    first = members[0]
    kind: Kind = "baseline" if first.is_baseline else "ensemble" if first.is_ensemble else "configuration"
    keys = first.strict.lesion_sensitivity_at_fp
    return ConfigurationSummary(
        name=name,
        kind=kind,
        runs=len(members),
        cases=first.strict.cases,
        positive_cases=first.strict.positive_cases,
        lesions=first.strict.lesions,
        missing=sum(run.strict.missing for run in members),
        candidate_free_cases=sum(run.candidate_free_cases for run in members),
        trained_on={run.name: 0 if run.is_baseline else run.trained_on for run in members},
        metrics={metric: _metric_summary(metric, members, draws[metric]) for metric in METRICS},
        lesion_sensitivity_at_fp={
            key: _mean([run.strict.lesion_sensitivity_at_fp.get(key) for run in members]) for key in keys
        },
    )


def _metric_summary(metric: Metric, members: Sequence[ScoredRun], draws: FloatArray) -> MetricSummary:
    values = run_values(members, metric)
    mean = _mean(values)
    defined = [value for value in values if value is not None]
    return MetricSummary(
        mean=mean,
        sd=float(np.std(defined, ddof=1)) if mean is not None and len(defined) > 1 else None,
        interval=Interval95.of(draws) if mean is not None else None,
        delong_interval=_delong(members, ()) if metric == "auroc" else None,
        runs={run.name: value for run, value in zip(members, values, strict=True)},
        picai_mean=_mean([getattr(run.picai, metric) for run in members]),
        reason=None if mean is not None else members[0].strict.reason,
    )


def _delong(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> tuple[float, float] | None:
    return delong_interval(a[0].truth, [run.outcome for run in a], [run.outcome for run in b], level=0.95)


def _equivalence(difference: FloatArray, margin: float | None, alpha: float) -> Equivalence | None:
    level = 1 - 2 * alpha
    found = percentile_interval(difference, level=level)
    if margin is None or found is None:
        return None
    shown = -margin < found.low and found.high < margin
    return Equivalence(margin=margin, interval=(found.low, found.high), level=level, shown=shown)


def _non_inferiority(difference: FloatArray, margin: float | None, alpha: float) -> NonInferiority | None:
    found = percentile_interval(difference, level=1 - 2 * alpha)
    if margin is None or found is None:
        return None
    return NonInferiority(
        margin=margin,
        level=1 - alpha,
        lower_bound_of_a=found.low,
        lower_bound_of_b=-found.high,
        a_not_inferior=found.low > -margin,
        b_not_inferior=-found.high > -margin,
    )


def _claimed_ensemble(groups: Mapping[str, Sequence[ScoredRun]], a: str, b: str) -> str | None:
    """The ensemble that a comparison makes a claim about: the one side that mixes configurations."""
    mixed = [name for name in (a, b) if groups[name][0].is_ensemble and not groups[name][0].is_control]
    return mixed[0] if len(mixed) == 1 and not any(groups[name][0].is_control for name in (a, b)) else None


def _controls(
    pair: PairVerdict, compared: Sequence[PairVerdict], *, groups: Mapping[str, Sequence[ScoredRun]], draws: Draws
) -> tuple[Control, ...]:
    """Every control with as many runs as the ensemble that the pair makes a claim about."""
    if pair.ensemble is None:
        return ()
    size = {len(run.source.runs) for run in groups[pair.ensemble]}
    found = []
    for name, members in groups.items():
        if not members[0].is_control or {len(run.source.runs) for run in members} != size:
            continue
        estimate = _difference(groups[pair.ensemble], members, pair.metric)
        interval = Interval95.of(draws[pair.ensemble][pair.metric] - draws[name][pair.metric])
        found.append(
            Control(
                control=name,
                estimate=estimate,
                interval=None if estimate is None else interval,
                code=_code_of(compared, pair.ensemble, name),
            )
        )
    return tuple(found)


def _code_of(compared: Sequence[PairVerdict], first: str, second: str) -> Code | None:
    """Code of a comparison, from the side of the first; None where it was not made."""
    reversed_code: Mapping[Code, Code] = {"better": "worse", "worse": "better"}
    for pair in compared:
        if (pair.a, pair.b) == (first, second):
            return pair.code
        if (pair.a, pair.b) == (second, first):
            return reversed_code.get(pair.code, pair.code)
    return None


def _difference(a: Sequence[ScoredRun], b: Sequence[ScoredRun], metric: Metric) -> float | None:
    """Difference of the means over runs; None where a run's metric is undefined."""
    first, second = (_mean(run_values(arm, metric)) for arm in (a, b))
    return None if first is None or second is None else first - second


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined and len(defined) == len(values) else None
