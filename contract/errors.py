"""Errors meant for users: one readable line that says which file, what was expected and what was found.

Everything else is a bug and keeps its traceback. ``ending`` is the only place that turns an exception into an exit
code: 0 done, 1 a bug, 2 wrong usage, 3 the input is wrong, or the machine that it lies on.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from contract.text import one_line, printable_lines

__all__ = ["Ending", "OncoduetError", "UsageError", "ending", "exit_status", "one_line", "some"]

SHOWN = 10
"""How many of many things a message names."""

_MACHINE: Mapping[int, str] = {
    errno.ENOENT: "expected it to be there",
    errno.EACCES: "expected to be allowed to use it",
    errno.EPERM: "expected to be allowed to use it",
    errno.ENOSPC: "expected space on the disk",
    errno.EDQUOT: "expected space on the disk",
    errno.EFBIG: "expected a disk that takes large files",
    errno.EROFS: "expected a disk that can be written to",
    errno.ENOTDIR: "expected folders alone above it",
    errno.EISDIR: "expected a file",
    errno.EEXIST: "expected nothing of this name",
    errno.ENOTEMPTY: "expected an empty folder",
    errno.ENAMETOOLONG: "expected a shorter name",
    errno.ELOOP: "expected links that lead somewhere",
    errno.EIO: "expected a disk that works",
    errno.ENXIO: "expected a file",
    errno.ENODEV: "expected a file",
    errno.ESTALE: "expected a network disk that is still there",
    errno.ETIMEDOUT: "expected a network disk that answers",
    errno.ENOTCONN: "expected a network disk that answers",
    errno.ENOSYS: "expected a disk that can do this",
    errno.EOPNOTSUPP: "expected a disk that can do this",
    errno.ENOLCK: "expected a disk with locks",
    errno.EXDEV: "expected one disk",
    errno.EBUSY: "expected that nobody else uses it",
    errno.ETXTBSY: "expected that nobody runs it",
    errno.EMFILE: "expected to be allowed more open files",
    errno.ENFILE: "expected to be allowed more open files",
    errno.EMLINK: "expected a disk that takes more links",
    errno.ENOMEM: "expected more memory",
    errno.EAGAIN: "expected to be allowed more processes or threads",
}
"""What was expected of the machine and of the files on it where the system says no, by its number of the error."""


class OncoduetError(Exception):
    """The input is wrong; the message is one line for the person who gave it.

    Two things are compared (``expected``, ``found``), or one sentence says what is the matter (``problem``).

    Parameters
    ----------
    where
        The file, folder, option or key that is wrong; the whole message if nothing else is given.
    problem
        What is the matter with it.
    expected
        What was expected there.
    found
        What is there.
    """

    exit_code = 3

    def __init__(
        self, where: object, problem: object = None, /, *, expected: object = None, found: object = None
    ) -> None:
        self.where = str(where)
        self.problem = None if problem is None else str(problem)
        self.expected = None if expected is None else str(expected)
        self.found = None if found is None else str(found)
        compared = (("expected", self.expected), ("found", self.found))
        told = [self.problem, *(f"{word} {value}" for word, value in compared if value is not None)]
        line = ", ".join(part for part in told if part is not None)
        super().__init__(f"{self.where}: {line}" if line else self.where)


class UsageError(OncoduetError):
    """The command line asks for something that does not exist (argparse's own complaints aside)."""

    exit_code = 2


class Ending(NamedTuple):
    """How a command ended."""

    code: int
    """For ``sys.exit``."""
    said: str
    """For stderr, without the last line's end: nothing, one line, or of a bug the traceback."""


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def ending(command: Callable[[], object]) -> Ending:
    """Run a command and say how it ended."""
    try:
        command()
    except OncoduetError as error:
        return Ending(error.exit_code, f"error: {one_line(str(error))}")
    except Exception as error:
        found = _not_our_fault(error)
        if found is None:
            return Ending(1, printable_lines(traceback.format_exc().rstrip()))
        return Ending(OncoduetError.exit_code, f"error: {one_line(found)}")
    return Ending(0, "")


def exit_status(command: Callable[[], object]) -> int:
    """Run a command, tell stderr how it ended, and return that as an exit code for ``sys.exit``."""
    code, said = ending(command)
    if said:
        print(said, file=sys.stderr, flush=True)
    return code


def _not_our_fault(error: Exception) -> str | None:
    """What to tell the user where the machine or the input's encoding is at fault; None for a bug."""
    match error:
        case OSError(errno=int(number)) if number in _MACHINE or error.filename is not None:
            file = "a file" if error.filename is None else error.filename
            if isinstance(file, bytes):
                file = os.fsdecode(file)
            found = "found none" if number in (errno.ENOSPC, errno.EDQUOT) else f"found: {os.strerror(number)}"
            return f"{file}: {_MACHINE.get(number, 'expected to use it')}, {found}"
        case RuntimeError() if str(error).startswith("Symlink loop from "):  # pathlib's, before Python 3.13
            return f"{str(error).removeprefix('Symlink loop from ')}: expected links that lead somewhere, found a loop"
        case UnicodeEncodeError() if any("\ud800" <= each <= "\udfff" for each in error.object):
            return f"{error.object!r}: expected a name in UTF-8, found other bytes"
        case UnicodeDecodeError():
            rest = error.object[error.start : error.start + 20]
            return f"expected text in {error.encoding}, found {rest!r} after {error.start} bytes"
        case MemoryError():
            return f"expected more memory, found too little {f'({error})' if str(error) else ''}"
    return None
