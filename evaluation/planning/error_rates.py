"""Error rates by simulation: false differences, coverage of intervals, false claims of *on par*."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evaluation.planning.plan_record import (
    AnswerTable,
    PlannedDesign,
    PlanRecord,
    Share,
    assumptions_text,
    designs_of,
    plan_record,
    shares_of,
)
from evaluation.planning.simulation import (
    RATES,
    SCENARIOS,
    ErrorRate,
    SimulationSettings,
    any_false_on_par,
    error_rates,
    is_approximate,
    scenario,
)
from evaluation.statistics.analysis_file import METRIC_NAMES

_log = logging.getLogger(__name__)

_HEADINGS = ("test set", "new data", "covered", "one run")
"""Column headings of :data:`evaluation.planning.simulation.RATES`."""


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
) -> tuple[PlanRecord, AnswerTable]:
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
    for n, m in designs_of(runs, cases):
        errors = {}
        rows.append([f"{n} runs, {m} cases", *("" for _ in RATES)])
        for name in SCENARIOS:
            asked = scenario(replace(settings, runs=n, cases=m), name)
            errors[name] = error_rates(asked, studies=studies, alpha=alpha, seed=seed, workers=workers)
            approximate = is_approximate(asked)
            rates[approximate].append(errors[name][RATES[1]].value)
            rows.append([f"{name}{' ≈' * approximate}", *(f"{100 * errors[name][rate].value:.1f}" for rate in RATES)])
        designs.append(
            PlannedDesign(runs=n, cases=m, shown={}, errors={name: shares_of(rates) for name, rates in errors.items()})
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
        n, m = designs_of(runs, cases)[-1]
        family = replace(settings, runs=n, cases=m, difference=margin)
        on_par = any_false_on_par(
            family, comparisons=comparisons, studies=studies, alpha=alpha, seed=seed, workers=workers
        )
        sentence += (
            f" Of {comparisons} configurations that differ from a reference by {margin:g}, any is declared on par in "
            f"{_percent(on_par)} of studies."
        )
    record = plan_record(
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
        f"holds 0. One run: of each configuration, taken for the method. {assumptions_text(settings)}"
    )
    header = ["nothing differs", *_HEADINGS]
    return record, AnswerTable(f"Errors by {METRIC_NAMES[settings.metric]}, per cent", header, rows, note, sentence)


def _range(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" if shares else ""


def _percent(rate: ErrorRate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
