"""Error rates by simulation: false differences, coverage of intervals, false claims of *on par*."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from evaluation.planning.plan_record import (
    AnswerTable,
    PlannedDesign,
    PlanRecord,
    Share,
    SimulatedDesigns,
    assumptions_text,
    shares_of,
)
from evaluation.planning.simulation import (
    RATES,
    SCENARIOS,
    ErrorRate,
    any_false_on_par,
    error_rates,
    is_approximate,
    scenario,
)
from evaluation.statistics.analysis_file import METRIC_NAMES

_log = logging.getLogger(__name__)

_HEADINGS = ("test set", "new data", "covered", "one run")
"""Column headings of :data:`evaluation.planning.simulation.RATES`."""


def plan_errors(planned: SimulatedDesigns) -> tuple[PlanRecord, AnswerTable]:
    """Show by simulation how often the tests see a difference where there is none, and how often the interval covers.

    With a margin also, for the largest design, how often any of the family's comparisons is declared on par with a
    reference from which all of them differ by the margin.
    """
    settings, alpha, studies = planned.settings, planned.alpha, planned.studies
    margin, comparisons = planned.margin, planned.comparisons
    rates_of = partial(error_rates, studies=studies, alpha=alpha, seed=planned.seed, workers=planned.workers)
    designs, rows = [], []
    rates: dict[bool, list[float]] = {False: [], True: []}  # by whether p is approximate
    for design in planned:
        errors = {}
        rows.append([f"{design.runs} runs, {design.cases} cases", *("" for _ in RATES)])
        for name in SCENARIOS:
            asked = scenario(design, name)
            errors[name] = rates_of(asked)
            approximate = is_approximate(asked)
            rates[approximate].append(errors[name][RATES[1]].value)
            rows.append([f"{name}{' ≈' * approximate}", *(f"{100 * errors[name][rate].value:.1f}" for rate in RATES)])
        shares = {name: shares_of(rates) for name, rates in errors.items()}
        designs.append(PlannedDesign(runs=design.runs, cases=design.cases, shown={}, errors=shares))
        _log.info("%d runs per configuration, %d cases: done", design.runs, design.cases)
    said = []
    if rates[False]:
        said.append(f"{_range(rates[False])} of studies show a difference for new runs and cases")
    if rates[True]:
        said.append(f"{_range(rates[True])} where p is marked as approximate (≈)")
    sentence = f"Where nothing differs, {', '.join(said)}; {100 * alpha:g} % are allowed."
    on_par = None
    if margin is not None:
        family = replace(list(planned)[-1], difference=margin)
        on_par = any_false_on_par(
            family,
            comparisons=comparisons,
            studies=studies,
            alpha=alpha,
            seed=planned.seed,
            workers=planned.workers,
        )
        sentence += (
            f" Of {comparisons} configurations that differ from a reference by {margin:g}, any is declared on par in "
            f"{_percent(on_par)} of studies."
        )
    record = planned.record(
        f"errors by {METRIC_NAMES[settings.metric]}",
        designs,
        sentence,
        any_false_on_par=None if on_par is None else Share(share=on_par.value, interval=on_par.interval),
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
