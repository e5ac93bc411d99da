"""Images with their geometry, and the only crossing between (z, y, x) and (x, y, z).

Arrays are (z, y, x); SimpleITK's sizes, spacings and origins are (x, y, z), in mm. Grids are compared, never repaired.
"""

import itertools
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.images.image_header import ImageHeader, listed
from contract.images.whole_image import read_header, read_voxels
from contract.text import one_line

Float32Array = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int32]
Interpolation = Literal["b-spline", "linear", "nearest"]
Scalar = TypeVar("Scalar", bound=np.generic)

Box = tuple[slice, slice, slice]
"""Part of an array, (z, y, x), with whole, bounded slices."""

_INTERPOLATORS = {"b-spline": sitk.sitkBSpline, "linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}
_SUFFIXES = (".nii.gz", ".mha", ".nii")
_LARGEST_VOXEL = 1e12


class _ItkLog(sitk.LoggerBase):  # type: ignore[misc]
    """Passes ITK's warnings to our log; ITK writes them to stderr, which the platform treats as an error."""

    def DisplayText(self, text: str) -> None:  # noqa: N802 - ITK calls it so
        """Log a text of several lines as one."""
        logging.getLogger(__name__).warning("%s", one_line(text))

    DisplayWarningText = DisplayErrorText = DisplayGenericOutputText = DisplayDebugText = DisplayText


_itk_log = _ItkLog()  # has to live as long as ITK may call it
_itk_log.SetAsGlobalITKLogger()


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
            f"size {listed(self.size_xyz)}, spacing {listed(self.spacing_mm_xyz)}, "
            f"origin {listed(self.origin_mm_xyz)}, direction {listed(self.direction)}"
        )


@dataclass(frozen=True)
class Volume:
    """An array (z, y, x) on its grid."""

    array: npt.NDArray[np.generic]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape_zyx:
            raise ValueError(f"array {self.array.shape} does not fit the grid {self.grid.shape_zyx}")


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
        size_xyz=_three_integers(grid.size_xyz[axis] for axis in order_xyz),
        spacing_mm_xyz=_three(grid.spacing_mm_xyz[axis] for axis in order_xyz),
        origin_mm_xyz=_three(origin.tolist()),
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


def read_grid(path: Path) -> Grid:
    """Read the geometry alone, without the voxels.

    Raises ``OncoduetError``: the file is missing or unreadable, the image is not 3D with one value per voxel, or its
    spacing, placement or direction is missing or makes no sense.
    """
    return grid_of(read_header(path))


def grid_of(header: ImageHeader) -> Grid:
    """The grid that a header gives."""
    return Grid(header.size_xyz, header.spacing_mm_xyz, header.origin_mm_xyz, header.direction)


def read_volume(path: Path) -> Volume:
    """Read a scan or a map as float32.

    Raises ``OncoduetError`` as :func:`read_grid`; also for a truncated or damaged file, for NaN or infinite voxels,
    and for voxels so large that no scanner has measured them and float32 cannot hold their squares.
    """
    volume = _read(path)
    with np.errstate(over="ignore"):  # beyond float32: counted as infinite
        array = volume.array.astype(np.float32, copy=False)
    low, high = float(array.min()), float(array.max())  # NaN if any voxel is
    if not (np.isfinite(low) and np.isfinite(high)):
        wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise OncoduetError(path, expected="finite voxels", found=f"{wrong} NaN or infinite")
    if not -_LARGEST_VOXEL <= low <= high <= _LARGEST_VOXEL:
        raise OncoduetError(
            path, expected=f"voxels between {-_LARGEST_VOXEL:g} and {_LARGEST_VOXEL:g}", found=f"{low:g} to {high:g}"
        )
    return Volume(array, volume.grid)


def read_label(path: Path, known_values: Iterable[int] | None = None) -> Volume:
    """Read a label map as int32; float files are accepted when every value is whole (PI-CAI and PANORAMA have some).

    Raises ``OncoduetError`` as :func:`read_grid`; also for a truncated or damaged file, for fractional or negative
    values and for values outside ``known_values`` and 0.
    """
    volume = _read(path)
    array = whole_labels(path, volume.array)
    if known_values is not None:
        known = sorted(set(known_values))
        unknown = sorted(set(np.unique(array[array != 0]).tolist()) - set(known))
        if unknown:
            raise OncoduetError(path, expected=f"label values {known}", found=unknown)
    return Volume(array, volume.grid)


def whole_labels(path: Path, values: npt.NDArray[Any]) -> LabelArray:
    """Values of a label map as int32; ``OncoduetError`` where that changes one, or one is negative."""
    with np.errstate(invalid="ignore"):  # what int32 cannot hold differs afterwards
        labels = values.astype(np.int32)
    if not np.array_equal(labels, values):
        raise OncoduetError(path, expected="whole numbers in a label map", found="fractional or non-finite values")
    if labels.size and labels.min() < 0:
        raise OncoduetError(path, expected="no negative numbers in a label map", found=labels.min())
    return labels


def write_volume(path: Path, volume: Volume) -> None:
    """Write an image atomically, compressed.

    A ``.mha`` header carries the grid to the last bit; ``.nii.gz`` keeps sizes, and the rest to single precision.

    Raises ``OncoduetError``: the disk did not take the whole of it, which ITK does not always say.
    """
    if not path.name.endswith((".mha", ".nii.gz")):
        raise ValueError(f"{path}: images are written as .mha or .nii.gz")
    _require_utf8(path)
    with atomic_file(path) as partial:
        try:
            with _quiet():
                sitk.WriteImage(to_image(volume), str(partial), useCompression=True)
            read_voxels(partial, read_header(partial))
        except (RuntimeError, OncoduetError) as error:
            cause = [line for line in str(error).splitlines() if line.strip()][-1].removeprefix(f"{partial}: ")
            free_bytes = shutil.disk_usage(path.parent).free
            raise OncoduetError(
                path, expected="enough space for it on the disk", found=f"{free_bytes} bytes free ({cause})"
            ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence MetaIO and the NIfTI library, which write to stderr if the disk is full; callers report it."""
    with suppress(OSError):  # full, as after a last line that did not fit
        sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def to_image(volume: Volume) -> sitk.Image:
    """The same voxels and grid as a SimpleITK image."""
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.grid.spacing_mm_xyz)
    image.SetOrigin(volume.grid.origin_mm_xyz)
    image.SetDirection(volume.grid.direction)
    return image


def from_image(image: sitk.Image) -> Volume:
    """The same voxels and grid as an array (z, y, x)."""
    grid = Grid(
        size_xyz=_three_integers(image.GetSize()),
        spacing_mm_xyz=_three(image.GetSpacing()),
        origin_mm_xyz=_three(image.GetOrigin()),
        direction=tuple(image.GetDirection()),
    )
    return Volume(sitk.GetArrayFromImage(image), grid)


def resample(
    volume: Volume, grid: Grid, *, interpolation: Interpolation, outside: float, tolerance_mm: float = 1e-3
) -> Volume:
    """Bring a volume onto another grid; voxels outside its field of view get ``outside``.

    On the same grid (to the tolerance), or a part of it, voxels are taken as they are.
    """
    if same_grid(volume.grid, grid, tolerance_mm=tolerance_mm):
        return Volume(volume.array, grid)
    part = part_of(grid, volume.grid)
    if part is not None:
        return Volume(volume.array[part], grid)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.size_xyz)
    resampler.SetOutputSpacing(grid.spacing_mm_xyz)
    resampler.SetOutputOrigin(grid.origin_mm_xyz)
    resampler.SetOutputDirection(grid.direction)
    resampler.SetInterpolator(_INTERPOLATORS[interpolation])
    resampler.SetDefaultPixelValue(outside)
    return from_image(resampler.Execute(to_image(volume)))


def same_grid(a: Grid, b: Grid, *, tolerance_mm: float = 1e-3) -> bool:
    """Whether two grids have the same size and no corner is further apart than the tolerance."""
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


def image_stem(path: Path) -> str:
    """The file name without an image's ending; ``.nii.gz`` counts as one ending."""
    for suffix in _SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def is_image(path: Path) -> bool:
    """Whether the name has an ending of images that we read."""
    return path.is_file() and not path.name.startswith(".") and path.name.endswith(_SUFFIXES)


def _read(path: Path) -> Volume:
    header = read_header(path)
    return Volume(read_voxels(path, header), grid_of(header))


def _require_utf8(path: Path) -> None:
    """SimpleITK ends the process at a name of other bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise OncoduetError(path, "name is not valid UTF-8") from None


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _three_integers(values: Iterable[int]) -> tuple[int, int, int]:
    x, y, z = (int(value) for value in values)
    return x, y, z
