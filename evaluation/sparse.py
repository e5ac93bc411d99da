"""An image that is zero almost everywhere, read as the voxels that are not, without ever building the volume.

Detection maps and label maps are files of a few kilobytes that stand for tens of megabytes of zeros. They are inflated
piece by piece; a piece of zeros is recognised by one comparison of memory and forgotten. So time goes into inflating
alone, and memory does not depend on how large an image claims to be.

Only the layouts that nearly all files have are read this way: little-endian ``.mha`` without exotic keys, and 3D
NIfTI-1 without scaling. Any other file takes the plain path through SimpleITK (``contract.volume``), which gives the
same voxels, messages included. So do the grids, but those of plain ``.mha`` headers and of everyday NIfTI headers
(``evaluation.nifti_grid``).

Sources of the layouts: the MetaIO documentation (https://itk.org/Wiki/ITK/MetaIO/Documentation) and ``nifti1.h``.
"""

import logging
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.volume import Grid, read_grid, read_label, read_volume
from evaluation.nifti_grid import HEADER_BYTES, everyday_grid

try:  # the same calls, four to twenty times faster on streams of zeros
    from zlib_ng import zlib_ng as zlib  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    import zlib  # type: ignore[no-redef,unused-ignore]

Int64Array = npt.NDArray[np.int64]
Values = npt.NDArray[Any]

_log = logging.getLogger(__name__)

_WORD_BYTES = 8
_PIECE_BYTES = (1 << 17) - 1024  # in the processor's cache, and less than what malloc gets from the system each time
_COMPRESSED_PIECE_BYTES = 1 << 12
_ZEROS = bytes(_PIECE_BYTES)
_MOST_FOREGROUND = 1 << 25
_MOST_VOXELS_AT_ONCE = 1 << 28

_META_PLAIN = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "ElementDataFile": "LOCAL",
}
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
    "ElementSize",
    "ElementToIntensityFunctionOffset",
    "ElementToIntensityFunctionSlope",
    "HeaderSize",
    "Orientation",
    "Origin",
    "Position",
    "Rotation",
)
_MOST_META_LINES = 200
_LONGEST_META_LINE = 1 << 12
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", re.ASCII)
_ORTHONORMAL = 1e-3  # of what is tilted further, ``contract.volume`` decides
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
class ImageFile:
    """An image file whose header has been read and checked."""

    path: Path
    grid: Grid
    layout: "_Layout | None"
    """Where its voxels are; None where SimpleITK has to read them."""


@dataclass(frozen=True)
class LabelMap:
    """A label map: where it lies, and what is not background."""

    grid: Grid
    labels: Foreground
    """Values are int32."""


def open_image(path: Path) -> ImageFile:
    """Read and check a header: the same grid as ``contract.volume.read_grid`` gives, and the same errors."""
    plain = _plain_meta_image(path) if path.name.endswith(".mha") and path.is_file() else None
    if plain is not None:
        return plain
    header = _nifti_header(path) if path.name.endswith((".nii.gz", ".nii")) and path.is_file() else b""
    if header and (grid := everyday_grid(header)) and (layout := _nifti_layout(path, header, grid)):
        return ImageFile(path, grid, layout)
    grid = read_grid(path)
    return ImageFile(path, grid, _nifti_layout(path, header, grid) if header else None)


def read_label_map(path: Path) -> LabelMap:
    """Read a label map and its grid. Raises ``OncoduetError`` as :func:`open_image` and :func:`read_labels` do."""
    image = open_image(path)
    return LabelMap(image.grid, read_labels(image))


def read_confidences(image: ImageFile) -> Foreground:
    """Read a detection map as float32; the same voxels as ``contract.volume.read_volume`` gives.

    Confidences that float32 takes for 0, or for equal, are counted in the log.

    Raises
    ------
    OncoduetError
        The file is truncated or damaged, holds NaN or infinite voxels, or has too much foreground for a detection map.
    """
    path, stored = image.path, _read(image)
    if stored is None:
        return Foreground.of(read_volume(_at_once(image)).array)
    with np.errstate(over="ignore", under="ignore"):  # beyond float32: counted as infinite, and as zero
        values = stored.values.astype(np.float32)
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise OncoduetError(f"{path}: expected finite voxels, found {wrong} NaN or infinite")
    if stored.values.dtype.itemsize > values.itemsize:
        _log_rounding(path, stored.values, values)
    return _without_zeros(stored, values)


def read_labels(image: ImageFile) -> Foreground:
    """Read a label map as int32; the same voxels as ``contract.volume.read_label`` gives.

    It may be stored as floats where every value is whole.

    Raises
    ------
    OncoduetError
        The file is truncated or damaged, or holds fractional or non-finite values.
    """
    path, stored = image.path, _read(image)
    if stored is None:
        return Foreground.of(read_label(_at_once(image)).array)
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


def _read(image: ImageFile) -> Foreground | None:
    """The voxels as they are stored, or None where the layout is not one of the plain ones."""
    path, grid, layout = image.path, image.grid, image.layout
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
        found = list(_nonzero(path, pieces, skipped, layout.type))
    voxels = np.concatenate([np.zeros(0, np.int64), *(voxels for voxels, _ in found)])
    return Foreground(grid.shape_zyx, voxels, np.concatenate([np.zeros(0, layout.type), *(each for _, each in found)]))


def _nonzero(
    path: Path, pieces: Iterator[bytes], skipped: int, voxel_type: np.dtype[Any]
) -> Iterator[tuple[Int64Array, Values]]:
    """Index and value of the voxels that are not zero, piece by piece, after the first ``skipped`` bytes.

    Pieces are searched in words of eight bytes, of one to eight voxels each; almost all pieces are full, and zero.
    """
    voxels_per_word = _WORD_BYTES // voxel_type.itemsize
    within_word = np.arange(voxels_per_word)
    rest, words, count = b"", 0, 0  # the bytes that do not fill a word yet, the words before them
    for piece in chain(pieces, [None]):
        if piece is None:  # the end: fill the last word up
            piece = bytes(-len(rest) % _WORD_BYTES)  # noqa: PLW2901
        elif skipped:
            skipped, piece = max(skipped - len(piece), 0), piece[skipped:]  # noqa: PLW2901
        if _ZEROS.startswith(piece) and not any(rest):
            filled, over = divmod(len(rest) + len(piece), _WORD_BYTES)
            words, rest = words + filled, _ZEROS[:over]
            continue
        filled, over = divmod(len(rest) + len(piece), _WORD_BYTES)
        joined = rest + piece
        whole, rest = joined[: filled * _WORD_BYTES], joined[filled * _WORD_BYTES :]
        hit = np.flatnonzero(np.frombuffer(whole, np.uint64) != 0)
        near = (hit[:, None] * voxels_per_word + within_word).ravel()
        values = np.frombuffer(whole, voxel_type)[near]
        kept = values != 0
        count += near.size
        if count > _MOST_FOREGROUND:
            raise OncoduetError(
                f"{path}: expected at most {_MOST_FOREGROUND} voxels that are not zero, found more: "
                "a detection map or a label map is zero almost everywhere"
            )
        yield near[kept] + words * voxels_per_word, values[kept]
        words += filled


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


def _plain_meta_image(path: Path) -> ImageFile | None:
    """A ``.mha`` whose header has nothing in it that needs ITK to be understood, or None."""
    with path.open("rb") as stream:
        lines: list[str] = []
        while len(lines) < _MOST_META_LINES and not (lines and lines[-1].startswith("ElementDataFile")):
            lines.append(stream.readline(_LONGEST_META_LINE).decode("latin-1"))
        begin = stream.tell()
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition("=") for line in lines)]
    header = dict(pairs)
    if len(header) < len(pairs) or any(header.get(key) != value for key, value in _META_PLAIN.items()):
        return None
    if any(key in header for key in _META_EXOTIC) or header.get("ElementType") not in _META_TYPES:
        return None
    if header.get("CompressedData", "False") not in ("True", "False"):
        return None
    grid = _meta_grid(header)
    if grid is None:
        return None
    stream_bytes = _stream_bytes(path, header, path.stat().st_size - begin)
    return ImageFile(path, grid, _Layout(begin, np.dtype(_META_TYPES[header["ElementType"]]), stream_bytes))


def _meta_grid(header: Mapping[str, str]) -> Grid | None:
    """The grid that a MetaImage header describes, as ITK has it: directions column by column. None where in doubt."""
    sizes = header.get("DimSize", "").split()
    texts = [header.get(key, "").split() for key in ("ElementSpacing", "Offset", "TransformMatrix")]
    if len(sizes) != 3 or [len(each) for each in texts] != [3, 3, 9] or not all(map(str.isdecimal, sizes)):
        return None
    if not all(_NUMBER.fullmatch(word) for words in texts for word in words):
        return None
    (dx, dy, dz), (x, y, z), axes = ([float(word) for word in words] for words in texts)
    columns = np.array(axes).reshape(3, 3)
    sensible = (
        min(dx, dy, dz) > 0 and min(map(int, sizes)) > 0 and all(map(math.isfinite, (dx, dy, dz, x, y, z, *axes)))
    )
    if not sensible or np.abs(columns @ columns.T - np.eye(3)).max() > _ORTHONORMAL:
        return None  # and refused with a message, by read_grid
    width, height, depth = map(int, sizes)
    return Grid((width, height, depth), (dx, dy, dz), (x, y, z), tuple(columns.T.ravel().tolist()))


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


def _nifti_header(path: Path) -> bytes:
    """The first 348 bytes of a NIfTI, or nothing where they are not to be had at once."""
    with path.open("rb") as stream:
        header = stream.read(_COMPRESSED_PIECE_BYTES)
    if path.name.endswith(".gz"):
        try:
            header = zlib.decompressobj(wbits=31).decompress(header, HEADER_BYTES)
        except zlib.error:  # type: ignore[misc,unused-ignore]
            return b""
    return header[:HEADER_BYTES] if len(header) >= HEADER_BYTES else b""


def _nifti_layout(path: Path, header: bytes, grid: Grid) -> _Layout | None:
    (count, x, y, z, *_) = struct.unpack_from("<8h", header, 40)
    (kind,) = struct.unpack_from("<h", header, 70)
    begin, slope, intercept = struct.unpack_from("<3f", header, 108)
    voxel_type = _NIFTI_TYPES.get(kind)
    unscaled = intercept == 0 and slope in (0, 1)
    plain = header[:4] == struct.pack("<i", HEADER_BYTES) and unscaled and begin.is_integer()
    if not plain or voxel_type is None or (count, x, y, z) != (3, *grid.size_xyz):
        return None
    return _Layout(int(begin), np.dtype(voxel_type), path.stat().st_size if path.name.endswith(".gz") else None)


def _at_once(image: ImageFile) -> Path:
    """The path of an image that is about to be read whole, unless it is larger than any scan."""
    voxels = math.prod(image.grid.shape_zyx)
    if voxels > _MOST_VOXELS_AT_ONCE:
        raise OncoduetError(f"{image.path}: expected at most {_MOST_VOXELS_AT_ONCE} voxels, found {voxels}")
    return image.path


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
