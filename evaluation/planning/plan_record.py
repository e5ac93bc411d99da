"""The answer of a plan: a table to show, and the record that ``--output`` writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from contract.errors import OncoduetError
from contract.records import Record, read_record
from contract.schema import Frozen
from evaluation.planning.simulation import ErrorRate, SimulationSettings
from evaluation.statistics.analysis_file import METRIC_NAMES, Metric

_ASSUMPTIONS = ("auroc", "difference", "prevalence", "run_sd", "case_share", "method_share", "run_share")
_ASSUMED = {"auroc", "prevalence", "run_sd"}
"""Assumptions that the sentence on the sample size states."""


@dataclass(frozen=True)
class AnswerTable:
    """Table, note and answer to show."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    answer: str = ""
    """Answer in one sentence, the last line."""


class Share(Frozen):
    """A share of simulated studies, with its 95 % interval."""

    share: float
    interval: tuple[float, float]


class PlannedDesign(Frozen):
    """Runs per configuration and cases, and how often they show the difference."""

    runs: int
    cases: int
    shown: Mapping[str, Share]
    """Share of studies that show ``this test set``, ``better`` and, with a margin, ``on par``."""
    errors: Mapping[str, Mapping[str, Share]] = {}
    """Shares by meaning of "no difference" (:data:`evaluation.planning.simulation.SCENARIOS`) and by rate."""


class PlanRecord(Record):
    """``plan.json``."""

    question: str
    metric: Metric
    assumptions: Mapping[str, float]
    pilot: Mapping[str, float]
    """Values from the pilot; empty without one."""
    alpha: float
    comparisons: int
    studies: int
    seed: int
    designs: tuple[PlannedDesign, ...]
    any_false_on_par: Share | None = None
    """Share where any of a family that differs from its reference by the margin is on par; null unless asked."""
    sentence: str


def read_plan(path: Path, metrics: Sequence[Metric]) -> PlanRecord:
    """Read the record of ``plan power``.

    Parameters
    ----------
    metrics
        Compared metrics; the plan's must be one of them.

    Raises
    ------
    OncoduetError
        The file is not such a record, or plans another metric.
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


@dataclass(frozen=True)
class SimulatedDesigns:
    """Which designs are simulated, and how."""

    settings: SimulationSettings
    """Assumptions; their numbers of runs and cases are replaced by those of the designs."""
    runs: Sequence[int]
    cases: Sequence[int]
    alpha: float
    comparisons: int
    """Size of the family."""
    margin: float | None
    """For equivalence; None: not asked."""
    studies: int
    """Simulated studies per design."""
    seed: int
    workers: int = 1
    pilot: Mapping[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[SimulationSettings]:
        """The settings of every number of runs with every number of cases, ascending."""
        for runs in sorted(set(self.runs)):
            for cases in sorted(set(self.cases)):
                yield replace(self.settings, runs=runs, cases=cases)

    def record(self, question: str, designs: Sequence[PlannedDesign], sentence: str, **more: object) -> PlanRecord:
        """The answer's record, with the settings as assumptions."""
        settings = self.settings
        assumptions = {name: getattr(settings, name) for name in _ASSUMPTIONS}
        values = {name: getattr(self, name) for name in ("alpha", "comparisons", "studies", "seed")}
        return PlanRecord.model_validate(
            {
                "question": question,
                "assumptions": assumptions,
                "metric": settings.metric,
                **values,
                "pilot": dict(self.pilot),
                "designs": tuple(designs),
                "sentence": sentence,
                **more,
            }
        )


def shares_of(rates: Mapping[str, ErrorRate]) -> dict[str, Share]:
    """Rates as they are recorded."""
    return {name: Share(share=rate.value, interval=rate.interval) for name, rate in rates.items()}


def assumptions_text(settings: SimulationSettings) -> str:
    """The assumptions in one sentence, for the note below a table."""
    value = "" if settings.metric == "auroc" else f" and so {METRIC_NAMES[settings.metric]} {settings.value:.3f}"
    candidates = "" if settings.metric == "auroc" else " One candidate per case, one lesion per positive case."
    return (
        f"Assumed: AUROC {settings.auroc:.3f}{value}, prevalence {settings.prevalence:.2f}, spread between runs "
        f"{settings.run_sd:.4f}; "
        f"variance by case {settings.case_share:.2f}, method × case {settings.method_share:.2f}, run × case "
        f"{settings.run_share:.2f}.{candidates}"
    )
