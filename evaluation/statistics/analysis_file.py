"""The analysis file: declares, before anything is scored, which comparisons will be made and with which margin.

::

    name = "losses for csPCa"
    metrics = ["auroc", "ap", "score"]
    primary = "auroc"            # which of them the paper's conclusion rests on; the others are exploratory then
    comparisons = [["ce", "focal"], ["ce", "ce-focal"]]   # or "all"
    alpha = 0.05
    seed = 0
    replicates = 200             # for the bands of curves
    swaps = 10000
    subgroups = ["center"]       # columns of the marksheet
    looks = [5, 10, 20]          # runs per configuration at which a running campaign may be stopped

    prevalence = 0.033           # for which PPV, NPV and AP are shown too

    [partial_auroc]
    of = "specificity"           # or "sensitivity": the area where it is at least this
    at_least = 0.8

    [readers]                    # for --readers
    threshold = 3                # of their scores
    margin = 0.05                # of non-inferiority

    [lesions]                    # strata in which lesion sensitivity is shown; default: the two sizes
    strata = ["volume_ml", "diameter_mm", "zone"]   # other names are columns of --lesions
    false_positives_per_case = 1 # each run's threshold; or threshold = 0.4 of confidence
    cuts.volume_ml = [0.5, 1.5]  # default: the median

    [margin]                     # absolute difference that counts as none; without it nothing can be on par
    auroc = 0.03
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from contract.errors import OncoduetError
from contract.names import duplicates
from contract.schema import Frozen, Shown, parse_toml
from evaluation.statistics.alpha_spending import nominal_levels

Metric = Literal["auroc", "ap", "score"]
Endpoint = Literal["primary", "exploratory"]
METRICS: tuple[Metric, ...] = ("auroc", "ap", "score")
METRIC_NAMES: Mapping[str, str] = {"auroc": "AUROC", "ap": "AP", "score": "score"}


MOST_RUNS = 20
"""Most runs of one configuration; up to here the run level is exact for means too."""


class ReadersPlan(Frozen):
    """How configurations are compared with human readers."""

    threshold: float | None = None
    """Smallest positive score of the readers, which defines their operating point."""
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Non-inferiority margin: of the primary metric if readers have it, else of AUROC, or of AP where no other metric
    is compared."""


class PartialAuroc(Frozen):
    """Which part of the ROC curve is shown."""

    of: Literal["specificity", "sensitivity"] = "specificity"
    at_least: Annotated[float, Field(gt=0, lt=1)] = 0.8


SIZES = ("volume_ml", "diameter_mm")
"""Sizes that ``score`` records of every lesion."""


class LesionPlan(Frozen):
    """Strata of lesions, and the operating point at which they are found."""

    strata: Annotated[tuple[Shown, ...], Field(min_length=1)] = SIZES
    """Names of strata: sizes, or columns of the table of lesions."""
    cuts: Mapping[Shown, Annotated[tuple[float, ...], Field(min_length=1)]] = {}
    """Cut points by numerical stratum; default: the median."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """Threshold of confidence; without one each run's threshold is that of ``false_positives_per_case``."""
    false_positives_per_case: Annotated[float, Field(gt=0)] | None = None

    @property
    def rate(self) -> float | None:
        """False positives per case that choose the threshold; None where it is declared."""
        return None if self.threshold is not None else self.false_positives_per_case or 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = []
        if len(set(self.strata)) < len(self.strata):
            faults.append("duplicate stratum")
        faults += [f"cuts of {name}, which is no stratum" for name in self.cuts if name not in self.strata]
        faults += [f"cuts of {name} do not rise" for name, cuts in self.cuts.items() if list(cuts) != sorted(set(cuts))]
        if self.threshold is not None and self.false_positives_per_case is not None:
            faults.append("both a threshold and false_positives_per_case")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Analysis(Frozen):
    """What is compared, and how."""

    schema_version: Literal[1] = 1
    name: Shown
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = METRICS
    primary: Metric | None = None
    """The metric of the conclusion; the summary leads with it, and all others are exploratory. Without one each metric
    is a family of its own."""
    comparisons: Literal["all"] | Annotated[tuple[tuple[Shown, Shown], ...], Field(min_length=1)] = "all"
    """Pairs of configurations, ``all`` or those listed; by each metric they are one family for Holm."""
    margin: Mapping[Metric, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Equivalence margin by metric: two configurations are on par if their difference is within ± this."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    seed: NonNegativeInt = 0
    replicates: Annotated[int, Field(ge=100, le=100_000)] = 200
    """Bootstrap replicates for the bands of curves."""
    swaps: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """Number of swaps drawn for a case-level test that is not exact."""
    looks: tuple[Annotated[int, Field(ge=2, le=MOST_RUNS)], ...] = ()
    """Runs per configuration at each interim analysis, the last being the planned number; without any the campaign is
    analysed once, when it is finished (:mod:`evaluation.planning.group_sequential`)."""

    subgroups: tuple[Shown, ...] = ()
    """Columns of the marksheet that define groups of cases (:mod:`~evaluation.statistics.subgroups.case_subgroups`)."""

    lesions: LesionPlan | None = None
    """Strata of lesions; default: sizes, where recorded."""

    prevalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Prevalence for which PPV, NPV and AP are shown too."""

    partial_auroc: PartialAuroc = PartialAuroc()

    readers: ReadersPlan = ReadersPlan()
    """Comparison with the readers of ``--readers``."""

    _path: Path | None = None

    @property
    def where(self) -> str:
        """The file it was read from, or its name, for errors."""
        return str(self._path or self.name)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = []
        if len(set(self.metrics)) < len(self.metrics):
            faults.append("duplicate metric")
        faults += [
            f"margin for {metric}, which is not compared" for metric in self.margin if metric not in self.metrics
        ]
        if self.primary is not None and self.primary not in self.metrics:
            faults.append(f"primary metric {self.primary}, which is not compared")
        if list(self.looks) != sorted(set(self.looks)):
            faults.append(f"looks do not rise: {', '.join(map(str, self.looks))}")
        if self.comparisons != "all":
            faults += [f"{a} is compared with itself" for a, b in self.comparisons if a == b]
            doubled = duplicates(" and ".join(sorted(pair)) for pair in self.comparisons)
            faults += [f"duplicate comparison of {pair}" for pair in doubled]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def endpoint(self, metric: Metric) -> Endpoint | None:
        """Declared role of a metric; None without a primary metric."""
        if self.primary is None:
            return None
        return "primary" if metric == self.primary else "exploratory"

    def level_at(self, runs: Sequence[int]) -> float:
        """Level of the tests at these numbers of runs per configuration: alpha, or that of the look that is due.

        Between looks, and where configurations have different numbers of runs, no look is due: 0, nothing is decided.
        """
        if not self.looks:
            return self.alpha
        counts = set(runs)
        return nominal_levels(self.looks, self.alpha)[self.looks.index(counts.pop())] if self._is_look(counts) else 0.0

    def _is_look(self, counts: set[int]) -> bool:
        return len(counts) == 1 and counts <= set(self.looks)

    def not_due(self, runs: Sequence[int]) -> str | None:
        """Why nothing is decided at these numbers of runs per configuration; None where something is."""
        if not self.looks or self.level_at(runs):
            return None
        return "this look is too early to decide anything" if self._is_look(set(runs)) else "no look is due"

    def require_planned(self, runs: Mapping[str, int]) -> None:
        """Refuse more runs of a configuration than the looks plan: alpha is spent by then."""
        most = max(runs, key=lambda name: runs[name], default=None)
        if self.looks and most is not None and runs[most] > self.looks[-1]:
            raise OncoduetError(
                self.where, expected=f"at most {self.looks[-1]} runs of {most} (looks)", found=runs[most]
            )

    def pairs(self, configurations: Sequence[str], where: object) -> list[tuple[str, str]]:
        """The pairs to compare among the configurations that were scored.

        Raises
        ------
        OncoduetError
            A declared configuration was not scored.
        """
        if self.comparisons == "all":
            return list(combinations(configurations, 2))
        unknown = sorted({name for pair in self.comparisons for name in pair} - set(configurations))
        if unknown:
            raise OncoduetError(
                where,
                expected=f"comparisons of the scored configurations {', '.join(configurations)}",
                found=", ".join(unknown),
            )
        return list(self.comparisons)


EXPLORATORY = Analysis(name="exploratory")
"""Analysis without an analysis file: all pairs, no margin."""


def read_analysis(path: Path) -> Analysis:
    """Read an analysis file; an ``OncoduetError`` names every fault in it."""
    analysis = parse_toml(path, Analysis)
    analysis._path = path
    return analysis
