"""Sizes of the anchors, planned from the training lesions.

Each axis has a few whole numbers of voxels, and an anchor for each combination of them; coarser levels have the same
ones times their stride. Wanted are the numbers for which the lesions' mean IoU with their best anchor, both centred on
one point, is highest. nnDetection looks for them by differential evolution, three times 5,000 random steps. Here one
number after the other takes the best of all values that it may have, until none changes, from several starts: the
result depends on the lesions alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from network.detection.anchors import AnchorPlan, Triple, detection_levels, require_levels

SIZES_PER_AXIS = 3
OUTLIERS_PERCENT = 0.5
"""Percentage of the lesions left out at either end of each axis' sizes, as by nnDetection, if this is at least one
lesion."""
_STARTS_PERCENT = ((5.0, 95.0), (25.0, 75.0), (0.0, 50.0))
_MOST_ROUNDS = 50

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlannedAnchors:
    """Anchors and how well they fit."""

    plan: AnchorPlan
    mean_iou: float
    """Mean IoU of the training lesions with their best anchor, centred; in (0, 1]."""


def plan_anchors(
    sizes_voxels_zyx: Float64Array,
    strides: Sequence[Triple],
    *,
    source: Path,
    levels: Sequence[int] | None = None,
    sizes_per_axis: int = SIZES_PER_AXIS,
) -> PlannedAnchors:
    """Plan the anchors of a network.

    Raises ``OncoduetError``: there is no lesion, or the network lacks these levels.

    Parameters
    ----------
    sizes_voxels_zyx
        Extents of the training lesions' boxes, shape (lesions, 3), in voxels of the preprocessed studies.
    strides
        Of all levels of the network; see :func:`network.detection.anchors.level_strides`.
    source
        Where the lesions come from, for errors.
    levels
        Detection levels, finest first; by default nnDetection's choice.
    sizes_per_axis
        With 3, every position has 27 anchors.
    """
    if not len(sizes_voxels_zyx):
        raise OncoduetError(source, "no training lesion to plan anchors from")
    chosen = tuple(levels) if levels is not None else detection_levels(len(strides))
    require_levels(AnchorPlan(levels=chosen, sizes_voxels_zyx=((1, 1, 1),)), strides)
    scale = np.array([strides[level] for level in chosen], np.float64)
    search = _Search(_without_outliers(np.asarray(sizes_voxels_zyx, np.float64)), scale / scale[0])
    best = max((search.climb(start) for start in search.starts(sizes_per_axis)), key=search.mean_iou)
    sizes = tuple((float(z), float(y), float(x)) for z in best[0] for y in best[1] for x in best[2])
    return PlannedAnchors(AnchorPlan(levels=chosen, sizes_voxels_zyx=sizes), search.mean_iou(best))


Numbers = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Sizes along z, y and x, rising."""


@dataclass(frozen=True)
class _Search:
    lesions: Float64Array  # (lesions, 3)
    scale: Float64Array  # (levels, 3), of each level's anchors against the finest

    def mean_iou(self, numbers: Numbers) -> float:
        """Mean over the lesions of the IoU with the best of all levels' anchors."""
        best = np.zeros(len(self.lesions))
        for scale in self.scale:
            sides = [np.array(axis_numbers) * factor for axis_numbers, factor in zip(numbers, scale, strict=True)]
            z, y, x = (np.minimum(own[:, None], side[None]) for own, side in zip(self.lesions.T, sides, strict=True))
            shared = z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]
            anchors = sides[0][:, None, None] * sides[1][None, :, None] * sides[2][None, None, :]
            union = np.prod(self.lesions, axis=1)[:, None, None, None] + anchors - shared
            best = np.maximum(best, (shared / union).reshape(len(best), -1).max(axis=1))
        return float(best.mean())

    def starts(self, count: int) -> list[Numbers]:
        """Where the search begins: percentiles of the lesions' own sizes."""
        starts = []
        for low, high in _STARTS_PERCENT:
            percents = np.linspace(low, high, count) if count > 1 else [(low + high) / 2]
            axes = [np.maximum(1, np.rint(np.percentile(own, percents))).astype(int) for own in self.lesions.T]
            z, y, x = (tuple(int(number) for number in axis) for axis in axes)
            starts.append((z, y, x))
        return starts

    def climb(self, start: Numbers) -> Numbers:
        """Improve one number after the other until none can be."""
        best, best_iou = start, self.mean_iou(start)
        for _ in range(_MOST_ROUNDS):
            before = best
            for axis in range(3):
                largest = int(np.ceil(self.lesions[:, axis].max()))
                for place in range(len(start[axis])):
                    for number in range(1, largest + 1):
                        tried = _with(best, axis, place, number)
                        if (tried_iou := self.mean_iou(tried)) > best_iou + 1e-12:
                            best, best_iou = tried, tried_iou
            if best == before:
                break
        z, y, x = (tuple(sorted(axis)) for axis in best)
        return z, y, x


def _with(numbers: Numbers, axis: int, place: int, number: int) -> Numbers:
    changed = [list(each) for each in numbers]
    changed[axis][place] = number
    z, y, x = (tuple(each) for each in changed)
    return z, y, x


def _without_outliers(sizes: Float64Array) -> Float64Array:
    """Lesions without the smallest and largest on each axis, as long as there are enough."""
    if len(sizes) * OUTLIERS_PERCENT / 100 < 1:
        return sizes
    low, high = np.percentile(sizes, [OUTLIERS_PERCENT, 100 - OUTLIERS_PERCENT], axis=0)
    usual = ((sizes >= low) & (sizes <= high)).all(axis=1)
    return sizes[usual] if usual.any() else sizes
