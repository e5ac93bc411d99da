"""Errors meant for users: one readable line that says which file, what was expected and what was found.

Everything else is a bug and keeps its traceback. ``exit_status`` is the only place that turns an exception into an
exit code: 0 done, 1 a bug, 2 wrong usage, 3 the input is wrong.
"""

import errno
import sys
import traceback
from collections.abc import Callable, Sequence

SHOWN = 10
"""How many of many things a message names."""


class OncoduetError(Exception):
    """The input is wrong; the message is one line for the person who gave it."""

    exit_code = 3


class UsageError(OncoduetError):
    """The command line asks for something that does not exist (argparse's own complaints aside)."""

    exit_code = 2


def one_line(message: str) -> str:
    """Fold any text into one line, since the platform shows only the last line of stderr."""
    return " ".join(str(message).split())


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def exit_status(command: Callable[[], None]) -> int:
    """Run a command and say how it ended, as an exit code for ``sys.exit``."""
    try:
        command()
    except OncoduetError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:  # a mounted folder that the container's user may not read, wherever it shows
        print(f"error: {error.filename}: expected to be allowed to use it, found: {error.strerror}", file=sys.stderr)
        return OncoduetError.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            traceback.print_exc()
            return 1
        print(f"error: {error.filename or 'a file'}: expected space on the disk, found none", file=sys.stderr)
        return OncoduetError.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0
