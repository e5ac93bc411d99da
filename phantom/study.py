"""One phantom study in memory: its images, its truth and the facts behind them; and what all its scans share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.card import Card
from contract.images.grid import Grid
from contract.images.volume import Float32Array, Volume
from phantom.shapes import Vector
from phantom.tissue_layers import Distractor, DrawnLesion


@dataclass(frozen=True)
class LabelValues:
    """Values of a card's label maps."""

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


def lesions_of(drawn: Iterable[DrawnLesion[Any]], grid: Grid) -> tuple[PhantomLesion, ...]:
    """The truth of lesions that were drawn on a grid."""
    return tuple(
        PhantomLesion(int(np.count_nonzero(lesion.voxels)) * grid.voxel_volume_ml, lesion.zone) for lesion in drawn
    )


def distractor_facts(distractors: Sequence[Distractor[Any]], grid: Grid) -> dict[str, str]:
    """Columns of the marksheet: kinds of the distractors, and the slices of a grid nearest to their centres."""
    return {
        "distractors": ";".join(distractor.kind for distractor in distractors),
        "distractor_slices": ";".join(str(_slice_of(grid, distractor.centre_mm)) for distractor in distractors),
    }


def centred_grid(
    centre_mm: npt.NDArray[np.float64],
    direction: npt.NDArray[np.float64],
    size_xyz: tuple[int, int, int],
    spacing_mm_xyz: tuple[float, float, float],
) -> Grid:
    """A grid around a point; the columns of ``direction`` are its axes."""
    half_mm = (np.array(size_xyz) - 1) / 2 * np.array(spacing_mm_xyz)
    x, y, z = (centre_mm - direction @ half_mm).tolist()
    return Grid(size_xyz, spacing_mm_xyz, (x, y, z), tuple(direction.ravel().tolist()))


def blurred(image: Float32Array, grid: Grid, sd_mm: float) -> Float32Array:
    """The image blurred in its plane by a Gaussian of this standard deviation."""
    if sd_mm == 0:
        return image
    _, y, x = grid.spacing_mm_zyx
    smooth: Float32Array = ndimage.gaussian_filter(image, (0, sd_mm / y, sd_mm / x))
    return smooth


def _slice_of(grid: Grid, point_mm: Vector) -> int:
    """Index of the slice, counted from 0 at the feet in any order of the file, that is nearest to a point."""
    across = np.array(grid.direction).reshape(3, 3)[:, 2]
    offset_mm = (np.array(point_mm) - np.array(grid.origin_mm_xyz)) @ across
    return int(np.clip(np.rint(offset_mm / grid.spacing_mm_xyz[2]), 0, grid.size_xyz[2] - 1))
