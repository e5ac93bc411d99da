"""Strict matching by other hit criteria: another overlap, or another minimum.

The ranking scores keep the card's rule; this only shows how much they depend on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from evaluation.masks.components import Components
from evaluation.matching.cases import Case, Finding, Float64Array, Int64Array, MatchingRule
from evaluation.matching.strict import cut, match_by, overlaps


@dataclass(frozen=True)
class HitCriterion:
    """When a candidate hits a lesion."""

    name: Literal["iou", "dice", "centre"]
    minimum: float | None
    """Smallest overlap; None for the centre."""


HIT_CRITERIA: Sequence[HitCriterion] = (
    *(HitCriterion("iou", minimum) for minimum in (0.05, 0.1, 0.2, 0.5)),
    *(HitCriterion("dice", minimum) for minimum in (0.1, 0.2, 0.5)),
    HitCriterion("centre", None),
)


def match_with(case: Case, rule: MatchingRule, criterion: HitCriterion) -> tuple[Finding, ...]:
    """As :func:`evaluation.matching.strict.match`, by another criterion."""
    whole = cut(case, rule)
    if criterion.name == "centre" or criterion.minimum is None:
        return match_by(whole, holds_centre(whole.lesions, whole.candidates), 1.0)
    return match_by(whole, overlaps(whole, replace(rule, overlap=criterion.name)), criterion.minimum)


def holds_centre(lesions: Components, candidates: Components) -> Float64Array:
    """1 where a lesion holds the voxel nearest to a candidate's centre of mass, shape (lesions, candidates)."""
    found = np.zeros((len(lesions), len(candidates)))
    centre = _centres(candidates)
    place = np.searchsorted(lesions.voxels, centre)
    inside = place < lesions.voxels.size
    inside[inside] = lesions.voxels[place[inside]] == centre[inside]
    found[lesions.owners[place[inside]], np.flatnonzero(inside)] = 1
    return found


def _centres(candidates: Components) -> Int64Array:
    """Raster index of the voxel nearest to each candidate's centre of mass."""
    places = np.unravel_index(candidates.voxels, candidates.shape_zyx)
    means = [np.bincount(candidates.owners, axis, minlength=len(candidates)) / candidates.sizes for axis in places]
    nearest = tuple(np.rint(mean).astype(np.int64) for mean in means)
    return np.asarray(np.ravel_multi_index(nearest, candidates.shape_zyx), dtype=np.int64)
