"""The non-zero voxels of an image that is zero almost everywhere, read without building the volume.

Detection maps and label maps are files of a few kilobytes that inflate to tens of megabytes of zeros. They are inflated
piece by piece; a piece of zeros is recognised by one comparison of memory and dropped. So inflating takes almost all of
the time, and memory does not depend on the size in the header.

Headers and voxels come from ``contract.images.whole_image``, which every other reader uses too. A NIfTI whose voxels
are scaled by its header is read as a volume, since a stored zero may stand for another value.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.images.grid import Grid
from contract.images.image_header import ImageHeader
from contract.images.volume import grid_of, whole_labels
from contract.images.whole_image import PIECE_BYTES, read_header, read_voxels, voxel_pieces

Int64Array = npt.NDArray[np.int64]
Values = npt.NDArray[Any]

_log = logging.getLogger(__name__)

_WORD_BYTES = 8
_ZEROS = bytes(PIECE_BYTES)
_MOST_FOREGROUND = 1 << 23
"""Non-zero voxels of an image; label maps of whole organs in PI-CAI and PANORAMA have less than 2^20."""
_MOST_SCALED_VOXELS = 1 << 26
"""Voxels of an image that is read as a volume."""


@dataclass(frozen=True)
class Foreground:
    """The voxels of an image that are not zero."""

    shape_zyx: tuple[int, int, int]
    voxels: Int64Array
    """Raster (C order) index of each, ascending."""
    values: Values
    """Values in the same order; none is zero."""

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
    header: ImageHeader

    @property
    def grid(self) -> Grid:
        """Its grid."""
        return grid_of(self.header)


@dataclass(frozen=True)
class LabelMap:
    """A label map: its grid, and the voxels that are not background."""

    grid: Grid
    labels: Foreground
    """Labels as int32."""


def open_image(path: Path) -> ImageFile:
    """Read and check a header. Raises ``OncoduetError`` as ``contract.images.volume.read_grid`` does."""
    return ImageFile(path, read_header(path))


def read_label_map(path: Path) -> LabelMap:
    """Read a label map and its grid. Raises ``OncoduetError`` as :func:`open_image` and :func:`read_labels` do."""
    image = open_image(path)
    return LabelMap(image.grid, read_labels(image))


def read_confidences(image: ImageFile) -> Foreground:
    """Read a detection map as float32; the same voxels as ``contract.images.volume.read_volume`` gives.

    Confidences that float32 takes for 0, or for equal, are counted in the log.

    Raises
    ------
    OncoduetError
        The file is truncated or damaged, holds NaN or infinite voxels, or has too much foreground for a detection map.
    """
    path, stored = image.path, _read(image)
    with np.errstate(over="ignore", under="ignore"):  # beyond float32: counted as infinite, and as zero
        values = stored.values.astype(np.float32)
    wrong = int(values.size - np.count_nonzero(np.isfinite(values)))
    if wrong:
        raise OncoduetError(path, expected="finite voxels", found=f"{wrong} NaN or infinite")
    if stored.values.dtype.itemsize > values.itemsize:
        _log_rounding(path, stored.values, values)
    return _without_zeros(stored, values)


def read_labels(image: ImageFile) -> Foreground:
    """Read a label map as int32; the same voxels as ``contract.images.volume.read_label`` gives.

    It may be stored as floats where every value is whole.

    Raises
    ------
    OncoduetError
        The file is truncated or damaged, or holds fractional or non-finite values.
    """
    stored = _read(image)
    return _without_zeros(stored, whole_labels(image.path, stored.values))


def _read(image: ImageFile) -> Foreground:
    """The voxels that are not zero, as they are stored, or scaled."""
    path, header = image.path, image.header
    if header.is_scaled:
        all_voxels = math.prod(header.size_xyz)
        if all_voxels > _MOST_SCALED_VOXELS:
            raise OncoduetError(path, expected=f"at most {_MOST_SCALED_VOXELS} scaled voxels", found=all_voxels)
        return Foreground.of(read_voxels(path, header))
    found = list(_nonzero(path, voxel_pieces(path, header), header.type))
    voxels = np.concatenate([np.zeros(0, np.int64), *(voxels for voxels, _ in found)])
    values = np.concatenate([np.zeros(0, header.type), *(each for _, each in found)])
    return Foreground(header.shape_zyx, voxels, values.astype(header.type.newbyteorder("="), copy=False))


def _nonzero(path: Path, pieces: Iterator[bytes], voxel_type: np.dtype[Any]) -> Iterator[tuple[Int64Array, Values]]:
    """Index and value of the voxels that are not zero, piece by piece.

    Pieces are searched in words of eight bytes, of one to eight voxels each; almost all pieces are full, and zero.
    """
    voxels_per_word = _WORD_BYTES // voxel_type.itemsize
    within_word = np.arange(voxels_per_word)
    rest, words, count = b"", 0, 0  # the bytes that do not fill a word yet, the words before them
    for piece in chain(pieces, [None]):
        if piece is None:  # the end: fill the last word up
            piece = bytes(-len(rest) % _WORD_BYTES)  # noqa: PLW2901
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
            raise OncoduetError(path, f"more than {_MOST_FOREGROUND} voxels are not zero")
        yield near[kept] + words * voxels_per_word, values[kept]
        words += filled


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
