"""Boxes of many tiles, mirrored copies and members become one set: weighted box clustering.

Every prediction that overlaps the strongest one joins its cluster, and a cluster becomes one box. Members of a cluster
count with their overlap with the strongest and with a weight (where in its tile a box is, which member found it). The
cluster's score is the weighted mean, in which predictions that were to be expected and are missing count as 0: what one
tile of many saw is no finding. Boxes are those of :mod:`network.detection.boxes`, in numpy, double precision.

Source: Jaeger et al. 2020 (Retina U-Net), and nnDetection's ``wbc``, which clusters the 1,000 strongest boxes alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from contract.images.grid import Box
from contract.schema import Frozen

Float64Array = npt.NDArray[np.float64]
BoxShape = Literal["cuboid", "ellipsoid", "segmentation"]
"""What a box paints into the detection map; see :func:`network.detection.painting.paint_boxes`."""
CaseScore = Literal["maximum", "noisy-or", "top-k-mean"]
"""How a case's findings become one likelihood; see :func:`network.detection.painting.combine_scores`."""

STRONGEST = 10_000
"""Most predictions that are clustered, by descending score."""
_TILE_DEVIATION = 0.8
"""Standard deviation of the weight within a tile, in halves of the tile."""


class BoxPostprocessing(Frozen):
    """Which predictions count, how they are clustered, and how boxes become a map and a likelihood; in the bundle.

    The first three are swept on validation boxes (``training.retina_unet.box_rule_sweep``), fill and case score by the
    scores of the maps (``training.sweep``).
    """

    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Predictions with a score not above this are dropped."""
    cluster_iou: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Predictions join a cluster if their IoU with its strongest is above this."""
    minimum_size_voxels: Annotated[float, Field(ge=0, le=10_000)] = 0.01
    """Predictions that are not larger than this along every axis are dropped."""
    fill: BoxShape = "cuboid"
    case_score: CaseScore = "maximum"
    k: Annotated[int, Field(ge=1, le=10_000)] = 3
    """Number of highest findings that ``top-k-mean`` averages."""


@dataclass(frozen=True)
class ScoredBoxes:
    """Boxes in a study, in any order unless stated."""

    boxes: Float64Array
    """Shape (count, 6)."""
    scores: Float64Array
    """Shape (count,), in [0, 1]."""
    weights: Float64Array
    """Weight of each prediction in its cluster, shape (count,); positive."""

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, chosen: npt.NDArray[np.intp] | slice) -> "ScoredBoxes":
        """Some of them, by index."""
        return ScoredBoxes(self.boxes[chosen], self.scores[chosen], self.weights[chosen])


def joined(parts: Sequence[ScoredBoxes]) -> ScoredBoxes:
    """The boxes of several tiles, copies or members together."""
    return ScoredBoxes(
        np.concatenate([np.empty((0, 6)), *(part.boxes for part in parts)]),
        np.concatenate([np.empty(0), *(part.scores for part in parts)]),
        np.concatenate([np.empty(0), *(part.weights for part in parts)]),
    )


def cluster(
    found: ScoredBoxes, rule: BoxPostprocessing, *, expected: Float64Array, strongest: int = STRONGEST
) -> ScoredBoxes:
    """Merge the predictions of all tiles, copies and members.

    Parameters
    ----------
    expected
        How many predictions each box should have had, shape (count,); see :func:`expected_predictions`.
    strongest
        Predictions that take part at most.

    Returns
    -------
    One box per cluster, by falling score; its weight is the sum of its members'.
    """
    sizes = found.boxes[:, 3:] - found.boxes[:, :3]
    counts = (found.scores > rule.score_threshold) & (sizes > rule.minimum_size_voxels).all(axis=1)
    order = np.flatnonzero(counts)
    order = order[np.argsort(-found.scores[order], kind="stable")][:strongest]
    merged: list[Float64Array] = []
    for indices, overlaps in _groups(found.boxes, order, rule.cluster_iou):
        weights = overlaps * found.weights[indices]
        evidence = weights * found.scores[indices]
        missing = max(0.0, float(expected[indices].mean()) - len(indices))
        score = evidence.sum() / (weights.sum() + missing * weights.mean())
        box = evidence @ found.boxes[indices] / evidence.sum()
        merged.append(np.array([*box, score, found.weights[indices].sum()]))
    table = np.stack(merged) if merged else np.empty((0, 8))
    table = table[np.argsort(-table[:, 6], kind="stable")]
    return ScoredBoxes(table[:, :6], table[:, 6], table[:, 7])


def suppress(found: ScoredBoxes, overlap: float) -> ScoredBoxes:
    """Leave only the strongest of the boxes that overlap it by more than this IoU; by falling score."""
    order = np.argsort(-found.scores, kind="stable")
    return found.only(np.array([indices[0] for indices, _ in _groups(found.boxes, order, overlap)], dtype=np.intp))


def expected_predictions(boxes: Float64Array, tiles: Sequence[Box], *, copies: int) -> Float64Array:
    """How many predictions each box should have: the mean number of tiles over its voxels, times the copies.

    Parameters
    ----------
    boxes
        Shape (count, 6), none degenerate.
    copies
        Predictions of each tile: mirrored copies times members.
    """
    covered = np.zeros(len(boxes))
    for tile in tiles:  # one after the other: all at once would take gigabytes for a long CT
        lower = np.maximum(boxes[:, :3], [axis.start for axis in tile])
        upper = np.minimum(boxes[:, 3:], [axis.stop for axis in tile])
        covered += np.prod(np.clip(upper - lower, 0, None), axis=1)
    counts: Float64Array = copies * covered / np.prod(boxes[:, 3:] - boxes[:, :3], axis=1)
    return counts


def tile_weights(boxes: Float64Array, tile_size_zyx: Sequence[int]) -> Float64Array:
    """Weight of boxes (count, 6) by where in their tile they are centred, in (0, 1]: 1 in its middle.

    The mean over the axes of a Gaussian whose standard deviation is 0.8 of half the tile; shape (count,).

    Source: nnDetection.
    """
    half = np.array(tile_size_zyx) / 2
    distances = ((boxes[:, :3] + boxes[:, 3:]) / 2 - half) / (_TILE_DEVIATION * half)
    weights: Float64Array = np.exp(-0.5 * distances**2).mean(axis=1)
    return weights


def _groups(
    boxes: Float64Array, order: npt.NDArray[np.intp], overlap: float
) -> list[tuple[npt.NDArray[np.intp], Float64Array]]:
    """The strongest box that is left with all left that overlap it by more than ``overlap``, and so on.

    Parameters
    ----------
    order
        Indices of the boxes that take part, by falling score.

    Returns
    -------
    For each group the indices, strongest first, and their IoU with the strongest.
    """
    groups = []
    corners = np.ascontiguousarray(boxes[order].T)  # coordinate by coordinate, over which numpy is fast
    left = np.ones(len(order), dtype=bool)
    for first in range(len(order)):
        if not left[first]:
            continue
        own = corners[:, first]
        meets = left[first:].copy()
        for axis in range(3):
            meets &= corners[axis, first:] < own[axis + 3]
            meets &= corners[axis + 3, first:] > own[axis]
        meets[0] = True
        near = first + np.flatnonzero(meets)
        overlaps = _iou_with_first(corners[:, near])
        joins = overlaps > overlap
        joins[0] = True  # also where rounding leaves its IoU with itself below 1
        left[near[joins]] = False
        groups.append((order[near[joins]], overlaps[joins]))
    return groups


def _iou_with_first(corners: Float64Array) -> Float64Array:
    """IoU of each box with the first, shape (boxes,), from their coordinates, shape (6, boxes)."""
    volumes = _volumes(corners[:3], corners[3:])
    intersection = _volumes(np.maximum(corners[:3], corners[:3, :1]), np.minimum(corners[3:], corners[3:, :1]))
    union = volumes + volumes[0] - intersection
    overlaps: Float64Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlaps


def _volumes(lower: Float64Array, upper: Float64Array) -> Float64Array:
    """Volumes, shape (boxes,), from corners, shape (3, boxes) each."""
    z, y, x = np.maximum(upper - lower, 0)
    volumes: Float64Array = z * y * x
    return volumes
