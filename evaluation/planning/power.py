"""Power by simulation: how many runs and cases show a difference, or that two configurations are on par."""

import logging
import math
from collections.abc import Sequence

from contract.errors import OncoduetError
from evaluation.planning.plan_record import (
    AnswerTable,
    PlannedDesign,
    PlanRecord,
    SimulatedDesigns,
    assumptions_text,
    shares_of,
)
from evaluation.planning.simulation import power
from evaluation.statistics.analysis_file import METRIC_NAMES

_log = logging.getLogger(__name__)


def sample_size(record: PlanRecord, *, runs: int, cases: int) -> str:
    """How the sample size was planned, for a paper; with the power of the scored design if it was planned.

    Parameters
    ----------
    runs, cases
        Scored runs (fewest of a trained configuration) and cases.
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


def plan_power(asked: SimulatedDesigns, *, target: float) -> tuple[PlanRecord, AnswerTable]:
    """Simulate how many runs and cases show the settings' difference, or that two configurations are on par.

    Parameters
    ----------
    asked
        Without a difference the question is how often the margin shows that the two are on par. Each of the
        comparisons is tested at alpha over their number, Holm's first step, which is conservative.
    target
        Target power.

    Raises
    ------
    OncoduetError
        There is neither a difference nor a margin.
    """
    settings, margin, studies = asked.settings, asked.margin, asked.studies
    if settings.difference == 0 and margin is None:
        raise OncoduetError("--difference", expected="a difference, or --margin to show that two are on par", found=0)
    designs = []
    for each in asked:
        found = power(
            each,
            studies=studies,
            alpha=asked.alpha / asked.comparisons,
            seed=asked.seed,
            margin=margin,
            workers=asked.workers,
        )
        designs.append(PlannedDesign(runs=each.runs, cases=each.cases, shown=shares_of(found)))
        _log.info("%d runs per configuration, %d cases: done", each.runs, each.cases)
    claim = "better" if settings.difference else "on par"
    goal = (
        f"a difference of {settings.difference:g}" if settings.difference else f"that two are on par within ±{margin:g}"
    )
    sentence = _answer(designs, claim, goal, target)
    record = asked.record(f"power to show {goal} in {METRIC_NAMES[settings.metric]}", designs, sentence)
    names = [name for name in designs[0].shown if settings.difference or name == "on par"]
    rows = [
        [str(design.runs), str(design.cases), *(f"{100 * design.shown[name].share:.0f} %" for name in names)]
        for design in designs
    ]
    meaning = {
        "this test set": "This test set: the runs rank differently on it.",
        "better": "Better: a difference is shown for new runs and new cases.",
        "on par": f"On par: equivalence within ±{margin} is shown, at a true difference of {settings.difference:g}.",
    }
    note = (
        f"{studies} simulated studies per row (± {100 * 1.96 * math.sqrt(0.25 / studies):.0f} points at most). "
        f"{' '.join(meaning[name] for name in names)} {assumptions_text(settings)}"
    )
    title = f"Power to show {goal} in {METRIC_NAMES[settings.metric]}"
    return record, AnswerTable(title, ["runs", "cases", *names], rows, note, sentence)


def _answer(designs: Sequence[PlannedDesign], claim: str, goal: str, target: float) -> str:
    enough = [each for each in designs if each.shown[claim].share >= target]
    if enough:
        best = min(enough, key=lambda each: (each.runs * each.cases, each.runs))
        return (
            f"{best.runs} runs per configuration on {best.cases} cases show {goal} with "
            f"{100 * best.shown[claim].share:.0f} % power: the fewest predictions among these designs that reach "
            f"{100 * target:.0f} %."
        )
    best = max(designs, key=lambda each: each.shown[claim].share)
    return (
        f"None of these designs shows {goal} with {100 * target:.0f} % power; the best, {best.runs} runs on "
        f"{best.cases} cases, reaches {100 * best.shown[claim].share:.0f} %."
    )
