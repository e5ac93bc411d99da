"""The index of a truth: the contents of its label maps, so that they need not be decompressed for every scoring.

``truth-index.zip`` is in the folder of the label maps. It has one entry per label map, named by the SHA-256 of that
file's bytes: the grid, and the voxels that are not zero as runs of one value. An entry is therefore never out of date;
a label map without one is read and its entry added. A faulty index is not used and never changes the result: it is
used only when one label map, read again, equals its entry, and damaged or impossible entries are ignored.

Where the folder cannot be written to, the index is kept in memory, and if large in a temporary file, by the process.
"""

import hashlib
import logging
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.images.grid import Grid
from contract.outputs import require_folder
from evaluation.masks.sparse_image import Foreground, LabelMap, read_label_map

INDEX = "truth-index.zip"

_FORMAT = b"oncoduet truth index 1"  # to be counted up when label maps are read differently
_FIRST_ENTRY = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\x21\0"  # deflated, without a date; sizes and name follow
_SIZES_BYTES, _SHA256_LETTERS = 16, 64
_EMPTY = b"PK\x05\x06" + bytes(18)  # a ZIP that holds nothing
_GRID = struct.Struct("<3q15d")  # size, spacing, origin, direction
_RUN = np.dtype([("first", "<i8"), ("length", "<i8"), ("value", "<i4")])
_IN_MEMORY_BYTES = 1 << 24

_log = logging.getLogger(__name__)


class TruthIndex:
    """Label maps by the SHA-256 of their files."""

    def __init__(self, file: Path | IO[bytes]) -> None:
        self.path = file if isinstance(file, Path) else None
        """Where other processes can open it; None: nowhere."""
        self._archive = zipfile.ZipFile(file)
        self.known = frozenset(self._archive.namelist())
        """Hashes that have an entry."""
        self.format = self._archive.comment
        """Name and version of the format."""

    def read(self, sha256: str) -> LabelMap | None:
        """The label map of that hash; None where there is no entry, or one that is damaged or impossible."""
        entry = self.entry(sha256)
        return None if entry is None else _decoded(entry)

    def content(self, sha256: str) -> str | None:
        """Hash of a label map's contents, however its file is compressed; None where the map is empty or unknown."""
        entry = self.entry(sha256)
        return None if entry is None or len(entry) <= _GRID.size else hashlib.sha256(entry).hexdigest()

    def entry(self, sha256: str) -> bytes | None:
        """An entry's bytes; None where there are none, or their checksum is wrong."""
        if sha256 not in self.known:
            return None
        try:
            return self._archive.read(sha256)
        except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError):
            return None


Encode = Callable[[Iterable[Path]], Iterator[bytes]]
"""Reads label maps and encodes them, in order."""


def open_index(folder: Path, label_maps: Mapping[str, Path], *, encode: Encode | None = None) -> TruthIndex:
    """Open the index of a folder for these label maps; it is first made or completed where needed.

    Parameters
    ----------
    folder
        Folder of the index.
    label_maps
        By the SHA-256 of their bytes.
    encode
        Reads those that have no entry yet, perhaps in several processes; None: one after the other.

    Raises
    ------
    OncoduetError
        A label map cannot be read.
    """
    found = _trusted(folder / INDEX, label_maps)
    if found is not None and found.known.issuperset(label_maps):
        return found
    if _may_write(folder) and _is_index_or_nothing(folder / INDEX):
        return write_index(folder, label_maps, known=found, encode=encode)
    unnamed = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - lives as long as the index
    _write(unnamed, label_maps, found, encode)
    return TruthIndex(unnamed)


def write_index(
    folder: Path, label_maps: Mapping[str, Path], *, known: TruthIndex | None = None, encode: Encode | None = None
) -> TruthIndex:
    """Write a folder's index and open it; entries that are ``known`` are copied, all else is read from the label maps.

    Raises
    ------
    OncoduetError
        A label map cannot be read, the folder cannot be written to, or a file with the index's name is not an index.
    """
    require_folder(folder)
    if not _is_index_or_nothing(folder / INDEX):
        raise OncoduetError(folder / INDEX, "not an index; remove it")
    with atomic_file(folder / INDEX) as partial:
        _write(partial, label_maps, known, encode)
    return TruthIndex(folder / INDEX)


def encode_file(path: Path) -> bytes:
    """Read a label map and encode it."""
    return encoded(read_label_map(path))


def _write(
    target: Path | IO[bytes], label_maps: Mapping[str, Path], known: TruthIndex | None, encode: Encode | None
) -> None:
    entries = {sha256: known.entry(sha256) if known is not None else None for sha256 in sorted(label_maps)}
    unread = [label_maps[sha256] for sha256, entry in entries.items() if entry is None]
    read = encode(unread) if encode is not None else map(encode_file, unread)
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = _FORMAT
        for sha256, entry in entries.items():
            archive.writestr(
                zipfile.ZipInfo(sha256),  # without a date: the same truth has the same index
                next(read) if entry is None else entry,
                compress_type=zipfile.ZIP_DEFLATED,
            )


def _trusted(path: Path, label_maps: Mapping[str, Path]) -> TruthIndex | None:
    """The existing index, unless it is unreadable, of another truth, or contradicts a label map."""
    if not path.is_file():
        return None
    try:
        found = TruthIndex(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        ours = _is_index_or_nothing(path)
        _log.warning("%s: not an index; %s", path, "rebuilt" if ours else "it is kept, and another is built in memory")
        return None
    shared = sorted(found.known.intersection(label_maps))
    if found.format != _FORMAT or not shared:
        _log.warning("%s: an index of other label maps, or of another version; rebuilt", path)
        return None
    if found.entry(shared[0]) != encoded(read_label_map(label_maps[shared[0]])):
        _log.warning("%s: differs from %s; rebuilt", path, label_maps[shared[0]])
        return None
    return found


def _is_index_or_nothing(path: Path) -> bool:
    """Whether a new index would replace at most another index, even a truncated one, or an empty file."""
    if not os.path.lexists(path):
        return True
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        begin = stream.read(len(_FIRST_ENTRY) + _SIZES_BYTES + _SHA256_LETTERS)
    name = begin[len(_FIRST_ENTRY) + _SIZES_BYTES :]
    is_cut = _FIRST_ENTRY.startswith(begin[: len(_FIRST_ENTRY)]) and set(name) <= set(b"0123456789abcdef")
    return is_cut or begin == _EMPTY


def _may_write(folder: Path) -> bool:
    """Whether a file may be added; a folder that is read-only for all is left as it is, even when run as root."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def encoded(label_map: LabelMap) -> bytes:
    """An entry: the grid, then the runs."""
    labels, grid = label_map.labels, label_map.grid
    voxels, values = labels.voxels, labels.values
    begins = np.flatnonzero((np.diff(voxels, prepend=-2) != 1) | (np.diff(values, prepend=0) != 0))
    runs = np.zeros(begins.size, dtype=_RUN)
    runs["first"], runs["length"], runs["value"] = voxels[begins], np.diff(begins, append=voxels.size), values[begins]
    geometry = (*grid.size_xyz, *grid.spacing_mm_xyz, *grid.origin_mm_xyz, *grid.direction)
    return _GRID.pack(*geometry) + runs.tobytes()


def _decoded(entry: bytes) -> LabelMap | None:
    """The label map of an entry, or None where the entry is impossible."""
    if len(entry) < _GRID.size or (len(entry) - _GRID.size) % _RUN.itemsize:
        return None
    x, y, z, *geometry = _GRID.unpack_from(entry)
    runs = np.frombuffer(entry, _RUN, offset=_GRID.size)
    ends = runs["first"] + runs["length"]
    ordered = (runs["first"] >= np.append(0, ends[:-1])[: runs.size]).all() and (runs["length"] > 0).all()
    inside = min(x, y, z) > 0 and (not runs.size or ends[-1] <= math.prod((x, y, z)))
    if not (ordered and inside and runs["value"].all() and all(map(math.isfinite, geometry))):
        return None
    spacing, origin, direction = geometry[:3], geometry[3:6], geometry[6:]
    grid = Grid((x, y, z), (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2]), tuple(direction))
    lengths = runs["length"]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    voxels = np.repeat(runs["first"], lengths) + within
    return LabelMap(grid, Foreground((z, y, x), voxels, np.repeat(runs["value"], lengths)))
