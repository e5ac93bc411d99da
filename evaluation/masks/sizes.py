"""Volume and largest 3-D diameter of components."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.images.grid import Grid
from evaluation.masks.components import Components, Int64Array

_POINTS_AT_ONCE = 2_000


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
    # |p − q| ≤ |p − middle| + |q − middle|: points too near to the middle for the best so far are left out
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    reach = np.linalg.norm(points - middle, axis=1)
    farthest = points[int(reach.argmax())]
    opposite = points[int(np.linalg.norm(points - farthest, axis=1).argmax())]
    best = _farthest(opposite[None, :], points)
    points = points[reach >= best - reach.max() - 1e-9]
    return max(
        _farthest(points[first : first + _POINTS_AT_ONCE], points) for first in range(0, len(points), _POINTS_AT_ONCE)
    )


def _farthest(some: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> float:
    return float(np.sqrt(((some[:, None, :] - points[None, :, :]) ** 2).sum(axis=2).max()))
