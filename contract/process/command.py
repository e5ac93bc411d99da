"""What every command line does: streams, signals and the log before the work, an exit code after it.

A command ends with 0 done, 1 a bug (traceback), 2 wrong usage, 3 wrong input (one line on stderr); 130, 143 or 129
after Ctrl-C, SIGTERM or SIGHUP (one line); or 141 if its output is no longer read.
"""

import argparse
import math
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from contract.errors import Ending, ending
from contract.process.lifetime import end_imports
from contract.process.signals import WORDS, Terminated, exit_code, signals_as_exceptions
from contract.process.terminal import clean_streams, forget_unwritten, require_stdout_written, say
from contract.text import one_line

Options = TypeVar("Options")


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one printable line, for any input."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """End with 2."""
        super().error(one_line(message))


def _path(text: str) -> Path:
    if not text:  # Path("") is the current folder, which is not meant by an unset variable
        raise argparse.ArgumentTypeError("expected a path, found an empty text")
    return Path(text)


def positive_number(text: str) -> float:
    """A finite number above 0, for the ``type`` of an option."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return number


def positive_count(text: str) -> int:
    """A whole number from 1, for the ``type`` of an option."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return count


class _UnreadError(BaseException):
    """stdout is no longer read; no ``Exception``, so that it is not handled as a failure."""


def run_command(parse: Callable[[], Options], work: Callable[[Options], object], *, log: Callable[[], None]) -> int:
    """Run one command line and return its exit code (wrong usage exits at once, with 2).

    Parameters
    ----------
    parse
        Reads the command line.
    work
        Does the work.
    log
        Sets up the log.
    """
    end_imports()
    clean_streams()
    try:
        with signals_as_exceptions():
            log()
            options = parse()
            code, said = _unless_stdout_closed(lambda: work(options))
            if code == 0:
                code, said = _unless_stdout_closed(require_stdout_written)
            if said:
                say(said)
            return code
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except Terminated as error:
        return _stopped(signal.Signals(error.number))
    except _UnreadError:
        return exit_code(signal.SIGPIPE)
    finally:
        forget_unwritten()


def _unless_stdout_closed(command: Callable[[], object]) -> Ending:
    """Run a command, which ends silently when its output is no longer read."""

    def run() -> None:
        try:
            command()
        except BrokenPipeError:
            if _is_read():
                raise
            raise _UnreadError from None

    return ending(run)


def _is_read() -> bool:
    """Whether stdout is no pipe whose other end is closed."""
    try:
        asked = select.poll()
        asked.register(sys.stdout.fileno(), 0)
        return not any(event & select.POLLERR for _, event in asked.poll(0))
    except (OSError, ValueError):  # no file of the system's, as in tests
        return True


def _stopped(number: signal.Signals) -> int:
    say(WORDS[number])
    return exit_code(number)
