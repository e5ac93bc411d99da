"""The header of an image file, and the rules for headers of all formats.

Formats have a module each (``meta_image``, ``nifti``), the only parser of its headers: ITK writes images here and
resamples them, but reads no file. So what is checked and what is read cannot differ.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contract.errors import OncoduetError

MOST_VOXELS = 1 << 31
"""Limit above any scan: a whole body at 1 mm has less than 2^30 voxels."""

_FARTHEST_MM = 1e6
_ORTHONORMAL = 1e-2  # how far the products of direction vectors may be from 0 and 1; tools round directions


@dataclass(frozen=True)
class ImageHeader:
    """A checked header: a 3D image with one real number per voxel, all of them in the file itself."""

    size_xyz: tuple[int, int, int]
    spacing_mm_xyz: tuple[float, float, float]
    origin_mm_xyz: tuple[float, float, float]
    """Centre of the first voxel in the patient, LPS."""
    direction: tuple[float, ...]
    """Direction cosines, 3×3, row by row; columns are the axes x, y, z."""
    type: np.dtype[Any]
    """Type of a voxel as stored in the file."""
    begin: int
    """Byte at which the voxels begin, after decompression of a gzip file."""
    stream_bytes: int | None = None
    """Length of the compressed stream that begins there; None if not compressed, or the whole file is a gzip."""
    slope: float = 1.0
    """A stored value times ``slope`` plus ``intercept`` is the voxel."""
    intercept: float = 0.0

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the array of voxels."""
        x, y, z = self.size_xyz
        return z, y, x

    @property
    def is_scaled(self) -> bool:
        """Whether the voxels are other than the stored values."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def voxel_bytes(self) -> int:
        """Length of the voxels as stored in the file, inflated."""
        return math.prod(self.size_xyz) * self.type.itemsize


def checked(path: Path, header: ImageHeader) -> ImageHeader:
    """The header itself, unless its size, spacing or direction make no sense; then ``OncoduetError``."""
    if math.prod(header.size_xyz) > MOST_VOXELS:
        raise OncoduetError(path, expected=f"at most {MOST_VOXELS} voxels", found=math.prod(header.size_xyz))
    if not all(math.isfinite(value) and value > 0 for value in header.spacing_mm_xyz):
        raise OncoduetError(path, expected="positive spacings", found=number_list(header.spacing_mm_xyz))
    if not all(abs(value) <= _FARTHEST_MM for value in header.origin_mm_xyz):
        found = number_list(header.origin_mm_xyz)
        raise OncoduetError(path, expected=f"an origin within {_FARTHEST_MM:g} mm", found=found)
    axes = np.array(header.direction).reshape(3, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        perpendicular = bool(np.all(np.abs(axes.T @ axes - np.eye(3)) <= _ORTHONORMAL))
    if not perpendicular:
        raise OncoduetError(
            path, expected="perpendicular unit vectors as direction", found=number_list(header.direction)
        )
    return header


def number_list(values: Iterable[float]) -> str:
    """Numbers for a message."""
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
