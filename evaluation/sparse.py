"""An image that is zero almost everywhere, read as the voxels that are not, without ever building the volume.

Detection maps and label maps are files of a few kilobytes that stand for tens of megabytes of zeros. They are inflated
piece by piece; a piece of zeros is recognised by one comparison of memory and forgotten. So time goes into inflating
alone, and memory does not depend on how large an image claims to be.

Only the layouts that nearly all files have are read this way: little-endian ``.mha`` without exotic keys, and 3D
NIfTI-1 without scaling. Any other file takes the plain path through SimpleITK (``contract.volume``), which gives the
same voxels, messages included. Grids always come from there.

Sources of the layouts: the MetaIO documentation (https://itk.org/Wiki/ITK/MetaIO/Documentation) and ``nifti1.h``.
"""

import gzip
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.volume import Grid, read_grid, read_label, read_volume

try:  # the same calls, four to twenty times faster on streams of zeros
    from zlib_ng import zlib_ng as zlib  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    import zlib  # type: ignore[no-redef,unused-ignore]

Int64Array = npt.NDArray[np.int64]
Values = npt.NDArray[Any]

_log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 16  # a piece with a lesion in it is searched voxel by voxel, so pieces are small
_COMPRESSED_PIECE_BYTES = 1 << 12
_ZEROS = bytes(_PIECE_BYTES)
_MOST_FOREGROUND = 1 << 25
_MOST_VOXELS_AT_ONCE = 1 << 28

_META_PLAIN = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False"}
_META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "<i2",
    "MET_USHORT": "<u2",
    "MET_INT": "<i4",
    "MET_UINT": "<u4",
    "MET_FLOAT": "<f4",
    "MET_DOUBLE": "<f8",
}
_META_EXOTIC = (
    "ElementByteOrderMSB",
    "ElementNBits",
    "ElementNumberOfChannels",
    "ElementToIntensityFunctionOffset",
    "ElementToIntensityFunctionSlope",
    "HeaderSize",
)
_NIFTI_HEADER_BYTES = 348
_NIFTI_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2", 768: "<u4"}


@dataclass(frozen=True)
class Foreground:
    """The voxels of an image that are not zero."""

    shape_zyx: tuple[int, int, int]
    voxels: Int64Array
    """Their raster (C order) index, ascending."""
    values: Values
    """Their values, in the same order; none is zero."""

    @property
    def has_background(self) -> bool:
        """Whether any voxel is zero."""
        return self.voxels.size < math.prod(self.shape_zyx)

    def centred(self, shape_zyx: tuple[int, int, int]) -> "Foreground":
        """Crop or pad with zeros around the centre; an odd voxel goes to the far side."""
        position = np.array(np.unravel_index(self.voxels, self.shape_zyx))
        found, wanted = np.array(self.shape_zyx), np.array(shape_zyx)
        kept = np.minimum(found, wanted)
        position += ((wanted - kept) // 2 - (found - kept) // 2)[:, None]
        inside = ((position >= 0) & (position < wanted[:, None])).all(axis=0)
        z, y, x = position[:, inside]
        return Foreground(shape_zyx, np.ravel_multi_index((z, y, x), shape_zyx), self.values[inside])

    @staticmethod
    def of(array: Values) -> "Foreground":
        """The foreground of an array (z, y, x)."""
        z, y, x = array.shape
        voxels = np.flatnonzero(array)
        return Foreground((z, y, x), voxels, array.ravel()[voxels])


@dataclass(frozen=True)
class LabelMap:
    """A label map: where it lies, and what is not background."""

    grid: Grid
    labels: Foreground
    """Values are int32."""


def read_label_map(path: Path) -> LabelMap:
    """Read a label map and its grid. Raises ``OncoduetError`` as :func:`read_labels` and ``read_grid`` do."""
    grid = read_grid(path)
    return LabelMap(grid, read_labels(path, grid))


def read_confidences(path: Path, grid: Grid) -> Foreground:
    """Read a detection map as float32; the same voxels as ``contract.volume.read_volume`` gives.

    Confidences that float32 takes for 0, or for equal, are counted in the log.

    Parameters
    ----------
    path
        ``.mha``, ``.nii.gz`` or ``.nii``.
    grid
        What ``contract.volume.read_grid`` says of this very file.

    Raises
    ------
    OncoduetError
        The file is truncated or damaged, holds NaN or infinite voxels, or has too much foreground for a detection map.
    """
    stored = _read(path, grid)
    if stored is None:
        return Foreground.of(read_volume(_at_once(path, grid)).array)
    with np.errstate(over="ignore", under="ignore"):  # beyond float32: counted as infinite, and as zero
        values = stored.values.astype(np.float32)
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise OncoduetError(f"{path}: expected finite voxels, found {wrong} NaN or infinite")
    if stored.values.dtype.itemsize > values.itemsize:
        _log_rounding(path, stored.values, values)
    return _without_zeros(stored, values)


def read_labels(path: Path, grid: Grid) -> Foreground:
    """Read a label map as int32; the same voxels as ``contract.volume.read_label`` gives.

    Parameters
    ----------
    path
        ``.mha``, ``.nii.gz`` or ``.nii``; stored as floats where every value is whole.
    grid
        What ``contract.volume.read_grid`` says of this very file.

    Raises
    ------
    OncoduetError
        The file is truncated or damaged, or holds fractional or non-finite values.
    """
    stored = _read(path, grid)
    if stored is None:
        return Foreground.of(read_label(_at_once(path, grid)).array)
    with np.errstate(invalid="ignore"):  # what int32 cannot hold differs afterwards
        values = stored.values.astype(np.int32)
    if not np.array_equal(values, stored.values):
        raise OncoduetError(f"{path}: expected whole numbers in a label map, found fractional or non-finite values")
    return _without_zeros(stored, values)


class _Layout(NamedTuple):
    """How the voxels lie in a file."""

    begin: int
    """Where the voxels begin; in a gzip file, in what it inflates to."""
    type: np.dtype[Any]
    stream_bytes: int | None
    """Length of the compressed stream in the file; None where voxels are stored as they are."""


def _read(path: Path, grid: Grid) -> Foreground | None:
    """The voxels as they are stored, or None where the layout is not one of the plain ones."""
    layout = _meta_layout(path, grid) if path.name.endswith(".mha") else _nifti_layout(path, grid)
    if layout is None:
        return None
    zipped = path.name.endswith(".gz")
    with path.open("rb") as stream:
        if not zipped:
            stream.seek(layout.begin)
        skipped = layout.begin if zipped else 0
        length = math.prod(grid.shape_zyx) * layout.type.itemsize
        if layout.stream_bytes is None:
            pieces = _stored(path, stream, length)
        else:
            pieces = _inflated(path, _compressed(stream, layout.stream_bytes), skipped + length)
        return _collect(path, grid.shape_zyx, _aligned(pieces, skipped, layout.type.itemsize), layout.type)


def _collect(
    path: Path, shape_zyx: tuple[int, int, int], pieces: Iterator[bytes], voxel_type: np.dtype[Any]
) -> Foreground:
    voxels: list[Int64Array] = []
    values: list[Values] = []
    first = count = 0
    for piece in pieces:
        # A piece is a whole number of voxels. Almost all are full, and zero.
        if piece != (_ZEROS if len(piece) == _PIECE_BYTES else bytes(len(piece))):
            array = np.frombuffer(piece, voxel_type)
            found = np.flatnonzero(array)
            voxels.append(found + first)
            values.append(array[found])
            count += found.size
            if count > _MOST_FOREGROUND:
                raise OncoduetError(
                    f"{path}: expected at most {_MOST_FOREGROUND} voxels that are not zero, found more: "
                    "a detection map or a label map is zero almost everywhere"
                )
        first += len(piece) // voxel_type.itemsize
    none: list[Values] = [np.zeros(0, voxel_type)]
    return Foreground(shape_zyx, np.concatenate([np.zeros(0, np.int64), *voxels]), np.concatenate(values or none))


def _compressed(stream: IO[bytes], length: int) -> Iterator[bytes]:
    """The next ``length`` bytes of a file in pieces; fewer where the file ends."""
    while piece := stream.read(min(_COMPRESSED_PIECE_BYTES, length)):
        length -= len(piece)
        yield piece


def _inflated(path: Path, stream: Iterator[bytes], length: int) -> Iterator[bytes]:
    """What a zlib stream or a gzip file inflates to, ``length`` bytes in pieces, checksums compared at the end."""
    found = 0
    compressed = next(stream, b"")
    while compressed:  # one stream, or the several that a gzip file may consist of
        inflate = zlib.decompressobj(wbits=47)  # 32 + 15: either header, largest window
        try:
            while not inflate.eof:
                piece = inflate.decompress(compressed, _PIECE_BYTES)
                found += len(piece)
                if found > length:
                    raise OncoduetError(f"{path}: expected {length} bytes of voxels, found more")
                if piece:
                    yield piece
                elif not compressed:
                    raise OncoduetError(f"{path}: expected a whole compressed stream, found its end missing: truncated")
                compressed = inflate.unconsumed_tail or (b"" if inflate.eof else next(stream, b""))
        except zlib.error as error:  # type: ignore[misc,unused-ignore]
            raise OncoduetError(f"{path}: expected a whole compressed stream, found a damaged one ({error})") from None
        if found == length:
            return
        compressed = inflate.unused_data or next(stream, b"")
    raise OncoduetError(f"{path}: expected {length} bytes of voxels, found {found}: truncated")


def _stored(path: Path, stream: IO[bytes], length: int) -> Iterator[bytes]:
    """The next ``length`` bytes of a file in pieces; what follows them is not read."""
    found = 0
    while found < length:
        piece = stream.read(min(_PIECE_BYTES, length - found))
        if not piece:
            raise OncoduetError(f"{path}: expected {length} bytes of voxels, found {found}: truncated")
        found += len(piece)
        yield piece


def _aligned(pieces: Iterator[bytes], skipped: int, itemsize: int) -> Iterator[bytes]:
    """The same bytes without the first ``skipped``, each piece a whole number of items."""
    rest = b""
    for piece in pieces:
        if skipped:
            piece, skipped = piece[skipped:], max(skipped - len(piece), 0)  # noqa: PLW2901 - the header, once
        joined = rest + piece
        whole = len(joined) - len(joined) % itemsize
        rest = joined[whole:]
        yield joined[:whole]


def _meta_layout(path: Path, grid: Grid) -> _Layout | None:
    header: dict[str, str] = {}
    with path.open("rb") as stream:
        while "ElementDataFile" not in header:  # there is one: the grid came from a header that had been checked
            key, _, value = stream.readline().decode("latin-1").partition("=")
            header[key.strip()] = value.strip()
        begin = stream.tell()
    stream_bytes = _stream_bytes(path, header, path.stat().st_size - begin)
    voxel_type = _META_TYPES.get(header.get("ElementType", ""))
    plain = (
        all(header.get(key, value) == value for key, value in _META_PLAIN.items())
        and not any(key in header for key in _META_EXOTIC)
        and header.get("DimSize", "").split() == [str(size) for size in grid.size_xyz]
        and header.get("CompressedData", "False") in ("True", "False")
    )
    return _Layout(begin, np.dtype(voxel_type), stream_bytes) if plain and voxel_type is not None else None


def _stream_bytes(path: Path, header: Mapping[str, str], present: int) -> int | None:
    """How long the compressed stream is; without being told, ITK reads noise from the very file that it can read."""
    if header.get("CompressedData", "False")[:1].lower() not in ("t", "1"):
        return None
    told = header.get("CompressedDataSize", "none")
    if not told.isdecimal() or int(told) == 0:
        raise OncoduetError(f"{path}: expected the length of the compressed voxels as CompressedDataSize, found {told}")
    if int(told) > present:
        raise OncoduetError(f"{path}: expected {told} bytes of compressed voxels, found {present}: truncated")
    return int(told)


def _nifti_layout(path: Path, grid: Grid) -> _Layout | None:
    zipped = path.name.endswith(".gz")
    with path.open("rb") as stream:
        header = gzip.GzipFile(fileobj=stream).read(_NIFTI_HEADER_BYTES) if zipped else stream.read(_NIFTI_HEADER_BYTES)
    (count, x, y, z, *_) = struct.unpack_from("<8h", header, 40)
    (kind,) = struct.unpack_from("<h", header, 70)
    begin, slope, intercept = struct.unpack_from("<3f", header, 108)
    voxel_type = _NIFTI_TYPES.get(kind)
    unscaled = intercept == 0 and slope in (0, 1)
    plain = header[:4] == struct.pack("<i", _NIFTI_HEADER_BYTES) and unscaled and begin.is_integer()
    if not plain or voxel_type is None or (count, x, y, z) != (3, *grid.size_xyz):
        return None
    return _Layout(int(begin), np.dtype(voxel_type), path.stat().st_size if zipped else None)


def _at_once(path: Path, grid: Grid) -> Path:
    """The path of an image that is about to be read whole, unless it is larger than any scan."""
    voxels = math.prod(grid.shape_zyx)
    if voxels > _MOST_VOXELS_AT_ONCE:
        raise OncoduetError(f"{path}: expected at most {_MOST_VOXELS_AT_ONCE} voxels, found {voxels}")
    return path


def _without_zeros(stored: Foreground, values: Values) -> Foreground:
    """What was stored, with converted values, without those that conversion has made zero."""
    if values.all():
        return Foreground(stored.shape_zyx, stored.voxels, values)
    kept = values != 0
    return Foreground(stored.shape_zyx, stored.voxels[kept], values[kept])


def _log_rounding(path: Path, stored: Values, values: npt.NDArray[np.float32]) -> None:
    lost = int(np.count_nonzero((values == 0) & (stored != 0)))
    if lost:
        _log.warning("%s: %d voxels have a confidence that is 0 in float32: they count as background", path, lost)
    levels, rounded = np.unique(stored).size, np.unique(values).size
    if rounded < levels:
        _log.warning("%s: %d confidences are %d in float32: the others became ties", path, levels, rounded)
