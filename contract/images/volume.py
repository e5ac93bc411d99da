"""Images on their grids: read, written, resampled, and converted between our (z, y, x) and SimpleITK's (x, y, z)."""

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.images.grid import Grid, part_of, same_grid, three, three_integers
from contract.images.image_header import ImageHeader
from contract.images.whole_image import read_header, read_voxels
from contract.text import one_line

Float32Array = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int32]
Interpolation = Literal["b-spline", "linear", "nearest"]

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
class Volume:
    """An array (z, y, x) on its grid."""

    array: npt.NDArray[np.generic]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape_zyx:
            raise ValueError(f"array {self.array.shape} does not fit the grid {self.grid.shape_zyx}")


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
        size_xyz=three_integers(image.GetSize()),
        spacing_mm_xyz=three(image.GetSpacing()),
        origin_mm_xyz=three(image.GetOrigin()),
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
