"""Lesions that have no voxel left once a study is resampled: each is named in the log.

A lesion smaller than a voxel can vanish twice: between the label map and the study grid (nearest neighbour), and
between that and the plan's spacing (nnU-Net's linear rule: a voxel is what most of it is). Labels stay as nnU-Net makes
them, for all networks alike; nothing teaches a network such a lesion. Scores still count it, since they read the truth
from the label maps themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from scipy import ndimage

from contract.card import Card
from contract.images.grid import Box, Grid
from contract.images.volume import Volume, resample
from contract.schema import Frozen
from network.model.plans import full_resolution
from network.preprocessing.nnunet_preprocessing import Preprocessed


class Lesion(Frozen):
    """One lesion of a label map."""

    volume_ml: float
    centre_mm_xyz: tuple[float, float, float]
    """Mean of its voxels' centres in patient coordinates (LPS)."""
    bounds_zyx: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None
    """Its voxels' first index on the study grid and the one after the last, per axis; None if it has none there."""

    @property
    def box(self) -> Box | None:
        """Bounds of its voxels on the study grid; None: it has none there."""
        if self.bounds_zyx is None:
            return None
        z, y, x = (slice(*each) for each in self.bounds_zyx)
        return z, y, x

    @property
    def described(self) -> str:
        """Size and place, for messages."""
        place = ", ".join(f"{each:.1f}" for each in self.centre_mm_xyz)
        return f"a lesion of {self.volume_ml:.2g} mL at ({place}) mm"


def lesions_on(card: Card, truth: Volume, grid: Grid) -> list[Lesion]:
    """The lesions of a truth (26 neighbours), and where each is on a study grid."""
    numbered, count = ndimage.label(np.isin(truth.array, card.lesion_values), structure=np.ones((3, 3, 3)))
    if not count:
        return []
    on_grid = resample(Volume(numbered.astype(np.int32), truth.grid), grid, interpolation="nearest", outside=0.0)
    boxes = ndimage.find_objects(on_grid.array.astype(np.int32, copy=False), max_label=count)
    voxels = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    centres = ndimage.center_of_mass(numbered > 0, numbered, range(1, count + 1))
    return [
        Lesion(
            volume_ml=float(number) * truth.grid.voxel_volume_ml,
            centre_mm_xyz=_place_mm(truth.grid, centre),
            bounds_zyx=None if box is None else tuple((each.start, each.stop) for each in cast(Box, box)),
        )
        for number, centre, box in zip(voxels, centres, boxes, strict=True)
    ]


def lost_lesions(
    lesions: Sequence[Lesion], preprocessed: Preprocessed, *, plans: Mapping[str, Any], card: Card
) -> list[str]:
    """Say of each lesion of a study that has no voxel left where it was lost.

    Parameters
    ----------
    preprocessed
        The same study.

    Returns
    -------
    For each lost lesion what it is and where nothing of it is left, without a full stop.
    """
    lines = []
    for lesion in lesions:
        if lesion.box is None:
            lines.append(f"{lesion.described} has no voxel on the study grid")
        elif not (preprocessed.label[0][preprocessed.grid.bounds_of(lesion.box)] == card.lesion_index).any():
            spacing = full_resolution(plans).spacing
            voxel = " × ".join(f"{each:.3g}" for each in spacing)
            lines.append(f"{lesion.described} has no voxel left at the plan's spacing of {voxel} mm")
    return lines


def _place_mm(grid: Grid, index_zyx: Sequence[float]) -> tuple[float, float, float]:
    offset = np.array(grid.direction).reshape(3, 3) @ (np.array(index_zyx)[::-1] * grid.spacing_mm_xyz)
    x, y, z = (float(each) for each in np.array(grid.origin_mm_xyz) + offset)
    return x, y, z
