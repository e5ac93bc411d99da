"""Schema of what ``verdict.json`` holds of clinical use: operating points, calibration, net benefit, prevalence."""

from collections.abc import Mapping
from typing import Literal

from contract.schema import Frozen

Aim = Literal["specificity", "sensitivity"]


class Estimate(Frozen):
    """A mean over runs with its interval of level 1 − alpha."""

    mean: float
    interval: tuple[float, float] | None
    """For new runs and cases; of a single run or a baseline for new cases. Null where nothing varies."""


class OperatingPoint(Frozen):
    """One configuration on the test set, each run at its threshold; likelihoods of at least so much are positive."""

    aim: Aim
    """What the threshold was chosen to reach."""
    at_least: float
    thresholds: Mapping[str, float]
    """By run."""
    sensitivity: Estimate
    """Of cases."""
    specificity: Estimate
    true_positives: float
    """Cases, mean over runs, as the other three."""
    false_negatives: float
    false_positives: float
    true_negatives: float
    ppv: Estimate | None
    """At the test set's prevalence; null where a run calls no case positive."""
    npv: Estimate | None
    ppv_at_prevalence: Estimate | None
    """At the stated prevalence; null without one."""
    npv_at_prevalence: Estimate | None
    lesion_sensitivity: Estimate | None
    """Of candidates whose confidence reaches the same threshold; null without lesions or detection maps."""
    false_positives_per_case: Estimate | None


class CalibrationSummary(Frozen):
    """Likelihoods as probabilities, mean over runs."""

    brier: Estimate
    ece: Estimate
    slope: Estimate | None
    """Null where a run's likelihoods separate the classes, exceed 1, or are all equal; so the intercepts."""
    intercept: Estimate | None
    in_the_large: Estimate | None


class NetBenefit(Frozen):
    """Net benefit of one configuration at one threshold probability."""

    threshold: float
    net_benefit: Estimate


class TreatAll(Frozen):
    """Net benefit at one threshold probability where all cases are called positive."""

    threshold: float
    net_benefit: float


class ClinicalConfiguration(Frozen):
    """One configuration."""

    name: str
    operating_points: tuple[OperatingPoint, ...]
    calibration: CalibrationSummary | None
    """Null, like ``net_benefit``, where a likelihood exceeds 1 and is no probability."""
    net_benefit: tuple[NetBenefit, ...]
    partial_auroc: Estimate
    ap_at_prevalence: Estimate | None
    """AP with cases weighted to the stated prevalence."""


class Clinical(Frozen):
    """All configurations."""

    thresholds_from: Literal["validation", "test set"]
    validation: Mapping[str, str]
    """sha256 of ``metrics.json`` of each scored run on validation cases, by run; empty without ``--validation``."""
    notes: tuple[str, ...]
    """What limits the thresholds."""
    test_prevalence: float
    """Share of positive cases of the test set."""
    prevalence: float | None
    """The stated one."""
    partial_of: Aim
    """Partial AUROC is the area where this is at least ``partial_at_least``."""
    partial_at_least: float
    treat_all: tuple[TreatAll, ...]
    configurations: tuple[ClinicalConfiguration, ...]
