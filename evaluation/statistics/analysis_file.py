"""The analysis file: declares, before anything is scored, which comparisons will be made and with which margin.

::

    name = "losses for csPCa"
    metrics = ["auroc", "ap", "score"]
    comparisons = [["ce", "focal"], ["ce", "ce-focal"]]   # or "all"
    alpha = 0.05
    seed = 0
    replicates = 2000
    swaps = 10000
    subgroups = ["center"]       # columns of the marksheet
    looks = [5, 10, 20]          # runs per configuration at which a running campaign may be stopped

    [margin]                     # absolute difference that counts as none; without it nothing is shown to be on par
    auroc = 0.03
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from contract.errors import OncoduetError
from contract.schema import Frozen, parse_toml

Metric = Literal["auroc", "ap", "score"]
METRICS: tuple[Metric, ...] = ("auroc", "ap", "score")


class Analysis(Frozen):
    """What is compared, and how."""

    schema_version: Literal[1] = 1
    name: str
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = METRICS
    comparisons: Literal["all"] | Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] = "all"
    """Pairs of configurations; ``all`` of them, or those listed. With the metric they are Holm's family."""
    margin: Mapping[Metric, Annotated[float, Field(gt=0, lt=1)]] = {}
    """By metric: two configurations are on par if their difference is within ± this."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    seed: NonNegativeInt = 0
    replicates: Annotated[int, Field(ge=100, le=100_000)] = 2_000
    """Number of bootstrap replicates."""
    swaps: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """Number of swaps drawn for a case-level test that is not exact."""
    looks: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Interim analyses: runs per configuration at each, the last one being the planned number; without any the campaign
    is analysed once, when it is finished (:mod:`evaluation.planning.group_sequential`)."""

    subgroups: tuple[str, ...] = ()
    """Columns of the marksheet whose values define groups of cases (:mod:`evaluation.statistics.subgroups`)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        faults = []
        if len(set(self.metrics)) < len(self.metrics):
            faults.append("duplicate metric")
        faults += [
            f"margin for {metric}, which is not compared" for metric in self.margin if metric not in self.metrics
        ]
        if list(self.looks) != sorted(set(self.looks)):
            faults.append(f"looks do not rise: {', '.join(map(str, self.looks))}")
        if self.comparisons != "all":
            faults += [f"{a} is compared with itself" for a, b in self.comparisons if a == b]
            pairs = [frozenset(pair) for pair in self.comparisons]
            doubled = sorted({" and ".join(sorted(pair)) for pair in pairs if pairs.count(pair) > 1})
            faults += [f"duplicate comparison of {pair}" for pair in doubled]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def alpha_at(self, runs: int) -> float:
        """Type-I error that a run-level test may spend with so many runs per configuration.

        Without looks all of it. With looks what the last one so far adds to those before it, by Lan and DeMets' form of
        O'Brien and Fleming's boundaries (Biometrika 1983): ``α(t) = 2 − 2 Φ(z(α/2)/√t)`` by the share t of the planned
        runs. Nothing before the first look.
        """
        if not self.looks:
            return self.alpha
        normal = NormalDist()
        spent = [0.0]
        for look in self.looks:
            if look <= runs:
                spent.append(2 - 2 * normal.cdf(normal.inv_cdf(1 - self.alpha / 2) / math.sqrt(look / self.looks[-1])))
        return spent[-1] - spent[-2] if len(spent) > 1 else 0.0

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
"""What is done without an analysis file: all pairs, no margin."""


def read_analysis(path: Path) -> Analysis:
    """Read an analysis file; an ``OncoduetError`` names every fault in it."""
    return parse_toml(path, Analysis)
