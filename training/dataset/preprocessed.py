"""The files of a preprocessed study, opened only if they are as preparation writes them.

Blosc's format also knows stored expressions and functions, references to other files, and elements that are addresses
in memory; a study's record is a pickle. A prepared dataset may be untrusted: an array's header is checked before a
voxel of it is read, and the record is read without unpickling.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blosc2  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.files.reading import kind_of
from contract.text import one_line
from training.dataset.plain_pickle import read_plain_pickle

IMAGE, LABEL = (np.dtype(np.float32),), (np.dtype(np.int8), np.dtype(np.int16))
"""Types of voxels."""

_CODECS = {blosc2.Codec.BLOSCLZ, blosc2.Codec.LZ4, blosc2.Codec.LZ4HC, blosc2.Codec.ZLIB, blosc2.Codec.ZSTD}
_FILTERS = {blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE}
"""Filters that Blosc itself has; for others it looks for programs to load."""
_DAMAGED = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, SyntaxError, OSError)
"""Exceptions of Blosc where numbers and types in a file make no sense; it reads a type as a Python literal."""


def open_array(path: Path, kinds: tuple[np.dtype[Any], ...], **how: Any) -> Any:
    """Open a preprocessed image or label, of which no voxel is read yet.

    Blosc reads it with one thread: all its arrays share the others, and a process that is forked while one of them
    lives waits forever for theirs.

    Raises ``OncoduetError``: there is no such file, or it is damaged, or no plain array of such voxels.

    Parameters
    ----------
    kinds
        Types that its voxels may have, :data:`IMAGE` or :data:`LABEL`.
    how
        Further arguments of ``blosc2.open``.

    Returns
    -------
    Blosc's array of shape (channel, z, y, x), which reads what is indexed.
    """
    try:
        found = path.lstat()
        if not path.is_file():
            raise OncoduetError(path, expected="a preprocessed study", found=kind_of(found))
        array = blosc2.open(str(path), mode="r", deserialize="safe", dparams={"nthreads": 1}, **how)
        if type(array) is not blosc2.NDArray:
            raise OncoduetError(path, expected="an array of voxels", found=type(array).__name__)
        codec, filters = array.cparams.codec, array.cparams.filters
        chunks = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
        if array.schunk.nchunks != chunks:
            raise ValueError(f"{array.schunk.nchunks} chunks in place of {chunks}")
    except FileNotFoundError:
        raise OncoduetError(path, "preprocessed study not found") from None
    except _DAMAGED as error:
        raise OncoduetError(path, f"file is damaged ({_said(error)})") from error
    if array.ndim != 4 or math.prod(array.shape) == 0 or array.dtype not in kinds:
        expected = " or ".join(map(str, kinds))
        raise OncoduetError(
            path, expected=f"an array (channel, z, y, x) of {expected}", found=f"{array.dtype} {list(array.shape)}"
        )
    if codec not in _CODECS or not _FILTERS.issuperset(filters):
        raise OncoduetError(path, expected="Blosc's own compression", found=f"{codec} after {filters}")
    return array


def read_preprocessed(path: Path, kinds: tuple[np.dtype[Any], ...]) -> npt.NDArray[Any]:
    """Read all of a preprocessed image or label; raises as :func:`open_array`."""
    array = open_array(path, kinds)
    try:
        voxels: npt.NDArray[Any] = array[:]
    except _DAMAGED as error:
        raise OncoduetError(path, f"file is damaged ({_said(error)})") from error
    return voxels


def require_study(image: Path, label: Path, *, channels: int, classes: int) -> None:
    """Look through a preprocessed study before anything is trained on it, a slab of the label at a time.

    Raises ``OncoduetError`` as :func:`open_array`; also for other channels, a label of another size, or a class that
    the network lacks.

    Parameters
    ----------
    channels, classes
        Of the network; background counts as a class.
    """
    pictured, labelled = open_array(image, IMAGE), open_array(label, LABEL)
    size, depth = pictured.shape[1:], labelled.chunks[1]
    for path, array, expected in ((image, pictured, (channels, *size)), (label, labelled, (1, *size))):
        if array.shape != expected:
            raise OncoduetError(
                path, expected=f"an array (channel, z, y, x) of {list(expected)}", found=list(array.shape)
            )
    try:
        slabs = (labelled[:, z : z + depth] for z in range(0, size[0], depth))
        lowest, highest = zip(*((int(slab.min()), int(slab.max())) for slab in slabs), strict=True)
    except _DAMAGED as error:
        raise OncoduetError(label, f"file is damaged ({_said(error)})") from error
    if min(lowest) < -1 or max(highest) >= classes:
        raise OncoduetError(
            label, expected=f"classes from -1 to {classes - 1}", found=f"{min(lowest)} to {max(highest)}"
        )


def _said(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__


def class_voxels(path: Path, shape: tuple[int, ...]) -> Mapping[int, npt.NDArray[np.integer[Any]]]:
    """Voxels of each class on which patches may be centred, from nnU-Net's record of a preprocessed study.

    Raises ``OncoduetError``: there is no such record, or it says something else, or a place is outside the study.

    Parameters
    ----------
    shape
        Of the study's label, (1, z, y, x).

    Returns
    -------
    For each foreground class places of shape (count, 4), along the axes of the label.
    """
    record = read_plain_pickle(path, what="nnU-Net's record of a study")
    by_class = record.get("class_locations") if isinstance(record, dict) else None
    if not isinstance(by_class, dict) or not all(type(value) is int for value in by_class):
        raise OncoduetError(path, "no voxels by class (class_locations)")
    places: dict[int, npt.NDArray[np.integer[Any]]] = {}
    for value, found in by_class.items():
        empty = isinstance(found, list | tuple) and not found
        voxels = np.zeros((0, len(shape)), np.int64) if empty else found
        if not isinstance(voxels, np.ndarray) or voxels.dtype.kind not in "iu" or voxels.shape[1:] != (len(shape),):
            raise OncoduetError(path, f"voxels of class {value} are not an array of shape (n, {len(shape)})")
        if voxels.size and not ((voxels >= 0) & (voxels < shape)).all():
            raise OncoduetError(path, f"voxels of class {value} are outside {list(shape)}")
        places[value] = voxels
    return places
