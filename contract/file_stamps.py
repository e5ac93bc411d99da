"""Whether a file still has the same bytes: equal size and time are trusted, otherwise the hash decides."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

from contract.files.reading import sha256_file, sha256_json
from contract.schema import Frozen


class Look(TypedDict):
    """Size, time and hash of a file."""

    size_bytes: int
    modified_ns: int
    sha256: str


class FileStamp(Frozen):
    """Stamp of a file of an archive."""

    path: str
    """Path relative to the archive."""
    size_bytes: int
    modified_ns: int
    """Time of the last change, in ns since 1970."""
    sha256: str


class ImageStamp(Frozen):
    """Stamp of a channel's image."""

    channel: str
    size_bytes: int
    modified_ns: int
    """Time of the last change, in ns since 1970."""
    sha256: str


def look_at(path: Path) -> Look:
    """Size, time and hash of a file as it is now."""
    status = path.stat()
    return {"size_bytes": status.st_size, "modified_ns": status.st_mtime_ns, "sha256": sha256_file(path)}


def glance(folder: Path, paths: Iterable[Path]) -> str:
    """Hash of names, sizes and times of a folder's files, without reading them."""
    status = {str(path.relative_to(folder)): path.stat() for path in sorted(paths) if path.is_file()}
    return sha256_json({name: [each.st_size, each.st_mtime_ns] for name, each in status.items()})


def is_unchanged(
    stamp: FileStamp | ImageStamp, path: Path, *, hash_all: bool = False, hashed: Callable[[Path], str] = sha256_file
) -> bool:
    """Whether a file has the bytes of its stamp.

    Parameters
    ----------
    hash_all
        Hash the file even if size and time are equal.
    hashed
        Computes the sha256 of a file.
    """
    status = path.stat()
    if status.st_size != stamp.size_bytes:
        return False
    return (status.st_mtime_ns == stamp.modified_ns and not hash_all) or hashed(path) == stamp.sha256
