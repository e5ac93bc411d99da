"""From boxes to a detection map, and from their scores to one likelihood of the case.

Boxes are painted by falling score, each voxel of a candidate with the box's score. A box of few voxels is left out, and
so is one whose voxels would touch a candidate that is there already: candidates stay apart, and the higher score wins.
These are the rules of the PI-CAI challenge's nnDetection algorithm, which paints cuboids; an ellipsoid fills about half
of its box and is closer to a lesion's shape, and the segmentation head may know the shape itself.

(For nnDetection's own boxes, which begin one voxel earlier, that algorithm paints what is painted here once 1 is added
to the lower corners.)
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.images.volume import Float32Array
from network.detection.clustering import BoxShape, CaseScore, Float64Array, ScoredBoxes

MINIMUM_VOXELS = 10
"""Boxes with no more voxels than this are not painted."""
LESION_PROBABILITY = 0.5
"""Lowest probability of voxels of the segmented lesion."""


def paint_boxes(
    found: ScoredBoxes,
    shape_zyx: tuple[int, int, int],
    *,
    fill: BoxShape = "cuboid",
    segmentation: Float32Array | None = None,
    minimum_voxels: int = MINIMUM_VOXELS,
) -> Float32Array:
    """Paint boxes into a map.

    Parameters
    ----------
    found
        Boxes in voxels of the map; of equal scores the first is painted first.
    fill
        ``cuboid``: all voxels from the box's rounded-down lower to its rounded-down upper corner. ``ellipsoid``: those
        of them whose centres are in the ellipsoid that fills them. ``segmentation``: the largest connected part of
        those of them that are segmented, so that one box is one candidate; where that is no larger than the minimum,
        the ellipsoid. Where the ellipsoid is no larger, the cuboid: no finding is lost to its shape.
    segmentation
        Probability of a lesion, shape (z, y, x), values in [0, 1]; needed for that fill alone.
    minimum_voxels
        A box counts if its cuboid has more voxels.

    Returns
    -------
    Shape (z, y, x): 0, or the score of the candidate there.
    """
    if fill == "segmentation" and segmentation is None:
        raise ValueError("fill 'segmentation' needs the segmentation")
    painted = np.zeros(shape_zyx, dtype=np.float32)
    for index in np.argsort(-found.scores, kind="stable"):
        place = _voxels_of(found.boxes[index], shape_zyx)
        size = tuple(axis.stop - axis.start for axis in place)
        if min(size) <= 0 or np.prod(size) <= minimum_voxels:
            continue
        mask = np.ones(size, dtype=bool)
        if fill != "cuboid" and (ellipsoid := _ellipsoid(size)).sum() > minimum_voxels:
            mask = ellipsoid
        if segmentation is not None and fill == "segmentation":
            segmented = _largest_part(segmentation[place] >= LESION_PROBABILITY)
            mask = segmented if segmented.sum() > minimum_voxels else mask
        if not _touches(painted, place, mask):
            painted[place][mask] = found.scores[index]
    return painted


def combine_scores(scores: Float64Array, rule: CaseScore = "maximum", *, k: int = 3) -> float:
    """One number in [0, 1] from the scores of a case's findings; without any 0.

    Parameters
    ----------
    scores
        Shape (count,), in [0, 1].
    rule
        ``maximum``; ``noisy-or``, the probability that at least one finding is a lesion if they were independent;
        ``top-k-mean``, the mean of the ``k`` highest, findings that are not there counting as 0, so that a further
        one never lowers a case's likelihood.
    """
    if not scores.size:
        return 0.0
    if rule == "maximum":
        return float(scores.max())
    if rule == "noisy-or":
        with np.errstate(divide="ignore"):  # a score of 1 makes the product 0, as it should
            return float(-np.expm1(np.log1p(-scores).sum()))
    return float(np.sort(scores)[-k:].sum() / k)


def _voxels_of(box: Float64Array, shape_zyx: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    edges = np.clip(np.floor(box), 0, np.tile(shape_zyx, 2)).astype(int)
    z, y, x = (slice(int(edges[axis]), int(edges[axis + 3])) for axis in range(3))
    return z, y, x


def _ellipsoid(size_zyx: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Voxels of an array whose centres are in the ellipsoid that fills the array; the middle always is."""
    squares = [((np.arange(length) + 0.5 - length / 2) / (length / 2)) ** 2 for length in size_zyx]
    inside: npt.NDArray[np.bool_] = (
        squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    ) <= 1
    return inside


def _largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest 26-connected component; of equal ones the first."""
    labelled, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    part: npt.NDArray[np.bool_] = labelled == 1 + np.argmax(np.bincount(labelled.ravel())[1:]) if count else mask
    return part


def _touches(painted: Float32Array, place: tuple[slice, slice, slice], mask: npt.NDArray[np.bool_]) -> bool:
    """Whether a voxel of the mask, or one of its 26 neighbours, is painted."""
    grown = np.zeros([length + 2 for length in mask.shape], dtype=bool)
    for z, y, x in np.ndindex(3, 3, 3):
        grown[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] |= mask
    around = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in place)
    inside = tuple(
        slice(1 - min(axis.start, 1), 1 - min(axis.start, 1) + taken)
        for axis, taken in zip(place, painted[around].shape, strict=True)
    )
    return bool((painted[around] > 0)[grown[inside]].any())
