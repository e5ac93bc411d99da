"""Errors meant for users: one readable line that says which file, what was expected and what was found.

Everything else is a bug and keeps its traceback. Only ``ending`` turns an exception into an exit code: 0 done, 1 a bug,
2 wrong usage, 3 wrong input or a fault of the machine.
"""

import contextlib
import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

from contract.text import one_line, printable_lines

_MACHINE: Mapping[int, str] = {
    errno.ENOENT: "file not found",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file is too large for this file system",
    errno.EROFS: "read-only file system",
    errno.ENOTDIR: "not a directory",
    errno.EISDIR: "is a directory",
    errno.EEXIST: "already exists",
    errno.ENOTEMPTY: "directory is not empty",
    errno.ENAMETOOLONG: "file name is too long",
    errno.ELOOP: "too many levels of symbolic links",
    errno.EIO: "input/output error of the device",
    errno.ENXIO: "not a regular file",
    errno.ENODEV: "not a regular file",
    errno.ESTALE: "stale handle of a network file system",
    errno.ETIMEDOUT: "network file system does not answer",
    errno.ENOTCONN: "network file system does not answer",
    errno.ENOSYS: "not supported by this file system",
    errno.EOPNOTSUPP: "not supported by this file system",
    errno.ENOLCK: "file system without locks",
    errno.EXDEV: "on another file system",
    errno.EBUSY: "in use by another process",
    errno.ETXTBSY: "a running program",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.EMLINK: "too many links",
    errno.ENOMEM: "not enough memory",
    errno.EAGAIN: "too many processes or threads",
}
"""Problem as users read it, by the system's error number, for faults of the machine or of a file."""


class OncoduetError(Exception):
    """The input is wrong; the message is one line for the user.

    Either two things are compared (``expected``, ``found``), or one phrase names the ``problem``.

    Parameters
    ----------
    where
        The file, folder, option or key that is wrong; the whole message if nothing else is given.
    problem
        What is wrong with it.
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
        parts = [self.problem, *(f"{word} {value}" for word, value in compared if value is not None)]
        line = ", ".join(part for part in parts if part is not None)
        super().__init__(f"{self.where}: {line}" if line else self.where)

    def moved(self, old: object, new: object) -> Self:
        """The same error, with one path replaced by another in every field."""
        fields = (self.where, self.problem, self.expected, self.found)
        where, problem, expected, found = (each and each.replace(str(old), str(new)) for each in fields)
        return type(self)(where, problem, expected=expected, found=found)


class UsageError(OncoduetError):
    """The command line is wrong (beyond what argparse checks)."""

    exit_code = 2


class Ending(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code for ``sys.exit``."""
    said: str
    """Text for stderr, without a final newline: empty, one line, or a bug's traceback."""


def ending(command: Callable[[], object]) -> Ending:
    """Run a command and return how it ended."""
    try:
        command()
    except Exception as error:
        wrong = error if isinstance(error, OncoduetError) else _as_wrong_input(error)
        if wrong is None:
            return Ending(1, printable_lines(traceback.format_exc().rstrip()))
        return Ending(wrong.exit_code, f"error: {one_line(str(wrong))}")
    return Ending(0, "")


def exit_status(command: Callable[[], object]) -> int:
    """Run a command, report its error on stderr, and return the exit code for ``sys.exit``."""
    code, said = ending(command)
    if said:
        with contextlib.suppress(OSError):
            print(said, file=sys.stderr, flush=True)
    return code


def problem_of(error: OSError) -> str:
    """A system error about a file as the problem of an :class:`OncoduetError`."""
    if error.errno is None:
        return str(error)
    text = os.strerror(error.errno)
    return _MACHINE.get(error.errno, text[:1].lower() + text[1:])


def _as_wrong_input(error: Exception) -> OncoduetError | None:
    """The error as the user reads it where the machine or the input's encoding is at fault; None for a bug."""
    match error:
        case OSError(errno=int(number)) if number in _MACHINE or error.filename is not None:
            file = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
            nameless = "the current folder" if number == errno.ENOENT else "a file"  # os.getcwd gives no name
            named = nameless if file is None else re.sub(r"\.partial-[0-9a-f]{32}/?", "", str(file))
            return OncoduetError(named, problem_of(error))
        case RuntimeError() if str(error).startswith("Symlink loop from "):  # pathlib's, before Python 3.13
            return OncoduetError(str(error).removeprefix("Symlink loop from "), _MACHINE[errno.ELOOP])
        case UnicodeEncodeError() if name := re.search(r'[^"\n]*[\ud800-\udfff][^"\n]*', error.object):
            return OncoduetError(f"{name[0]!r}", "name is not valid UTF-8")
        case UnicodeDecodeError():
            rest = error.object[error.start : error.start + 20]
            return OncoduetError(f"text is not valid {error.encoding}: {rest!r} after {error.start} bytes")
        case MemoryError():
            return OncoduetError("not enough memory" + (f" ({error})" if str(error) else ""))
    return None
