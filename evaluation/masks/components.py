"""Connected components of an image, kept as a list of voxels instead of a volume.

Lesions and candidates alike are 26-connected. Almost every voxel of a label or detection map is zero, so what is kept
is the sorted list of the others: all intersections of lesions with candidates then come from one merge of two lists.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

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
    row, column = np.divmod(voxels, width)
    place = (row + row // height) * (width + 2) + column
    begins = np.flatnonzero(np.diff(place, prepend=-2) != 1)
    if begins.size > MOST_VOXEL_RUNS:
        raise ScatteredError(f"expected at most {MOST_VOXEL_RUNS} runs of voxels along x, found {begins.size}")
    lengths = np.diff(begins, append=place.size)
    first = place[begins]
    last = first + lengths - 1
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for rows_ahead in (1, height, height + 1, height + 2):  # (z, y + 1), (z + 1, y - 1), (z + 1, y), (z + 1, y + 1)
        ahead = rows_ahead * (width + 2)
        nearest = np.searchsorted(last, first + ahead - 1, side="left")
        touching = np.searchsorted(first, last + ahead + 1, side="right") - nearest
        runs = np.repeat(np.arange(first.size), touching)
        within = np.arange(runs.size) - np.repeat(np.cumsum(touching) - touching, touching)
        pairs.append(np.stack([runs, nearest[runs] + within]))
    one, other = np.concatenate(pairs, axis=1)
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
    inner = _opened(components.voxels[large[components.owners]], components.shape_zyx, narrowest, 1)
    solid = np.searchsorted(components.voxels, inner)
    solid_sizes = np.bincount(components.owners[solid], minlength=len(components))
    thready = large & (4 * solid_sizes < 3 * components.sizes)
    if not thready.any():
        return components
    kept = ~thready[components.owners]
    kept[solid] = True
    return replace(components, voxels=components.voxels[kept], owners=components.owners[kept])


def _cut(components: Components, side: int, slices: int) -> tuple[Components, Int64Array]:
    """Split components that an opening divides; also the origin of each part."""
    large = components.sizes >= 2 * slices * side**2  # smaller ones hold no two such boxes
    if not large.any():
        return components, np.arange(len(components))
    inner = _opened(components.voxels[large[components.owners]], components.shape_zyx, side, slices)
    parts = connect(inner, components.shape_zyx)
    whose = components.owners[np.searchsorted(components.voxels, inner)]
    cut = np.bincount(_origin(parts, whose), minlength=len(components)) > 1
    if not cut.any():
        return components, np.arange(len(components))
    voxels = np.union1d(components.voxels[~cut[components.owners]], inner[cut[whose]])
    result = connect(voxels, components.shape_zyx)
    return result, _origin(result, components.owners[np.searchsorted(components.voxels, voxels)])


def _origin(parts: Components, whose: Int64Array) -> Int64Array:
    """Which component each part comes from, given that of each of its voxels."""
    origin = np.zeros(len(parts), dtype=np.int64)
    origin[parts.owners] = whose
    return origin


def _opened(voxels: Int64Array, shape_zyx: tuple[int, int, int], side: int, slices: int) -> Int64Array:
    """The voxels inside a box of ``slices`` squares (y, x) of ``side`` that consists of such voxels only.

    The box is taken one axis after the other: where it begins, then what it covers.
    """
    _, height, width = shape_zyx
    slice_size = height * width
    first, last = int(voxels[0]) // slice_size, int(voxels[-1]) // slice_size
    ours = voxels - first * slice_size
    depth = last - first + 1
    axes = ((1, width, side), (width, height, side), (slice_size, depth, slices))
    found = ours
    for stride, length, extent in axes:
        among = _mask(found, depth * slice_size)
        found = found[found // stride % length <= length - extent]
        for ahead in range(1, extent):
            found = found[among[found + ahead * stride]]
    for stride, _, extent in axes:
        covered = _mask(found, depth * slice_size)
        for ahead in range(1, extent):
            covered[found + ahead * stride] = True
        found = ours[covered[ours]]
    return found + first * slice_size


def _mask(places: Int64Array, size: int) -> npt.NDArray[np.bool_]:
    """Whether each place up to ``size`` is one of these; untouched parts take no memory."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[places] = True
    return mask


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
