"""Whether an image file is whole, asked before ITK reads it.

ITK reads a truncated NIfTI as if nothing were missing, takes a compressed MetaImage with a damaged stream for an image
of noise, and puts zeros for numbers that it cannot parse and for NaN in a NIfTI; at best it complains on stderr. So the
header and the length of the voxels are checked here, by the formats' own definitions, compressed streams by their
checksums, and a NIfTI for the voxels and numbers of its geometry that ITK would replace.

Sources: the MetaIO documentation (https://itk.org/Wiki/ITK/MetaIO/Documentation) and ``nifti1.h``.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from contract.errors import OncoduetError

_CHUNK_BYTES = 1 << 20
_COMPRESSED_CHUNK_BYTES = 1 << 12
_LONGEST_HEADER_BYTES = 1 << 16

_META_BYTES_PER_VALUE = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
_META_GEOMETRY = ("ElementSpacing", "Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation")

_NIFTI_HEADER_BYTES = 348
_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


def require_whole(path: Path, *, voxels: bool = True) -> None:
    """Raise ``OncoduetError`` unless an image file (``.mha``, ``.nii.gz``, ``.nii``) is whole.

    Parameters
    ----------
    path
        An existing file.
    voxels
        Whether to check the voxels too, which inflates compressed files once; else the header alone.
    """
    if path.name.endswith(".mha"):
        _require_meta_image(path, voxels=voxels)
    elif path.name.endswith((".nii.gz", ".nii")):
        _require_nifti(path, voxels=voxels)
    else:
        raise OncoduetError(f"{path}: expected an image that ends in .mha, .nii.gz or .nii, found {path.suffix!r}")


def _require_meta_image(path: Path, *, voxels: bool) -> None:
    with path.open("rb") as stream:
        header = _meta_header(path, stream)
        expected_bytes = _meta_voxel_bytes(path, header)
        if not voxels:
            return
        if header.get("CompressedData", "False").lower() == "true":
            found_bytes = _inflated_bytes(path, stream)
        else:
            found_bytes = path.stat().st_size - stream.tell()
    if found_bytes < expected_bytes:
        raise OncoduetError(f"{path}: expected {expected_bytes} bytes of voxels, found {found_bytes}: truncated")


def _meta_header(path: Path, stream: IO[bytes]) -> dict[str, str]:
    """Read the ``key = value`` lines; the stream then stands at the first byte of the voxels."""
    header: dict[str, str] = {}
    while stream.tell() < _LONGEST_HEADER_BYTES:
        line = stream.readline(_LONGEST_HEADER_BYTES)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals or not line.endswith(b"\n"):
            break
        header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return header
    raise OncoduetError(f"{path}: expected a MetaImage header that ends with ElementDataFile, found none")


def _meta_voxel_bytes(path: Path, header: dict[str, str]) -> int:
    for key in ("NDims", "DimSize", "ElementType"):
        if key not in header:
            raise OncoduetError(f"{path}: expected {key} in the MetaImage header, found none")
    if header["ElementDataFile"] != "LOCAL":
        raise OncoduetError(
            f"{path}: expected the voxels in the file itself (ElementDataFile = LOCAL), "
            f"found {header['ElementDataFile']!r}"
        )
    if header.get("BinaryData", "True").lower() != "true":
        raise OncoduetError(f"{path}: expected binary voxels, found BinaryData = {header['BinaryData']}")
    for key in _META_GEOMETRY:
        if key in header and not all(math.isfinite(number) for number in _numbers(header[key])):
            raise OncoduetError(f"{path}: expected finite numbers as {key}, found {header[key]!r}")
    sizes = _numbers(header["DimSize"])
    if str(len(sizes)) != header["NDims"] or not all(size >= 1 and size.is_integer() for size in sizes):
        raise OncoduetError(
            f"{path}: expected {header['NDims']} positive whole numbers as DimSize, found {header['DimSize']!r}"
        )
    kind = header["ElementType"].removesuffix("_ARRAY")
    if kind not in _META_BYTES_PER_VALUE:
        known = ", ".join(_META_BYTES_PER_VALUE)
        raise OncoduetError(f"{path}: expected an ElementType among {known}, found {header['ElementType']!r}")
    components = _numbers(header.get("ElementNumberOfChannels", "1"))
    return int(math.prod([*sizes, *components])) * _META_BYTES_PER_VALUE[kind]


def _inflated_bytes(path: Path, stream: IO[bytes]) -> int:
    """Length of the zlib (or gzip) stream that begins here, its checksum compared."""
    inflate = zlib.decompressobj(wbits=47)  # 32 + 15: either header, largest window
    found_bytes = 0
    try:
        while not inflate.eof:
            chunk = inflate.unconsumed_tail or stream.read(_COMPRESSED_CHUNK_BYTES)
            inflated = inflate.decompress(chunk, _CHUNK_BYTES)  # bounded, as a KiB may stand for a MiB
            if not (chunk or inflated):
                break
            found_bytes += len(inflated)
    except zlib.error as error:
        raise OncoduetError(f"{path}: expected a whole compressed stream, found a damaged one ({error})") from None
    if not inflate.eof:
        raise OncoduetError(f"{path}: expected a whole compressed stream, found its end missing: truncated")
    return found_bytes


def _require_nifti(path: Path, *, voxels: bool) -> None:
    with path.open("rb") as file:
        stream: Any = gzip.GzipFile(fileobj=file) if path.name.endswith(".gz") else file
        try:
            header = _nifti_header(path, stream)
            if not voxels:
                return
            stream.seek(header.voxels_begin)
            found_bytes = wrong = 0
            while chunk := stream.read(_CHUNK_BYTES):
                found_bytes += len(chunk)
                if header.type.kind == "f" and len(chunk) % header.type.itemsize == 0:
                    wrong += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk, header.type))))
        except EOFError:
            raise OncoduetError(
                f"{path}: expected a whole compressed stream, found its end missing: truncated"
            ) from None
        except (OSError, zlib.error) as error:
            raise OncoduetError(f"{path}: expected a whole compressed stream, found a damaged one ({error})") from None
    if found_bytes < header.voxel_bytes:
        raise OncoduetError(f"{path}: expected {header.voxel_bytes} bytes of voxels, found {found_bytes}: truncated")
    if wrong:
        raise OncoduetError(f"{path}: expected finite voxels, found {wrong} NaN or infinite")


class _NiftiHeader(NamedTuple):
    voxels_begin: int
    voxel_bytes: int
    type: np.dtype[Any]  # of a voxel, as it lies in the file


def _nifti_header(path: Path, stream: IO[bytes]) -> _NiftiHeader:
    header = stream.read(_NIFTI_HEADER_BYTES)
    order = next((order for order in "<>" if header[:4] == struct.pack(f"{order}i", _NIFTI_HEADER_BYTES)), None)
    if order is None or len(header) < _NIFTI_HEADER_BYTES or header[344:] != b"n+1\0":
        raise OncoduetError(f"{path}: expected the header of a single-file NIfTI-1, found none")
    count, *sizes = struct.unpack_from(f"{order}8h", header, 40)
    (kind,) = struct.unpack_from(f"{order}h", header, 70)
    spacings = struct.unpack_from(f"{order}3f", header, 80)
    (voxels_begin,) = struct.unpack_from(f"{order}f", header, 108)
    placement = struct.unpack_from(f"{order}18f", header, 256)  # quaternion and offset, then the affine's three rows
    if not 1 <= count <= 7 or min(sizes[:count]) < 1:
        raise OncoduetError(f"{path}: expected positive sizes in the NIfTI header, found {sizes[: max(count, 0)]}")
    if not voxels_begin >= _NIFTI_HEADER_BYTES:
        raise OncoduetError(f"{path}: expected voxels behind the NIfTI header, found them at byte {voxels_begin:g}")
    if kind not in _NIFTI_TYPES:
        raise OncoduetError(f"{path}: expected real numbers as voxels, found the NIfTI datatype {kind}")
    if not all(math.isfinite(spacing) and spacing > 0 for spacing in spacings[: min(count, 3)]):
        raise OncoduetError(f"{path}: expected positive spacings in the NIfTI header, found {_listed(spacings)}")
    if not all(math.isfinite(number) for number in placement):
        raise OncoduetError(f"{path}: expected finite numbers in the NIfTI header, found {_listed(placement)}")
    voxel_type = np.dtype(order + _NIFTI_TYPES[kind])
    return _NiftiHeader(int(voxels_begin), math.prod(sizes[:count]) * voxel_type.itemsize, voxel_type)


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _numbers(text: str) -> list[float]:
    """The numbers of a header line; what is no number becomes NaN."""
    return [_number(word) for word in text.split()]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
