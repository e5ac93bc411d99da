"""A folder in which another project's programs work, and from which nothing of the user's is removed.

The names of the programs' files are not known in advance, so there is no list of them. Instead, the process that runs
them touches a file there every second. What was changed after the last touch, or is in a folder without that file, is
the user's.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from contract.errors import OncoduetError
from contract.files.atomic import PARTIAL
from contract.files.reading import below
from contract.outputs import MANIFEST, subfolder

SIGN = "at_work"
INTERVAL_S = 1.0
SLACK_S = 5.0
"""Time in which a program that is killed with its caller may finish writing."""


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Touch the sign every second while this process and its programs write into an existing folder."""
    sign, ended = folder / SIGN, threading.Event()

    def touch() -> None:
        while True:
            sign.touch()  # by the clock of the disk, which also stamps the files
            if ended.wait(INTERVAL_S):
                return

    thread = threading.Thread(target=touch, daemon=True)
    sign.touch()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if folder.is_dir():
            sign.touch()


def require_untouched(folder: Path) -> None:
    """Raise ``OncoduetError`` if a folder contains a file that no process put there while it was at work.

    A copy of the folder passes: its files are compared by the times that copying preserves.
    """
    subfolder(folder.parent, folder.name)
    for path in below(folder) if folder.is_dir() else ():
        if (path.is_dir() and not path.is_symlink()) or PARTIAL.fullmatch(path.name) or path.name in (SIGN, MANIFEST):
            continue
        if _changed_since(path, folder / SIGN):
            raise OncoduetError(
                path,
                expected="only files of the programs that work here",
                found="one not written by them; move it away",
            )


def remove_untouched(folder: Path) -> None:
    """Remove a folder, unless it contains something that these programs did not write."""
    with suppress(OncoduetError):
        require_untouched(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _changed_since(path: Path, sign: Path) -> bool:
    if not sign.is_file():
        return True
    last, found = sign.stat(), path.lstat()
    limit_ns = last.st_mtime_ns + int(SLACK_S * 1e9)
    is_copied = last.st_ctime_ns > limit_ns
    return found.st_mtime_ns > limit_ns or (found.st_ctime_ns > limit_ns and not is_copied)
