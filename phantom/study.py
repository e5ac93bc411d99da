"""One phantom study in memory: its images, its truth, and what a radiologist could not know but a test wants to."""

from collections.abc import Mapping
from dataclasses import dataclass

from contract.volume import Volume


@dataclass(frozen=True)
class PhantomLesion:
    """One lesion of the truth."""

    volume_ml: float
    """Volume of its voxels in the label map."""
    zone: str


@dataclass(frozen=True)
class PhantomStudy:
    """Images by channel, the label map on the reference channel's grid, and the facts behind them."""

    channels: Mapping[str, Volume]
    label: Volume
    lesions: tuple[PhantomLesion, ...]
    facts: Mapping[str, str | int | float]
    """Further columns of the marksheet, about the anatomy and not about the lesions."""
