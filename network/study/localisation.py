"""Stage 1 of a card that first locates an organ: from the organ's voxels to the region that stage 2 sees.

The region is a box along the reference image's axes: the organ's outer voxel edges (the last voxel included), widened
by the card's margin and cut at the image's border. Training takes the organ from the label map, inference from the
network that was trained on it; both come through here. Networks err by a voxel or two of their coarse grid, so training
sees that much more on every side, and inference shows the network nothing that training did not.

Margins in mm: DIAGNijmegen/PANORAMA_baseline; in voxels: DIAGNijmegen/CE-CT_PDAC_AutomaticDetection_nnUnet.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.card import Card, KeepNear, Localisation
from contract.errors import OncoduetError
from contract.images.grid import Box, Grid
from contract.images.volume import Float32Array, Volume
from network.study.placement import Placement, target_spacing_mm_zyx

TRAINING_SLACK_VOXELS = 2
"""Voxels of stage 1's grid by which the region for training is larger on every side."""

_TOUCHING = np.ones((3, 3, 3), dtype=bool)
ORGAN_PROBABILITY = 0.5
"""Lowest probability of voxels of the organ, or of the classes near which a lesion is kept."""


def true_region(card: Card, truth: Volume, path: Path) -> Box:
    """Region to train on: around the organ of a label map on the reference grid, and somewhat larger.

    Raises ``OncoduetError``: the map holds nothing of the organ; ``path`` is named.
    """
    stage = card.localisation
    assert stage is not None
    coarse_mm = target_spacing_mm_zyx(card.localising().geometry, truth.grid)
    z, y, x = (TRAINING_SLACK_VOXELS * each_mm for each_mm in coarse_mm)
    organ = np.isin(truth.array, stage.values)
    region = region_around(stage, organ, truth.grid, truth.grid, slack_mm_zyx=(z, y, x))
    if region is None:
        values = ", ".join(map(str, stage.values))
        raise OncoduetError(path, f"no {stage.organ} (label values {values})")
    return region


def organ_region(stage: Localisation, probability: Float32Array, placement: Placement) -> Box | None:
    """Region of the reference image around the organ that stage 1 found, or None where it found nothing.

    Parameters
    ----------
    probability
        Probability of the organ, shape (z, y, x), on the study grid of ``placement``. The largest connected component
        counts, so that a few stray voxels do not widen the region.
    """
    labelled, count = ndimage.label(probability >= ORGAN_PROBABILITY, structure=_TOUCHING)
    if not count:
        return None
    largest = 1 + int(np.argmax(np.bincount(labelled.ravel())[1:]))
    return region_around(stage, labelled == largest, placement.grid, placement.reference)


def region_around(
    stage: Localisation,
    organ: npt.NDArray[np.bool_],
    grid: Grid,
    reference: Grid,
    *,
    slack_mm_zyx: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Box | None:
    """Box on the reference grid around an organ's voxels on a grid with the same axes; None without any voxel.

    Parameters
    ----------
    slack_mm_zyx
        How much larger than the card's margin, on every side.
    """
    box = []
    offset_mm = np.array(reference.direction).reshape(3, 3).T @ (
        np.array(grid.origin_mm_xyz) - np.array(reference.origin_mm_xyz)
    )
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(organ.any(axis=others))
        if not found.size:
            return None
        own_mm, coarse_mm = reference.spacing_mm_zyx[axis], grid.spacing_mm_zyx[axis]
        first = (
            offset_mm[2 - axis] + (found[0] - 0.5) * coarse_mm
        ) / own_mm + 0.5  # outer edges, from the image's edge
        last = (offset_mm[2 - axis] + (found[-1] + 0.5) * coarse_mm) / own_mm + 0.5
        margin = _margin_voxels(stage, axis, own_mm) + slack_mm_zyx[axis] / own_mm
        length = reference.shape_zyx[axis]
        start = min(max(0, math.floor(first - margin + 1e-6)), length - 1)
        box.append(slice(start, max(start + 1, min(length, math.ceil(last + margin - 1e-6)))))
    z, y, x = box
    return z, y, x


def keep_near(rule: KeepNear, lesion: Float32Array, nearby: Float32Array) -> Float32Array:
    """Set a lesion's probability to 0 where none of the rule's classes is near.

    Parameters
    ----------
    lesion, nearby
        Probability of the lesion, and of all the rule's classes together; shape (z, y, x), with the reference's voxels.
        The reference pipelines take the classes from the largest probability of all; a sum of at least a half says the
        same wherever the network is sure, and can be averaged over members and resampled.
    """
    size = [2 * voxels + 1 for voxels in rule.dilation_voxels_zyx]
    near = ndimage.maximum_filter((nearby >= ORGAN_PROBABILITY).astype(np.uint8), size=size, mode="constant")
    return np.where(near > 0, lesion, np.float32(0))


def _margin_voxels(stage: Localisation, axis: int, spacing_mm: float) -> float:
    if stage.margin_mm_zyx is not None:
        return stage.margin_mm_zyx[axis] / spacing_mm
    assert stage.margin_voxels_zyx is not None
    return float(stage.margin_voxels_zyx[axis])
