"""Reading files that may be foreign: only regular files, of bounded size; folders without the system's litter.

JSON is strict: no NaN or infinity, no duplicate keys. Hashes are SHA-256, in hexadecimal.
"""

import fnmatch
import hashlib
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import OncoduetError, problem_of

MOST_TEXT_BYTES = 2**24
"""Size limit of a text file that is read whole: 16 MiB, five times what the largest study lists take."""
MOST_CONTAINERS = 10_000
BYTES_PER_CONTAINER = 32
"""Objects and lists that a JSON file may hold: so many, and one more per so many bytes. An empty one takes up to 1 kB
of memory when it is checked; our own files have one per 100 bytes or more."""
LONGEST_QUOTE = 80
"""Characters of a foreign name that a message quotes."""
LITTER = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|ehthumbs\.db|desktop\.ini|\.directory|\.nfs[0-9a-f]+", re.IGNORECASE)
"""Names of files that macOS, Windows, KDE and NFS leave in any folder; they are ignored."""

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
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file to read; a pipe would block, and a device has no end.

    Raises
    ------
    OncoduetError
        It is something else.
    OSError
        It cannot be opened.
    """
    with open(path, "rb", opener=regular_only) as stream:
        yield stream


def read_regular(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """Read a regular file of bounded size. Raises as :func:`open_regular`, also ``OncoduetError`` for a larger one."""
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(min(size, most_bytes) + 1)  # which takes as much memory as it asks for
    if len(content) > most_bytes:
        raise OncoduetError(path, f"larger than {most_bytes} bytes")
    return content


def read_text(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Read UTF-8 text. Raises as :func:`read_regular`, also ``ValueError`` where it is no UTF-8."""
    return read_regular(path, most_bytes=most_bytes).decode("utf-8")


def read_array(path: Path) -> NDArray[Any]:
    """Read a NumPy file of one array. Raises as :func:`open_regular`, also ``ValueError`` where it is no such file."""
    with open_regular(path) as stream:
        try:
            return np.lib.format.read_array(stream, allow_pickle=False)
        except (MemoryError, ArithmeticError) as error:  # a shape that no file of this size has
            raise ValueError(f"{path}: {error}") from None


def read_json(path: Path, *, most_bytes: int = MOST_TEXT_BYTES) -> Any:
    """Read strict JSON, in a time that grows with its size alone.

    Raises ``OncoduetError``: the file is missing, too large or no file, is not JSON, holds NaN or infinity, names a key
    twice, or holds more objects and lists than its size explains.
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
        if (count := text.count("{") + text.count("[")) > MOST_CONTAINERS + len(text) // BYTES_PER_CONTAINER:
            raise OncoduetError(path, f"{count} objects and lists in {len(text)} characters")
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except OSError as error:
        raise OncoduetError(path, problem_of(error)) from None
    except (ValueError, RecursionError) as error:
        raise OncoduetError(path, f"not valid JSON: {error}") from None


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def inside(folder: Path, pattern: str = "*") -> list[Path]:
    """A folder's entries but litter whose names match a pattern, sorted. Raises ``OSError`` if it cannot be listed.

    ``Path.glob`` and ``rglob`` treat such a folder as empty, so use them only for our own folders.
    """
    return sorted(path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern) and not is_litter(path))


def below(folder: Path) -> Iterator[Path]:
    """All entries below a folder; links are not followed. Raises as :func:`inside`."""
    waiting = [folder]
    while waiting:
        for path in inside(waiting.pop()):
            yield path
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)


def is_litter(path: Path) -> bool:
    """Whether a file is litter of the operating system."""
    return LITTER.fullmatch(path.name) is not None and path.is_file() and not path.is_symlink()


def kind_of(found: os.stat_result) -> str:
    """The kind of a file, in words."""
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def regular_only(path: str, flags: int) -> int:
    """``opener`` for a file that may be the user's, to read or to append. Raises as :func:`open_regular`."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # which open refuses
        os.close(descriptor)
        raise OncoduetError(path, expected="a regular file", found=kind_of(found))
    return descriptor
