"""The grid of an everyday NIfTI-1 header, without ITK, which takes as long for a header as for half the voxels.

A NIfTI places its voxels twice, by a quaternion (qform) and by an affine (sform). Which of them ITK follows depends on
codes and on decompositions in single precision; but where the affine is marked as the scanner's and both say the same,
it is the affine. Only such headers are answered here, with ITK's grid to the last bit; all others are ITK's business.

Sources: ``nifti1.h``; ITK 5.4, ``itkNiftiImageIO.cxx``, for the choice between the two.
"""

import math
import struct

import numpy as np
import numpy.typing as npt

from contract.volume import Grid

HEADER_BYTES = 348

_SCANNER = 1
_MILLIMETRES = 2
_FIRST_VOXEL = 352
_SAME_MM = 4e-6  # ITK takes 1e-5, in single precision
_LONGEST_SPACING_MM = 16.0  # single precision of longer ones is too coarse for that
_NO_ROTATION_PART = 1e-7  # below, ``nifti1.h`` takes the quaternion's first number for 0


def everyday_grid(header: bytes) -> Grid | None:
    """The grid that a header of 348 bytes describes, in LPS and mm; None where ITK has to be asked, or to refuse it."""
    if header[:4] != struct.pack("<i", HEADER_BYTES) or header[344:348] != b"n+1\0":
        return None
    count, *sizes = struct.unpack_from("<4h", header, 40)
    (intent,) = struct.unpack_from("<h", header, 68)
    qfac, *spacing = struct.unpack_from("<4f", header, 76)
    (begin,) = struct.unpack_from("<f", header, 108)
    qform, sform = struct.unpack_from("<2h", header, 252)
    b, c, d, *offset = struct.unpack_from("<6f", header, 256)
    affine = np.array(struct.unpack_from("<12f", header, 280)).reshape(3, 4)
    everyday = count == 3 and min(sizes) > 1 and intent == 0 and header[123] & 7 == _MILLIMETRES
    placed = qform > 0 and sform == _SCANNER and affine[:, 3].tolist() == offset and all(map(math.isfinite, offset))
    if not (everyday and placed and begin >= _FIRST_VOXEL and all(0 < each <= _LONGEST_SPACING_MM for each in spacing)):
        return None
    rotation = _rotation(b, c, d)
    if rotation is None:
        return None
    (dx, dy, dz), (width, height, depth) = spacing, sizes
    apart = np.abs(rotation * [dx, dy, -dz if qfac < 0 else dz] - affine[:, :3])
    if not (apart <= _SAME_MM).all():
        return None
    affine[:2] *= -1  # NIfTI's x and y run to the right and to the front
    columns = [_unit(x, y, z) for x, y, z in affine[:, :3].T.tolist()]
    x, y, z = affine[:, 3].tolist()
    return Grid((width, height, depth), (dx, dy, dz), (x, y, z), tuple(c[row] for row in range(3) for c in columns))


def _rotation(b: float, c: float, d: float) -> npt.NDArray[np.float64] | None:
    """The matrix of a unit quaternion (a, b, c, d); None where it hangs on the last bit what ``a`` is."""
    rest = 1.0 - (b * b + c * c + d * d)
    if not abs(rest - _NO_ROTATION_PART) > _NO_ROTATION_PART / 1000:
        return None
    if rest < _NO_ROTATION_PART:
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(rest)
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length
