"""Images written by hand, byte by byte, and places computed from the definition of a grid."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from contract.images.grid import Grid

Saved = Callable[[str, bool], Path]
"""Write an image: suffix, compressed."""
HEADER = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
    "ElementSpacing": "0.5 0.75 3", "DimSize": "3 4 5", "ElementType": "MET_FLOAT",
}  # fmt: skip


def meta_image(path: Path, *, without: str | None = None, **changes: str) -> Path:
    """A MetaImage of 3 × 4 × 5 voxels written by hand."""
    lines = {key: value for key, value in (HEADER | changes).items() if key != without}
    lines.setdefault("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    path.write_bytes(text.encode() + np.arange(60, dtype="<f4").tobytes())
    return path


def nifti_header(order: str, sizes: tuple[int, ...]) -> bytes:
    """The first 352 bytes of a NIfTI of float32 in this byte order, placed by its quaternion."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}{1 + len(sizes)}h", header, 40, len(sizes), *sizes)
    struct.pack_into(f"{order}2h", header, 70, 16, 32)  # float, 32 bits
    struct.pack_into(f"{order}4f", header, 76, 1.0, 0.5, 0.75, 3.0)
    struct.pack_into(f"{order}f", header, 108, 352.0)
    struct.pack_into(f"{order}2h", header, 252, 1, 0)  # placed by the quaternion
    header[344:348] = b"n+1\0"
    return bytes(header)


def place_mm(grid: Grid, index_xyz: np.ndarray) -> np.ndarray:
    """Where an index lies, written out: origin + Σ index · spacing · axis."""
    axes = np.array(grid.direction).reshape(3, 3).T
    return np.array(grid.origin_mm_xyz) + sum(
        index_xyz[..., axis, None] * grid.spacing_mm_xyz[axis] * axes[axis] for axis in range(3)
    )
