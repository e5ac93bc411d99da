"""Files that are either complete or not there: written beside, synced, renamed.

JSON is strict in both directions: no NaN or infinity, no duplicate keys. Hashes are SHA-256, in hexadecimal.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError

MOST_TEXT_BYTES = 2**26
"""Of a text file that is read whole: 64 MiB, a hundred times what the largest study lists take."""
LONGEST_QUOTE = 80
"""Characters of a foreign name that a message repeats."""

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

    Parameters
    ----------
    size_bytes
        How large the file is going to be, for the message where the disk is too full for it; None: not known.

    Raises
    ------
    OncoduetError
        The folder cannot be written to, or the disk is full; a file that was there before is still there.
    """
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith((".nii.gz", ".tar.gz")) else path.suffix
    partial = path.with_name(f".partial-{uuid.uuid4().hex}{suffix}")
    with _writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)  # before its space is counted
        _explain_full_disk(error, path, size_bytes=size_bytes)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Give an empty folder inside ``output``; on success move what it holds into ``output``, else leave no trace.

    ``output`` may exist already (a mounted folder); entries of the same name are replaced.

    Raises
    ------
    OncoduetError
        ``output`` is no folder or cannot be written to, or the disk is full.
    """
    existed = output.exists()
    with _writable(output):
        output.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".partial-", dir=output))
    try:
        yield stage
        for file in stage.rglob("*"):
            if file.is_file():
                _sync(file)
        for entry in sorted(stage.iterdir()):
            target = output / entry.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            entry.replace(target)
        _sync(output)
    except OSError as error:
        _explain_full_disk(error, output, size_bytes=None)
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not existed and not any(output.iterdir()):
            output.rmdir()


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON, indented, with a final newline. Raises ``ValueError`` for NaN or infinity (a bug)."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_text(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Read UTF-8 text whose kind and size are known before a byte of it is read.

    Parameters
    ----------
    most_bytes
        How large the file may be.

    Raises
    ------
    OSError
        There is no such file, or it may not be read, or it is a folder, or a pipe or device, which may have no end.
    ValueError
        It is larger, or no UTF-8.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, os.strerror(number) if number == errno.EISDIR else f"Is {kind_of(found)}", str(path))
    if found.st_size > most_bytes:
        raise ValueError(f"{found.st_size} bytes, more than {most_bytes}")
    return path.read_text(encoding="utf-8")


def kind_of(found: os.stat_result) -> str:
    """What stands there, in a word."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def read_json(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> Any:
    """Read strict JSON, in a time that grows with its size alone.

    Raises
    ------
    OncoduetError
        The file is missing, too large or no file, is not JSON, holds NaN or infinity, or names a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            doubled = min(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"key {doubled[:LONGEST_QUOTE]!r} stands twice")
        return values

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = read_text(path, most_bytes=most_bytes)
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except FileNotFoundError:
        raise OncoduetError(f"{path}: expected a JSON file, found none") from None
    except (ValueError, RecursionError, OSError) as error:
        raise OncoduetError(f"{path}: expected valid JSON, found: {error}") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def number_or_null(value: float) -> float | None:
    """A float that JSON can hold: NaN and infinity become null."""
    return float(value) if math.isfinite(value) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain_full_disk(error: OSError, path: Path, *, size_bytes: int | None) -> None:
    """Raise ``OncoduetError`` if that is what the error means; NumPy's own has a text in place of a number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and " requested and " in str(error)):
        needed = "enough space" if size_bytes is None else f"{size_bytes} bytes"
        free_bytes = shutil.disk_usage(path.parent).free
        raise OncoduetError(f"{path}: expected {needed} for it on the disk, found {free_bytes} bytes free") from None


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OncoduetError(f"{folder}: expected a folder that can be written to, found: {error.strerror}") from None
