"""Schema of clinical use in ``verdict.json``: operating points, calibration, net benefit, prevalence."""

from collections.abc import Mapping
from typing import Literal

from contract.schema import Frozen

Aim = Literal["specificity", "sensitivity"]


class Estimate(Frozen):
    """A mean over runs with its interval of level 1 − alpha."""

    mean: float
    interval: tuple[float, float] | None
    """Interval for new runs and cases; of a single run or a baseline for new cases. Null where nothing varies."""


class OperatingPoint(Frozen):
    """One configuration on the test set, each run at its threshold, from which likelihoods are positive."""

    aim: Aim
    """Quantity that the threshold was chosen to reach."""
    at_least: float
    thresholds: Mapping[str, float]
    """Thresholds by run."""
    sensitivity: Estimate
    """Sensitivity for cases."""
    specificity: Estimate
    true_positives: float
    """Number of cases, mean over runs, like the other three."""
    false_negatives: float
    false_positives: float
    true_negatives: float
    ppv: Estimate | None
    """PPV at the test set's prevalence; null where a run calls no case positive."""
    npv: Estimate | None
    ppv_at_prevalence: Estimate | None
    """PPV at the stated prevalence; null without one."""
    npv_at_prevalence: Estimate | None
    lesion_sensitivity: Estimate | None
    """Sensitivity for lesions of candidates that reach the same threshold; null without lesions or detection maps."""
    false_positives_per_case: Estimate | None


class CalibrationSummary(Frozen):
    """Likelihoods as probabilities, mean over runs."""

    brier: Estimate
    ece: Estimate
    slope: Estimate | None
    """Slope; null, like the intercepts, where a run's likelihoods separate the classes, exceed 1 or are all equal."""
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
    """Calibration; null, like ``net_benefit``, where a likelihood exceeds 1 and is not a probability."""
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
    """Limitations of the thresholds."""
    test_prevalence: float
    """Share of positive cases of the test set."""
    prevalence: float | None
    """The stated prevalence."""
    partial_of: Aim
    """Quantity that is at least ``partial_at_least`` in the partial AUROC."""
    partial_at_least: float
    treat_all: tuple[TreatAll, ...]
    configurations: tuple[ClinicalConfiguration, ...]
