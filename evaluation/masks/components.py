"""Connected components of an image, kept as a list of voxels instead of a volume.

Lesions and candidates alike are 26-connected. Almost every voxel of a label or detection map is zero, so what is kept
is the sorted list of the others: all intersections of lesions with candidates then come from one merge of two lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from evaluation.masks.bit_boxes import BitBox, bit_boxes

Int64Array = npt.NDArray[np.int64]

MOST_VOXEL_RUNS = 1 << 19
"""Runs of voxels along x in one image; the largest organs in PANORAMA's label maps have 12,000."""
MOST_COMPONENTS = 1 << 11
"""Components in one image; PI-CAI's and PANORAMA's label maps have at most 7, detection maps hardly more."""


class ScatteredError(ValueError):
    """An image has so many separate pieces that finding or matching them would take too much memory and time."""


@dataclass(frozen=True)
class Components:
    """The 26-connected components of one image, numbered from 0 in raster order."""

    shape_zyx: tuple[int, int, int]
    voxels: Int64Array
    """Raster (C order) index of every voxel that belongs to a component, ascending."""
    owners: Int64Array
    """Number of the component that each of ``voxels`` belongs to."""
    sizes: Int64Array
    """Number of voxels of each component."""

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def boxes(self) -> list[BitBox]:
        """The same, for openings."""
        return bit_boxes(self.voxels, self.owners, self.shape_zyx)


def connect(voxels: Int64Array, shape_zyx: tuple[int, int, int]) -> Components:
    """Find the components of a set of voxels; time and memory depend on their number, not on the image's.

    Voxels are joined to runs along x first. Two runs belong together when their rows touch (y or z differ by at most
    one) and some of their voxels do. Rows are laid out with a gap after each, and slices with an empty row after each,
    so that comparing positions suffices and never leaves the image.

    Parameters
    ----------
    voxels
        Raster (C order) indices, ascending, each once.
    shape_zyx
        Shape of the image.

    Raises
    ------
    ScatteredError
        There are more than ``MOST_RUNS`` runs or ``MOST_COMPONENTS`` components.
    """
    if not voxels.size:  # as in most cases
        nothing = np.zeros(0, dtype=np.int64)
        return Components(shape_zyx, nothing, nothing, nothing)
    _, height, width = shape_zyx
    row = voxels // width
    column = voxels - row * width  # much faster than the remainder
    place = (row + row // height) * (width + 2) + column
    begins = np.flatnonzero(np.diff(place, prepend=-2) != 1)
    if begins.size > MOST_VOXEL_RUNS:
        raise ScatteredError(f"expected at most {MOST_VOXEL_RUNS} runs of voxels along x, found {begins.size}")
    lengths = np.diff(begins, append=place.size)
    first = place[begins]
    last = first + lengths - 1
    rows_ahead = np.array([1, height, height + 1, height + 2])  # (z, y + 1), (z + 1, y - 1), (z + 1, y), (z + 1, y + 1)
    ahead = rows_ahead[:, None] * (width + 2)
    nearest = np.searchsorted(last, (first + ahead - 1).ravel(), side="left")
    touching = np.searchsorted(first, (last + ahead + 1).ravel(), side="right") - nearest
    pairs = np.repeat(np.arange(touching.size), touching)
    within = np.arange(pairs.size) - np.repeat(np.cumsum(touching) - touching, touching)
    one, other = pairs % first.size, nearest[pairs] + within
    numbers = _number(first.size, one, other)
    if numbers.max() >= MOST_COMPONENTS:
        raise ScatteredError(f"expected at most {MOST_COMPONENTS} connected components, found {numbers.max() + 1}")
    owners = np.repeat(numbers, lengths)
    return Components(shape_zyx, voxels, owners, np.bincount(owners))


def _number(runs: int, one: Int64Array, other: Int64Array) -> Int64Array:
    """Number of the component of each run, where ``one[i]`` and ``other[i]`` belong together.

    Every run points at a run before it in its component, or at itself. Each round lets the first runs of two components
    that touch point at the earlier one, and then every run at the first of its component.
    """
    root = np.arange(runs)
    while True:
        ours, theirs = root[one], root[other]
        earlier = np.minimum(ours, theirs)
        if np.array_equal(ours, theirs):
            return np.asarray((np.cumsum(root == np.arange(runs)) - 1)[root])
        np.minimum.at(root, ours, earlier)
        np.minimum.at(root, theirs, earlier)
        while not np.array_equal(ahead := root[root], root):
            root = ahead


def without_narrow_links(components: Components, narrowest: int) -> tuple[Components, Int64Array]:
    """Cut components at links narrower than ``narrowest`` voxels in the slice (y, x).

    A component is opened by a square of that side, two slices thick, then one slice thick, and by ever smaller squares,
    down to 2, in the same way. Where two or more parts remain, they take its place, and what the square does not fit
    into (links, fringes) belongs to none of them; otherwise it stays as it is.

    Returns
    -------
    The components, in raster order of their first voxels, and for each the number of the one that it comes from.
    """
    result, origin = components, np.arange(len(components))
    for side in range(narrowest, 1, -1):
        for slices in (2, 1):
            result, before = _cut(result, side, slices)
            origin = origin[before]
    return result, origin


def without_threads(components: Components, narrowest: int) -> Components:
    """Remove from components of lines, combs and nets the voxels that are in no square (y, x) of side ``narrowest``.

    They are components of at least 8 such squares' voxels of which less than three quarters are in such squares.
    Numbers and sizes stay: threads count against an overlap, and reach no lesion.
    """
    large = components.sizes >= 8 * narrowest**2
    if not large.any():
        return components
    solid = _held(components, [box.opened(narrowest, 1) for box in components.boxes])
    solid_sizes = np.bincount(components.owners[solid], minlength=len(components))
    thready = large & (4 * solid_sizes < 3 * components.sizes)
    if not thready.any():
        return components
    kept = solid | ~thready[components.owners]
    return replace(components, voxels=components.voxels[kept], owners=components.owners[kept])


def _cut(components: Components, side: int, slices: int) -> tuple[Components, Int64Array]:
    """Split components that an opening divides; also the origin of each part."""
    whole = components, np.arange(len(components))
    if not (components.sizes >= 2 * slices * side**2).any():  # smaller ones hold no two such boxes
        return whole
    opened = [box.opened(side, slices) for box in components.boxes]
    if all(box.is_surely_one(bits) for box, bits in zip(components.boxes, opened, strict=True)):
        return whole
    held = _held(components, opened)
    inner, whose = components.voxels[held], components.owners[held]
    parts = connect(inner, components.shape_zyx)
    cut = np.bincount(_origin(parts, whose), minlength=len(components)) > 1
    if not cut.any():
        return whole
    voxels = np.union1d(components.voxels[~cut[components.owners]], inner[cut[whose]])
    result = connect(voxels, components.shape_zyx)
    return result, _origin(result, components.owners[np.searchsorted(components.voxels, voxels)])


def _origin(parts: Components, whose: Int64Array) -> Int64Array:
    """Which component each part comes from, given that of each of its voxels."""
    origin = np.zeros(len(parts), dtype=np.int64)
    origin[parts.owners] = whose
    return origin


def _held(components: Components, bits: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether each voxel is one of its box's bits."""
    held = np.zeros(components.voxels.size, dtype=np.bool_)
    for box, some in zip(components.boxes, bits, strict=True):
        held[box.members] = box.holds(some)
    return held


def intersections(lesions: Components, candidates: Components) -> Int64Array:
    """Voxels that each lesion shares with each candidate, shape (lesions, candidates).

    Raises
    ------
    ValueError
        Both have components and their images differ in shape.
    """
    shape = (len(lesions), len(candidates))
    if 0 in shape:
        return np.zeros(shape, dtype=np.int64)
    if lesions.shape_zyx != candidates.shape_zyx:
        raise ValueError(f"lesions on {lesions.shape_zyx} cannot meet candidates on {candidates.shape_zyx}")
    places = np.searchsorted(lesions.voxels, candidates.voxels)
    places[places == lesions.voxels.size] = 0
    shared = lesions.voxels[places] == candidates.voxels
    pairs = lesions.owners[places[shared]] * len(candidates) + candidates.owners[shared]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
