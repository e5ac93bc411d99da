"""Volume and largest 3-D diameter of components."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.images.grid import Grid
from evaluation.masks.components import Components, Int64Array

_POINTS_AT_ONCE = 64


@dataclass(frozen=True)
class Size:
    """How large a component is."""

    volume_ml: float
    diameter_mm: float
    """Largest distance between two points of its surface: centres of voxel faces, as PyRadiomics' Maximum3DDiameter."""


def sizes_of(components: Components, grid: Grid) -> tuple[Size, ...]:
    """The size of each component, by its number."""
    return tuple(
        Size(
            float(components.sizes[number] * grid.voxel_volume_ml),
            _diameter(components.voxels[components.owners == number], grid),
        )
        for number in range(len(components))
    )


def _diameter(voxels: Int64Array, grid: Grid) -> float:
    """Largest diameter of voxels, by ascending raster index: only the two ends of each row along x can be extreme."""
    row = voxels // grid.size_xyz[0]
    ends = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(row, append=-1) != 0))
    spacing = np.array(grid.spacing_mm_zyx)
    centres = np.stack(np.unravel_index(voxels[ends], grid.shape_zyx), axis=1) * spacing
    faces = np.concatenate([np.diag(spacing / 2), np.diag(-spacing / 2)])
    points = (centres[:, None, :] + faces).reshape(-1, 3)
    # |p − q| ≤ |p − middle| + |q − middle|: pairs too near to the middle for the best so far are left out
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = np.linalg.norm(points - middle, axis=1)
    order = np.argsort(-reach)
    points, reach = points[order], reach[order]
    opposite = points[int(np.linalg.norm(points - points[0], axis=1).argmax())]
    best = _farthest(opposite[None, :], points)
    for first in range(0, len(points), _POINTS_AT_ONCE):
        far = int(np.searchsorted(-reach, reach[first] - best + 1e-9, side="right"))
        if far <= first:
            break
        best = max(best, _farthest(points[first : first + _POINTS_AT_ONCE], points[first:far]))
    return best


def _farthest(some: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> float:
    squares = sum(np.subtract.outer(some[:, axis], points[:, axis]) ** 2 for axis in range(3))
    return float(np.sqrt(np.max(squares)))
