"""The header of a single-file NIfTI-1 (``.nii``, ``.nii.gz``), read so that it has one meaning.

A NIfTI may place its voxels twice, by a quaternion (qform) and by an affine (sform); tools differ in which they
follow. Here at least one has to be set, and both have to agree. Which one counts follows ITK: the affine if it is not
skewed and is the scanner's, the only one, or equal to the quaternion but for rounding; otherwise the quaternion. ITK's
grid is reproduced to the last bit. (Between placements that agree to 1e-4, ITK's choice depends on rounding.)

Sources: ``nifti1.h``; ITK 5.4, ``itkNiftiImageIO.cxx`` and ``nifti1_io.c``, for the arithmetic.
"""

import logging
import math
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.images.image_header import ImageHeader, checked, number_list

logger = logging.getLogger(__name__)

HEADER_BYTES = 348
_FIRST_VOXEL = 352
_LAST_FIRST_VOXEL = 1 << 24
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_SEVERAL = {*range(1004, 1011), 2003, 2004}  # intents that say that a voxel is more than a number: vectors, colours
_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # per unit: unknown (as ITK takes it), metre, millimetre, micrometre
_SAME_PLACE_MM = 0.5  # tools round directions: real label maps of PI-CAI reach 0.13 mm
_WARN_APART_MM = 0.05
_SKEWED = 1e-4
_ALIKE = 1e-4
_EQUAL = 1e-5
_SCANNER = 1
_OTHERS = {b"n+2": "NIfTI-2", b"ni2": "NIfTI-2", b"ni1": "half of a NIfTI-1 whose voxels are in another file"}
"""Other formats by the first bytes of their magic, which follows the size in NIfTI-2 and ends the header in NIfTI-1."""
_UNIT_QUATERNION = 1e-4
_NO_ROTATION_PART = 1e-7  # below, ``nifti1.h`` takes the quaternion's first number for 0


def parse_nifti_header(path: Path, header: bytes) -> ImageHeader:
    """Check the first 348 bytes of a file and say what they describe.

    Raises ``OncoduetError``: they are no such header, or describe anything but a 3D image with one real number per
    voxel, placed once.
    """
    order = next((order for order in "<>" if header[:4] == struct.pack(f"{order}i", HEADER_BYTES)), None)
    if order is None or len(header) < HEADER_BYTES or header[344:348] != b"n+1\0":
        found = _OTHERS.get(header[4:7]) or _OTHERS.get(header[344:347]) or "none"
        raise OncoduetError(path, expected="the header of a single-file NIfTI-1", found=found)
    size = _size(path, struct.unpack_from(f"{order}8h", header, 40))
    intent, kind, bits = struct.unpack_from(f"{order}3h", header, 68)
    voxels_begin, slope, intercept = struct.unpack_from(f"{order}3f", header, 108)
    if kind not in _TYPES:
        raise OncoduetError(path, expected="real numbers as voxels", found=f"the NIfTI datatype {kind}")
    voxel_type = np.dtype(order + _TYPES[kind])
    if bits not in (0, 8 * voxel_type.itemsize):
        raise OncoduetError(
            path, expected=f"{8 * voxel_type.itemsize} bits per voxel for the NIfTI datatype {kind}", found=bits
        )
    if intent < 0 or intent in _SEVERAL:
        raise OncoduetError(path, expected="one value per voxel", found=f"the NIfTI intent {intent}")
    if not (_FIRST_VOXEL <= voxels_begin <= _LAST_FIRST_VOXEL and voxels_begin.is_integer()):
        raise OncoduetError(
            path,
            expected=f"vox_offset from {_FIRST_VOXEL} to {_LAST_FIRST_VOXEL} in the NIfTI header",
            found=f"{voxels_begin:g}",
        )
    spacing, origin, direction = _placed(path, header, order, size)
    scale = _scale(path, slope, intercept)
    return checked(path, ImageHeader(size, spacing, origin, direction, voxel_type, int(voxels_begin), None, *scale))


def _size(path: Path, dimensions: tuple[int, ...]) -> tuple[int, int, int]:
    count, *sizes = dimensions
    if not 1 <= count <= 7 or min(sizes[: min(count, 3)]) < 1 or min(sizes[:count]) < 0:
        raise OncoduetError(path, expected="positive sizes in the NIfTI header", found=sizes[: max(count, 0)])
    while count > 3 and sizes[count - 1] in (0, 1):  # 0: an axis that is not there, as ITK takes it
        count -= 1
    if count != 3:
        raise OncoduetError(path, expected="a 3D image", found=f"{count}D")
    x, y, z = sizes[:3]
    return x, y, z


def _scale(path: Path, slope: float, intercept: float) -> tuple[float, float]:
    """Slope and intercept; a slope of 0, or NaN as nibabel has it, says that there are none."""
    if math.isnan(slope) and (math.isnan(intercept) or intercept == 0):
        return 1.0, 0.0
    sensible = math.isfinite(slope) and math.isfinite(intercept) and not (slope == 0 and intercept != 0)
    if not sensible or any(0 < abs(value) < np.finfo(np.float64).eps for value in (slope, intercept)):
        raise OncoduetError(
            path, expected="a finite slope and intercept in the NIfTI header", found=f"{slope:g} and {intercept:g}"
        )
    return (slope or 1.0), intercept


class _Placement(NamedTuple):
    """Columns of the axes (with their spacings) and the first voxel's place, in RAS and the header's unit."""

    matrix: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]

    def of(self, index_xyz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return index_xyz @ self.matrix.T + self.offset


def _placed(
    path: Path, header: bytes, order: str, size_xyz: tuple[int, int, int]
) -> tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, ...]]:
    """Spacing and origin (mm, LPS), and direction."""
    qfac, *spacing = struct.unpack_from(f"{order}4f", header, 76)
    qform_code, sform_code = struct.unpack_from(f"{order}2h", header, 252)
    b, c, d, *offset = struct.unpack_from(f"{order}6f", header, 256)
    affine = np.array(struct.unpack_from(f"{order}12f", header, 280), np.float64).reshape(3, 4)
    unit = header[123] & 7
    if unit not in _MM:
        raise OncoduetError(path, expected="lengths in mm in the NIfTI header", found=f"the unit {unit}")
    if not all(math.isfinite(each) and each > 0 for each in spacing):
        raise OncoduetError(path, expected="positive spacings in the NIfTI header", found=number_list(spacing))
    qform = sform = None
    if qform_code > 0:
        x, y, z = spacing
        matrix = _quaternion(path, (b, c, d), [x, y, -z if qfac < 0 else z])
        qform = _Placement(matrix, np.array(offset, np.float64))
    if sform_code > 0:
        sform = _Placement(affine[:, :3], affine[:, 3])
    for placement in (qform, sform):
        if placement is None:
            continue
        if not (np.isfinite(placement.matrix).all() and np.isfinite(placement.offset).all()):
            raise OncoduetError(
                path,
                expected="finite numbers as placement in the NIfTI header",
                found=f"{_columns(placement)} from {number_list(placement.offset)}",
            )
        if not placement.matrix.any(axis=0).all():
            found = _columns(placement)
            raise OncoduetError(path, expected="perpendicular unit vectors as direction", found=found)
    millimetres = _MM[unit]
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (np.array(size_xyz) - 1.0)
    chosen = _agreed(path, _Placements(qform, sform, millimetres, sform_code), spacing, corners)
    columns = [_unit(x, y, z) for x, y, z in (chosen.matrix.T * [-1, -1, 1]).tolist()]
    px, py, pz = (chosen.offset * [-millimetres, -millimetres, millimetres]).tolist()
    dx, dy, dz = (each * millimetres for each in spacing)
    return (dx, dy, dz), (px, py, pz), tuple(column[row] for row in range(3) for column in columns)


class _Placements(NamedTuple):
    qform: _Placement | None
    sform: _Placement | None
    unit_mm: float
    sform_code: int


def _agreed(path: Path, placements: _Placements, spacing: list[float], corners: npt.NDArray[np.float64]) -> _Placement:
    """The placement that counts.

    Raises ``OncoduetError``: there is none; the two put a corner of the image more than half a millimetre apart; the
    affine's columns are not perpendicular, or have other lengths than the spacings.

    Parameters
    ----------
    corners
        Indices (x, y, z) of the image's corners, by row.
    """
    qform, sform, unit_mm, sform_code = placements
    if sform is None:
        if qform is None:
            raise OncoduetError(
                path,
                "neither qform_code nor sform_code is set in the NIfTI header; convert the image again with a tool "
                "that keeps its placement",
            )
        return qform
    axes = sform.matrix / np.linalg.norm(sform.matrix, axis=0)
    scaled = _Placement(axes * spacing, sform.offset)  # what counts: the spacings are the header's own
    for other, name in ((scaled, f"{number_list(spacing)} as spacings"), (qform, "a qform")):
        if other is None:
            continue
        apart = float(np.abs(sform.of(corners) - other.of(corners)).max() * unit_mm)
        if not apart <= _SAME_PLACE_MM:
            raise OncoduetError(
                path,
                expected="qform, sform and spacings of the NIfTI header that agree",
                found=(
                    f"an sform with axes {_columns(sform)} from {number_list(sform.offset)} and {name} "
                    f"{'' if other is scaled else f'with axes {_columns(other)} from {number_list(other.offset)} '}up "
                    f"to {apart:.3g} mm apart"
                ),
            )
    is_skewed = bool(np.abs(axes @ axes.T - np.eye(3)).max() > _SKEWED)
    if qform is None:
        if is_skewed:
            found = f"an sform with axes {_columns(sform)}"
            raise OncoduetError(path, expected="perpendicular unit vectors as direction", found=found)
        return sform
    if apart > _WARN_APART_MM:
        _warn_apart(path, apart)
    if is_skewed:
        return sform if _are_equal(sform, qform) else qform
    return sform if sform_code == _SCANNER or _are_alike(sform, qform) else qform


@lru_cache(maxsize=4096)
def _warn_apart(path: Path, apart_mm: float) -> None:
    """Warn once per file, although headers are read several times."""
    logger.warning("%s: qform and sform of the NIfTI header are up to %.3g mm apart", path, apart_mm)


def _are_equal(one: _Placement, other: _Placement) -> bool:
    return bool(np.abs(one.matrix - other.matrix).max() <= _EQUAL and np.array_equal(one.offset, other.offset))


def _are_alike(one: _Placement, other: _Placement) -> bool:
    """ITK's comparison: offsets, and singular values and left singular vectors of the matrices, to 1e-4."""
    (u, lengths, _), (other_u, other_lengths, _) = np.linalg.svd(one.matrix), np.linalg.svd(other.matrix)
    differences = (u @ other_u.T - np.eye(3), lengths - other_lengths, one.offset - other.offset)
    return max(float(np.abs(each).max()) for each in differences) <= _ALIKE


def _quaternion(path: Path, bcd: tuple[float, float, float], scales: list[float]) -> npt.NDArray[np.float64]:
    """Rotation of a unit quaternion (a, b, c, d), its columns scaled, rounded as ``nifti1_io.c`` does."""
    b, c, d = bcd
    squares = b * b + c * c + d * d
    if not squares <= 1 + _UNIT_QUATERNION:
        raise OncoduetError(path, expected="a unit quaternion in the NIfTI header", found=number_list((b, c, d)))
    if 1.0 - squares < _NO_ROTATION_PART:
        length = 1.0 / math.sqrt(squares)
        a, b, c, d = 0.0, b * length, c * length, d * length
    else:
        a = math.sqrt(1.0 - squares)
    doubled = np.longdouble(2)
    rows: list[list[Any]] = [
        [a * a + b * b - c * c - d * d, doubled * (b * c - a * d), doubled * (b * d + a * c)],
        [doubled * (b * c + a * d), a * a + c * c - b * b - d * d, doubled * (c * d - a * b)],
        [doubled * (b * d - a * c), doubled * (c * d + a * b), a * a + d * d - c * c - b * b],
    ]
    with np.errstate(over="ignore"):
        matrix = [[np.float32(value * scale) for value, scale in zip(row, scales, strict=True)] for row in rows]
    return np.array(matrix, np.float64)


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def _columns(placement: _Placement) -> str:
    return " ".join(number_list(column) for column in placement.matrix.T)
