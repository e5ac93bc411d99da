"""Files that are either complete or absent: written under a temporary name, synced, renamed.

JSON is strict in both directions: no NaN or infinity, no duplicate keys. Hashes are SHA-256, in hexadecimal.
"""

import errno
import fnmatch
import hashlib
import io
import json
import os
import re
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError, problem_of
from contract.locks import lock_if_possible

MOST_TEXT_BYTES = 2**26
"""Of a text file that is read whole: 64 MiB, a hundred times what the largest study lists take."""
LONGEST_QUOTE = 80
"""Characters of a foreign name that a message repeats."""

LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|ehthumbs\.db|desktop\.ini|\.directory|\.nfs[0-9a-f]+", re.IGNORECASE)
"""Names of files that macOS, Windows, KDE and NFS leave in any folder; they belong to nobody and are not looked at."""

PARTIAL = re.compile(r"\.partial-[0-9a-f]{32}(\.\w+)*")
"""Names of what is half written."""
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


@contextmanager
def atomic_file(path: Path, *, size_bytes: int | None = None) -> Iterator[Path]:
    """Give a temporary path with the same suffix; on success sync it and rename it to ``path``, else remove it.

    Raises ``OncoduetError``: the folder cannot be written to, a folder has the file's name, or the disk is full; a file
    that was there before is still there.

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
    """Give a new folder inside ``parent`` that is gone afterwards; :func:`sweep` spares it while it is in use.

    Raises ``OncoduetError``: ``parent`` cannot be written to.
    """
    with writable(parent):
        folder, hold = _held(parent, "", Path.mkdir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(hold)


def sweep(folder: Path) -> None:
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


def inside(folder: Path, pattern: str = "*") -> list[Path]:
    """A folder's entries but litter whose names match a pattern, sorted. Raises ``OSError`` if it cannot be listed.

    ``Path.glob`` and ``rglob`` take such a folder for an empty one; so they are for folders of ours alone.
    """
    return sorted(path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern) and not is_litter(path))


def is_litter(path: Path) -> bool:
    """Whether this is a file that the system left."""
    return LITTER.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def below(folder: Path) -> Iterator[Path]:
    """All entries below a folder; links are not followed. Raises as :func:`inside`."""
    waiting = [folder]
    while waiting:
        for path in inside(waiting.pop()):
            yield path
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, indented, with a final newline. Raises ``ValueError`` for NaN or infinity (a bug)."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_text(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Read UTF-8 text. Raises as :func:`read_regular`, also ``ValueError`` where it is no UTF-8."""
    return read_regular(path, most_bytes=most_bytes).decode("utf-8")


def kind_of(found: os.stat_result) -> str:
    """The kind of a file, in words."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def read_json(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> Any:
    """Read strict JSON, in a time that grows with its size alone.

    Raises ``OncoduetError``: the file is missing, too large or no file, is not JSON, holds NaN or infinity, or names a
    key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            doubled = min(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"duplicate key {doubled[:LONGEST_QUOTE]!r}")
        return values

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = read_text(path, most_bytes=most_bytes)
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except OSError as error:
        raise OncoduetError(path, problem_of(error)) from None
    except (ValueError, RecursionError) as error:
        raise OncoduetError(path, f"not valid JSON: {error}") from None


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file to read; a pipe would be waited for, and a device has no end.

    Raises
    ------
    OncoduetError
        It is something else.
    OSError
        It cannot be opened.
    """
    with open(path, "rb", opener=regular_only) as stream:
        yield stream


def regular_only(path: str, flags: int) -> int:
    """``opener`` for a file that may be the user's, to read or to append. Raises as :func:`open_regular`."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # which open refuses
        os.close(descriptor)
        raise OncoduetError(path, expected="a regular file", found=kind_of(found))
    return descriptor


def read_regular(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """Read a regular file of bounded size. Raises as :func:`open_regular`, also ``OncoduetError`` for a larger one."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(min(size, most_bytes) + 1)  # which takes as much memory as it asks for
    if len(content) > most_bytes:
        raise OncoduetError(path, f"larger than {most_bytes} bytes")
    return content


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
    """Make something new under a temporary name and lock it; its descriptor holds the lock until it is closed."""
    while True:
        path = parent / f".partial-{uuid.uuid4().hex}{suffix}"
        make(path)
        hold = os.open(path, os.O_RDONLY)
        locked = lock_if_possible(hold)
        if locked is None or (locked and path.exists()):  # else another process is sweeping, and took it for a leftover
            return path, hold
        os.close(hold)
