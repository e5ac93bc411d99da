"""Files that are either complete or absent: written under a temporary name, synced, renamed.

JSON is strict: no NaN or infinity.
"""

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import OncoduetError, problem_of
from contract.files.leases import require_leases
from contract.files.locks import lock_if_possible

PARTIAL = re.compile(r"\.partial-[0-9a-f]{32}(\.\w+)*")
"""Names of files and folders that are being written."""

_cleaned: set[Path] = set()
"""Folders from which this process has removed partial files."""


@contextmanager
def atomic_file(path: Path, *, size_bytes: int | None = None) -> Iterator[Path]:
    """Give a temporary path with the same suffix; on success sync it and rename it to ``path``, else remove it.

    Raises ``OncoduetError``: the folder cannot be written to, a folder has the file's name, the disk is full, or this
    process has lost its lease on the folder; a file that was there before is still there.

    Parameters
    ----------
    size_bytes
        How large the file is going to be, for the message where the disk is too full for it; None: not known.
    """
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith((".nii.gz", ".tar.gz")) else path.suffix
    if path.is_dir():
        raise OncoduetError(path, expected="a file or nothing", found="a folder")
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, hold = _held(path.parent, suffix, lambda new: new.touch(exist_ok=False))
    try:
        yield partial
        sync(partial)
        require_leases(path)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)  # before its space is counted
        explain_full_disk(error, path, size_bytes=size_bytes)
        raise
    finally:
        partial.unlink(missing_ok=True)
        os.close(hold)


@contextmanager
def held_folder(parent: Path) -> Iterator[Path]:
    """Give a new folder inside ``parent`` that is gone afterwards; :func:`remove_partial_files` leaves it while in use.

    Raises ``OncoduetError``: ``parent`` cannot be written to.
    """
    with writable(parent):
        folder, hold = _held(parent, "", Path.mkdir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(hold)


def remove_partial_files(folder: Path) -> None:
    """Remove partial files of killed processes, by their names; those of running processes stay.

    On a file system without locks the two look alike, and nothing is removed.
    """
    for path in folder.glob(".partial-*"):
        if not PARTIAL.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            hold = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if lock_if_possible(hold):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError:
            pass
        finally:
            os.close(hold)


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing, or only partial files, as of a process that was killed when it began."""
    return all(PARTIAL.fullmatch(path.name) for path in folder.iterdir())


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, indented, with a final newline. Raises ``ValueError`` for NaN or infinity (a bug)."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a NumPy file atomically."""
    with atomic_file(path) as partial:
        np.save(partial, array, allow_pickle=False)


def sync(path: Path) -> None:
    """Have the system write a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain_full_disk(error: OSError, path: Path, *, size_bytes: int | None) -> None:
    """Raise ``OncoduetError`` if that is what the error means; NumPy's own has a text in place of a number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or (
        error.errno is None and " requested and " in str(error)
    ):
        needed = "enough space" if size_bytes is None else f"{size_bytes} bytes"
        free_bytes = shutil.disk_usage(nearest_folder(path.parent)).free
        raise OncoduetError(path, expected=f"{needed} for it on the disk", found=f"{free_bytes} bytes free") from None


@contextmanager
def full_disk_said(path: Path) -> Iterator[None]:
    """Raise ``OncoduetError`` that names the path where the disk is full."""
    try:
        yield
    except OSError as error:
        explain_full_disk(error, path, size_bytes=None)
        raise


def nearest_folder(path: Path) -> Path:
    """The path itself if something is there, else the nearest of its parents of which that is true."""
    return next((place for place in [path, *path.absolute().parents] if os.path.lexists(place)), path)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Report in one line that a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        raise OncoduetError(folder, f"cannot be written to: {problem_of(error)}") from None


def _held(parent: Path, suffix: str, make: Callable[[Path], None]) -> tuple[Path, int]:
    """Make something new under a temporary name and lock it; its descriptor holds the lock until it is closed.

    What killed processes left in the folder goes first, once per process.
    """
    if (place := parent.resolve()) not in _cleaned:
        _cleaned.add(place)
        remove_partial_files(parent)
    while True:
        path = parent / f".partial-{uuid.uuid4().hex}{suffix}"
        make(path)
        try:
            hold = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # another process took it for a leftover
            continue
        locked = lock_if_possible(hold)
        if locked is None or (locked and path.exists()):  # else another process took it for a leftover
            return path, hold
        os.close(hold)
