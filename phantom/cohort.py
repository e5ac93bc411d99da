"""The plan of a cohort: which case is positive, how large and how visible its lesion is.

All of it follows from the case's index, so that a case is the same in an archive of any length, and small archives
still hold the whole range: fractions are kept exactly at every length, sizes and contrasts run through low-discrepancy
sequences (van der Corput) with a start that depends on the seed.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import exp, floor
from statistics import NormalDist
from typing import Literal

import numpy as np

Population = Literal["training", "external"]
Visibility = Literal["none", "obvious", "low-contrast", "invisible"]

POPULATIONS: tuple[Population, ...] = ("training", "external")

CONSPICUITY_RANGE: dict[Visibility, tuple[float, float]] = {
    "none": (0.0, 0.0),
    "obvious": (0.65, 1.0),
    "low-contrast": (0.4, 0.55),
    "invisible": (0.0, 0.0),
}
_EVERY_TEN_POSITIVES: tuple[Visibility, ...] = (
    ("obvious",) * 3 + ("low-contrast",) + ("obvious",) * 2 + ("low-contrast",) + ("obvious",) * 2 + ("invisible",)
)


@dataclass(frozen=True)
class LesionVolumes:
    """How large the lesions of one cancer are: a log-normal distribution with limits."""

    median_ml: float
    log_sd: float
    range_ml: tuple[float, float]

    def at(self, quantile: float) -> float:
        """The volume (mL) at a quantile in [0, 1)."""
        low, high = self.range_ml
        deviate = NormalDist().inv_cdf(min(max(quantile, 1e-9), 1 - 1e-9))
        return min(max(self.median_ml * exp(self.log_sd * deviate), low), high)


@dataclass(frozen=True)
class CasePlan:
    """Properties of a case that are decided before its anatomy is drawn."""

    index: int
    positive: bool
    visibility: Visibility
    conspicuity: float
    """How far the lesion's tissue is replaced by tumour: 0 leaves no trace in any channel, 1 is tumour alone."""
    volume_ml: float
    """Intended volume of the largest lesion; 0 without a lesion."""


def positives_before(index: int, fraction: Fraction) -> int:
    """How many of the first ``index`` cases are positive: the fraction's share, rounded half up."""
    return floor(index * fraction + Fraction(1, 2))


def plan_case(
    index: int, *, positive_fraction: Fraction, phases: tuple[float, float], volumes: LesionVolumes
) -> CasePlan:
    """Plan one case.

    Parameters
    ----------
    index
        Place of the case in the archive, from 0.
    positive_fraction
        Share of positive cases, in [0, 1]; exact at every length of the archive, up to rounding.
    phases
        Starts of the two sequences (conspicuity, volume), in [0, 1); see :func:`draw_phases`.
    volumes
        How large lesions are.
    """
    rank = positives_before(index, positive_fraction)
    if positives_before(index + 1, positive_fraction) == rank:
        return CasePlan(index, positive=False, visibility="none", conspicuity=0.0, volume_ml=0.0)
    visibility = _EVERY_TEN_POSITIVES[rank % len(_EVERY_TEN_POSITIVES)]
    low, high = CONSPICUITY_RANGE[visibility]
    conspicuity = low + (high - low) * ((van_der_corput(rank, base=2) + phases[0]) % 1)
    return CasePlan(
        index,
        positive=True,
        visibility=visibility,
        conspicuity=conspicuity,
        volume_ml=volumes.at((van_der_corput(rank, base=3) + phases[1]) % 1),
    )


def draw_phases(rng: np.random.Generator) -> tuple[float, float]:
    """Draw where the sequences of conspicuity and volume begin in this archive."""
    conspicuity, volume = rng.random(2)
    return float(conspicuity), float(volume)


def van_der_corput(number: int, *, base: int) -> float:
    """The number's digits mirrored behind the point: a sequence that fills [0, 1) evenly at every length."""
    value, unit = 0.0, 1.0
    while number:
        unit /= base
        number, digit = divmod(number, base)
        value += digit * unit
    return value
