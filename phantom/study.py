"""One phantom study in memory: its images, its truth, and what a radiologist could not know but a test wants to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from contract.cards import Card
from contract.volume import Volume


@dataclass(frozen=True)
class LabelValues:
    """What a card's label maps call things."""

    lesion: int
    by_class: Mapping[str, int]
    """Value of every class of the card by its name; where a class has several, the first."""

    @classmethod
    def of(cls, card: Card) -> Self:
        """The values of a card."""
        return cls(card.lesion_values[0], {each.name: each.values[0] for each in card.classes})

    def of_first(self, *names: str) -> int:
        """The value of the first of these classes that the card knows; 0, background, if it knows none."""
        return next((self.by_class[name] for name in names if name in self.by_class), 0)


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
    organs: npt.NDArray[np.uint8]
    """The label map as it would be without lesions, shape (z, y, x)."""
    lesions: tuple[PhantomLesion, ...]
    facts: Mapping[str, str | int | float]
    """Further columns of the marksheet, about the anatomy and not about the lesions."""
