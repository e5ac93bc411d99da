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
from contract.files.reading import sha256_file
from contract.records import Record, read_record
from contract.schema import Frozen
from evaluation.metrics.outcomes import FloatArray
from evaluation.metrics.scored_runs import ScoredRun, group_by_configuration, read_scored_runs
from evaluation.planning.group_sequential import InterimResult, interim_analysis, looks_that_cannot_stop, simulate_looks
from evaluation.planning.simulation import (
    RATES,
    SCENARIOS,
    ErrorRate,
    SimulationSettings,
    any_false_on_par,
    error_rates,
    is_approximate,
    power,
    scenario,
    separation_of,
)
from evaluation.statistics.analysis_file import METRIC_NAMES, Metric, read_analysis
from evaluation.statistics.influence import MetricByPatient, by_patient, own_variance_by_cases

_HEADINGS = ("test set", "new data", "covered", "one run")
"""Of :data:`evaluation.planning.simulation.RATES`."""

_ASSUMED = {"auroc", "prevalence", "run_sd"}
"""What the sentence on the sample size needs of a plan's assumptions."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """What is shown of an answer."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    answer: str = ""
    """The last line."""


class Share(Frozen):
    """A share of simulated studies, with its 95 % interval."""

    share: float
    interval: tuple[float, float]


class Design(Frozen):
    """So many runs per configuration on so many cases, and how often they show the difference."""

    runs: int
    cases: int
    shown: Mapping[str, Share]
    """``this test set``, ``better`` and, with a margin, ``on par``."""
    errors: Mapping[str, Mapping[str, Share]] = {}
    """By what "no difference" means (:data:`evaluation.planning.simulation.SCENARIOS`) and by rate."""


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
    any_false_on_par: Share | None = None
    """Of a family that differs from its reference by the margin; null where that was not asked."""
    sentence: str


def read_plan(path: Path, metrics: Sequence[Metric]) -> PlanRecord:
    """Read the record of ``plan power``.

    Parameters
    ----------
    metrics
        Those that are compared; the plan's must be one of them.

    Raises
    ------
    OncoduetError
        The file is no such record, or plans another metric.
    """
    record = read_record(path, PlanRecord)
    if (
        not record.designs
        or not all(each.shown for each in record.designs)
        or not record.assumptions.keys() >= _ASSUMED
    ):
        raise OncoduetError(path, expected="a plan of power", found=record.question)
    if record.metric not in metrics:
        compared = ", ".join(METRIC_NAMES[metric] for metric in metrics)
        raise OncoduetError(path, expected=f"a plan for {compared}", found=METRIC_NAMES[record.metric])
    return record


def sample_size(record: PlanRecord, *, runs: int, cases: int) -> str:
    """How the sample size was planned, for a paper: with the power of the scored design where it was planned.

    Parameters
    ----------
    runs, cases
        Scored: the fewest runs of a trained configuration, and the cases.
    """
    asked = "better" if record.assumptions.get("difference") else "on par"
    assumed = record.assumptions
    origin = "taken from a pilot" if record.pilot else "assumed"
    said = (
        f"The sample size was planned by simulation of {record.studies} studies per design ({record.question}; "
        f"two-sided α = {record.alpha:g}, {record.comparisons} comparison{'s' if record.comparisons > 1 else ''}; "
        f"AUROC {assumed['auroc']:.3f}, prevalence {assumed['prevalence']:.2f} and a standard deviation between runs "
        f"of {assumed['run_sd']:.4f} {origin})."
    )
    for design in record.designs:
        if (design.runs, design.cases) == (runs, cases) and asked in design.shown:
            found = design.shown[asked]
            low, high = (100 * bound for bound in found.interval)
            return (
                f"{said} With {runs} runs per configuration and {cases} cases, as scored, the power was "
                f"{100 * found.share:.0f} % (95 % CI {low:.0f} to {high:.0f} %)."
            )
    scored = f"Scored were {runs} runs per configuration on {cases} cases, which was none of the planned designs."
    return f"{said} {record.sentence} {scored}"


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
    """Tell by simulation how many runs and cases show ``settings.difference``, or that two configurations are on par.

    Parameters
    ----------
    settings
        What is assumed; its numbers of runs and cases are replaced by those of the grid. Without a difference the
        question is how often ``margin`` shows that the two are on par.
    target
        Target power.
    comparisons
        Of the family: each is tested at alpha over this number, which is Holm's first step and so on the safe side.

    Raises
    ------
    OncoduetError
        There is neither a difference nor a margin.
    """
    if settings.difference == 0 and margin is None:
        raise OncoduetError("--difference", expected="a difference, or --margin to show that two are on par", found=0)
    designs = []
    for n, m in _grid(runs, cases):
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
    asked = "better" if settings.difference else "on par"
    goal = (
        f"a difference of {settings.difference:g}" if settings.difference else f"that two are on par within ±{margin:g}"
    )
    sentence = _answer(designs, asked, goal, target)
    record = _record(
        f"power to show {goal} in {METRIC_NAMES[settings.metric]}",
        settings,
        alpha=alpha,
        comparisons=comparisons,
        studies=studies,
        seed=seed,
        designs=tuple(designs),
        pilot=dict(pilot or {}),
        sentence=sentence,
    )
    names = [name for name in designs[0].shown if settings.difference or name == "on par"]
    rows = [
        [str(each.runs), str(each.cases), *(f"{100 * each.shown[name].share:.0f} %" for name in names)]
        for each in designs
    ]
    meaning = {
        "this test set": "This test set: the runs rank differently on it.",
        "better": "Better: a difference is shown for new runs and new cases.",
        "on par": f"On par: equivalence within ±{margin} is shown, at a true difference of {settings.difference:g}.",
    }
    note = (
        f"{studies} simulated studies per row (± {100 * 1.96 * math.sqrt(0.25 / studies):.0f} points at most). "
        f"{' '.join(meaning[name] for name in names)} {_assumed(settings)}"
    )
    title = f"Power to show {goal} in {METRIC_NAMES[settings.metric]}"
    return record, Table(title, ["runs", "cases", *names], rows, note, sentence)


def plan_errors(
    settings: SimulationSettings,
    *,
    runs: Sequence[int],
    cases: Sequence[int],
    alpha: float,
    comparisons: int,
    margin: float | None,
    studies: int,
    seed: int,
    workers: int = 1,
    pilot: Mapping[str, float] | None = None,
) -> tuple[PlanRecord, Table]:
    """Show by simulation how often the tests see a difference where there is none, and how often the interval covers.

    Parameters
    ----------
    settings
        What is assumed; its numbers of runs and cases are replaced by those of the grid.
    comparisons, margin
        How often any of so many configurations, which all differ from a reference by the margin, is declared on par
        with it; asked of the largest design.
    """
    designs, rows = [], []
    rates: dict[bool, list[float]] = {False: [], True: []}  # by whether p is approximate
    for n, m in _grid(runs, cases):
        errors = {}
        rows.append([f"{n} runs, {m} cases", *("" for _ in RATES)])
        for name in SCENARIOS:
            asked = scenario(replace(settings, runs=n, cases=m), name)
            errors[name] = error_rates(asked, studies=studies, alpha=alpha, seed=seed, workers=workers)
            approximate = is_approximate(asked)
            rates[approximate].append(errors[name][RATES[1]].value)
            rows.append([f"{name}{' ≈' * approximate}", *(f"{100 * errors[name][rate].value:.1f}" for rate in RATES)])
        designs.append(
            Design(runs=n, cases=m, shown={}, errors={name: _shares(rates) for name, rates in errors.items()})
        )
        _log.info("%d runs per configuration, %d cases: done", n, m)
    said = []
    if rates[False]:
        said.append(f"{_range(rates[False])} of studies show a difference for new runs and cases")
    if rates[True]:
        said.append(f"{_range(rates[True])} where p is marked as approximate (≈)")
    sentence = f"Where nothing differs, {', '.join(said)}; {100 * alpha:g} % are allowed."
    on_par = None
    if margin is not None:
        n, m = _grid(runs, cases)[-1]
        family = replace(settings, runs=n, cases=m, difference=margin)
        on_par = any_false_on_par(
            family, comparisons=comparisons, studies=studies, alpha=alpha, seed=seed, workers=workers
        )
        sentence += (
            f" Of {comparisons} configurations that differ from a reference by {margin:g}, any is declared on par in "
            f"{_percent(on_par)} of studies."
        )
    record = _record(
        f"errors by {METRIC_NAMES[settings.metric]}",
        settings,
        alpha=alpha,
        comparisons=comparisons,
        studies=studies,
        seed=seed,
        designs=tuple(designs),
        any_false_on_par=None if on_par is None else Share(share=on_par.value, interval=on_par.interval),
        pilot=dict(pilot or {}),
        sentence=sentence,
    )
    note = (
        f"{studies} studies each (± {100 * 1.96 * math.sqrt(alpha * (1 - alpha) / studies):.1f} by the chance of "
        f"simulation), α = {alpha:g}. Test set: the runs rank differently on it, as those of other methods do although "
        "these are equally good. New data: a difference is shown for new runs and new cases. Covered: its interval "
        f"holds 0. One run: of each configuration, taken for the method. {_assumed(settings)}"
    )
    header = ["nothing differs", *_HEADINGS]
    return record, Table(f"Errors by {METRIC_NAMES[settings.metric]}, per cent", header, rows, note, sentence)


def _grid(runs: Sequence[int], cases: Sequence[int]) -> list[tuple[int, int]]:
    return [(n, m) for n in sorted(set(runs)) for m in sorted(set(cases))]


def _answer(designs: Sequence[Design], asked: str, goal: str, target: float) -> str:
    enough = [each for each in designs if each.shown[asked].share >= target]
    if enough:
        best = min(enough, key=lambda each: (each.runs * each.cases, each.runs))
        return (
            f"{best.runs} runs per configuration on {best.cases} cases show {goal} with "
            f"{100 * best.shown[asked].share:.0f} % power: the fewest predictions among these designs that reach "
            f"{100 * target:.0f} %."
        )
    best = max(designs, key=lambda each: each.shown[asked].share)
    return (
        f"None of these designs shows {goal} with {100 * target:.0f} % power; the best, {best.runs} runs on "
        f"{best.cases} cases, reaches {100 * best.shown[asked].share:.0f} %."
    )


def plan_interim_analysis(scores: Sequence[Path], analysis: Path) -> tuple[InterimResult, Table]:
    """Decide whether the campaign of these scored runs can stop.

    Raises
    ------
    OncoduetError
        As :func:`evaluation.metrics.scored_runs.read_scored_runs` and
        :func:`evaluation.planning.group_sequential.interim_analysis`; or one configuration was scored, no pair.
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
    return found, Table("Interim analysis", header, rows, note, found.sentence)


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
        f"{run_sd:g}. Without spending: each look uses all of α.{_cannot_stop(looks_that_cannot_stop(looks, alpha))}"
    )
    return Table("Interim analyses", ["", "shown", "without spending", "mean runs"], rows, note)


def _cannot_stop(looks: Sequence[int]) -> str:
    if not looks:
        return ""
    return f" At {', '.join(map(str, looks))} runs no campaign can stop: p cannot get below the level of that look."


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
            raise OncoduetError(
                run.name, expected=f"a pilot whose {name} cases differ in likelihood", found="one value"
            )
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
    return PlanRecord.model_validate(
        {"question": question, "assumptions": assumptions, "metric": settings.metric, **values}
    )


def _shares(rates: Mapping[str, ErrorRate]) -> dict[str, Share]:
    return {name: Share(share=rate.value, interval=rate.interval) for name, rate in rates.items()}


def _range(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if shares else ""


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
