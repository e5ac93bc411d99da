"""The geometry of images: where their voxels are in the patient, how axes are turned, and how grids relate.

Arrays are (z, y, x); a grid's size, spacing and origin are (x, y, z), in mm. Grids are compared, never repaired.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.images.image_header import number_list

Scalar = TypeVar("Scalar", bound=np.generic)

Box = tuple[slice, slice, slice]
"""Part of an array, (z, y, x), with whole, bounded slices."""


@dataclass(frozen=True)
class Grid:
    """Placement of an image's voxels in the patient (LPS, mm)."""

    size_xyz: tuple[int, int, int]
    spacing_mm_xyz: tuple[float, float, float]
    origin_mm_xyz: tuple[float, float, float]
    direction: tuple[float, ...]  # 3×3, row by row, columns are the axes x, y, z

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of an array on this grid."""
        x, y, z = self.size_xyz
        return z, y, x

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        """Voxel size along the array's axes."""
        x, y, z = self.spacing_mm_xyz
        return z, y, x

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel."""
        return float(np.prod(self.spacing_mm_xyz)) / 1000.0

    @property
    def extent_mm_zyx(self) -> tuple[float, float, float]:
        """Outer size of the image along the array's axes."""
        z, y, x = (n * s for n, s in zip(self.shape_zyx, self.spacing_mm_zyx, strict=True))
        return z, y, x

    def corners_mm(self) -> npt.NDArray[np.float64]:
        """The eight outer corners in the patient, shape (8, 3), xyz."""
        bits = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1)
        index = bits * np.array(self.size_xyz)[:, None] - 0.5
        matrix = np.array(self.direction).reshape(3, 3) @ np.diag(self.spacing_mm_xyz)
        return np.asarray((np.array(self.origin_mm_xyz)[:, None] + matrix @ index).T)

    def centres_mm(self) -> npt.NDArray[np.float64]:
        """Each voxel's centre in the patient, shape (3, z, y, x); the components are x, y, z."""
        z, y, x = np.indices(self.shape_zyx, dtype=np.float64)
        matrix = np.array(self.direction).reshape(3, 3) @ np.diag(self.spacing_mm_xyz)
        offset = np.array(self.origin_mm_xyz)[:, None, None, None]
        return np.asarray(offset + np.tensordot(matrix, np.stack([x, y, z]), axes=1))

    def describe(self) -> str:
        """Size, spacing and origin (xyz) in one line, for messages."""
        return (
            f"size {number_list(self.size_xyz)}, spacing {number_list(self.spacing_mm_xyz)}, "
            f"origin {number_list(self.origin_mm_xyz)}, direction {number_list(self.direction)}"
        )


@dataclass(frozen=True)
class Axes:
    """An exchange and flips of an array's axes; voxel values are unchanged."""

    order_zyx: tuple[int, int, int]
    """The array's axes that become z, y and x."""
    flipped_zyx: tuple[bool, bool, bool]
    """Whether each new axis is reversed."""

    def apply(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The array along the new axes."""
        return array.transpose(self.order_zyx)[self._flips]

    def undo(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """The array along the axes that it had before."""
        z, y, x = (self.order_zyx.index(axis) for axis in range(3))
        return array[self._flips].transpose((z, y, x))

    @property
    def _flips(self) -> Box:
        z, y, x = (slice(None, None, -1 if flipped else 1) for flipped in self.flipped_zyx)
        return z, y, x


NATIVE = Axes((0, 1, 2), (False, False, False))


def axes_to_lps(grid: Grid) -> Axes:
    """The exchange and flips after which x runs to the left, y to the back and z to the head, as nearly as can be."""
    direction = np.array(grid.direction).reshape(3, 3)  # column: axis of the image, row: component in the patient
    chosen = max(itertools.permutations(range(3)), key=lambda axes: sum(abs(direction[p, axes[p]]) for p in range(3)))
    x, y, z = chosen
    flips = [bool(direction[component, axis] < 0) for component, axis in enumerate(chosen)]
    return Axes((2 - z, 2 - y, 2 - x), (flips[2], flips[1], flips[0]))


def along_axes(grid: Grid, axes: Axes) -> Grid:
    """The grid of ``axes.apply(array)`` for an array on ``grid``."""
    order_xyz = [2 - axis for axis in reversed(axes.order_zyx)]
    flipped_xyz = axes.flipped_zyx[::-1]
    direction = np.array(grid.direction).reshape(3, 3)
    origin = np.array(grid.origin_mm_xyz)
    columns = []
    for axis, flipped in zip(order_xyz, flipped_xyz, strict=True):
        if flipped:
            origin = origin + direction[:, axis] * grid.spacing_mm_xyz[axis] * (grid.size_xyz[axis] - 1)
        columns.append(-direction[:, axis] if flipped else direction[:, axis])
    return Grid(
        size_xyz=three_integers(grid.size_xyz[axis] for axis in order_xyz),
        spacing_mm_xyz=three(grid.spacing_mm_xyz[axis] for axis in order_xyz),
        origin_mm_xyz=three(origin.tolist()),
        direction=tuple(float(value) + 0.0 for value in np.stack(columns, axis=1).ravel()),
    )


def part_of(grid: Grid, whole: Grid) -> Box | None:
    """Offset of a grid in another whose voxels it shares; None where it has other voxels, or some beyond the other."""
    same_axes = np.allclose(grid.direction, whole.direction, atol=1e-6)
    if not same_axes or not np.allclose(grid.spacing_mm_xyz, whole.spacing_mm_xyz, rtol=1e-6):
        return None
    offset = np.array(grid.origin_mm_xyz) - np.array(whole.origin_mm_xyz)
    index = np.array(whole.direction).reshape(3, 3).T @ offset / np.array(whole.spacing_mm_xyz)
    first = np.round(index).astype(int)
    if np.abs(index - first).max() > 1e-3 or first.min() < 0 or (first + grid.size_xyz > whole.size_xyz).any():
        return None
    x, y, z = (slice(int(start), int(start) + size) for start, size in zip(first, grid.size_xyz, strict=True))
    return z, y, x


def same_grid(a: Grid, b: Grid, *, tolerance_mm: float = 1e-3) -> bool:
    """Whether two grids have the same size and no corner is further apart than the tolerance."""
    if a == b:
        return True
    if a.size_xyz != b.size_xyz:
        return False
    return bool(np.abs(a.corners_mm() - b.corners_mm()).max() <= tolerance_mm)


def require_same_grid(found: Grid, expected: Grid, *, found_name: str, expected_name: str) -> None:
    """Raise ``OncoduetError`` naming both sides unless the grids agree to a tenth of a millimetre.

    Tools round directions: PI-CAI's own label map of ProstateX-0000 has lost its third decimal there
    and is 0.056 mm off its T2W at the corners.
    """
    if not same_grid(found, expected, tolerance_mm=0.1):
        raise OncoduetError(
            found_name, expected=f"the grid of {expected_name} ({expected.describe()})", found=found.describe()
        )


def fields_of_view_meet(a: Grid, b: Grid) -> bool:
    """Whether two images share a volume in the patient, however they are tilted.

    Two boxes are apart exactly if they are along a normal of one of their faces or a common normal of two edges
    (separating axis theorem; Gottschalk, Lin, Manocha: OBBTree, SIGGRAPH 1996).
    """
    axes_a, axes_b = (np.array(grid.direction).reshape(3, 3).T for grid in (a, b))
    normals = np.concatenate([axes_a, axes_b, np.cross(axes_a[:, None], axes_b[None]).reshape(9, 3)])
    normals = normals[np.linalg.norm(normals, axis=1) > 1e-6]  # parallel edges have no common normal
    along_a, along_b = normals @ a.corners_mm().T, normals @ b.corners_mm().T
    low = np.maximum(along_a.min(axis=1), along_b.min(axis=1))
    high = np.minimum(along_a.max(axis=1), along_b.max(axis=1))
    return bool(np.all(low < high))


def covered_share(grid: Grid, reference: Grid) -> float:
    """Share of the reference's middle half, along each axis of it, that is in an image's field of view."""
    steps = 0.25 + (np.arange(32) + 0.5) / 64
    along = np.stack(np.meshgrid(steps, steps, steps)).reshape(3, -1)
    millimetres, millimetres_there = (
        np.array(each.direction).reshape(3, 3) @ np.diag(each.extent_mm_zyx[::-1]) for each in (reference, grid)
    )
    first, first_there = (each.corners_mm()[0][:, None] for each in (reference, grid))
    there = np.linalg.solve(millimetres_there, first + millimetres @ along - first_there)
    return float(np.mean(((there >= 0) & (there <= 1)).all(axis=0)))


def three(values: Iterable[float]) -> tuple[float, float, float]:
    """Exactly three numbers as a tuple."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def three_integers(values: Iterable[int]) -> tuple[int, int, int]:
    """Exactly three whole numbers as a tuple."""
    x, y, z = (int(value) for value in values)
    return x, y, z
