"""What users see: the log and rich's output on stdout, safe for any content of names and headers.

Every log, console and progress bar of the packages comes from here. Markup in data is data (``[old] runs`` is shown as
it is), unprintable characters are shown as escapes, and so are those that the locale's encoding lacks.

If stdout cannot be written to, as on a full disk, that is reported as the error: for a result at once, for the log when
the command has ended. If stderr cannot, the last line goes to stdout. Neither changes what else a command does.
"""

import codecs
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from contract.text import one_line, printable, printable_lines

WIDTH = 160
"""Columns of output without a terminal."""


class _Named:
    """A stream whose faults bear its name, the first of which is kept."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.fault: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as streams do."""
        with self._naming():
            return self._stream.write(text)

    def flush(self) -> None:
        """Empty the buffer."""
        with self._naming():
            self._stream.flush()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            error.filename = error.filename or self._name
            self.fault = self.fault or error
            raise


def clean_streams() -> None:
    """Make stdout and stderr accept every character; output to a closed stream is discarded."""
    if not isinstance(sys.stdout, _Named):
        sys.stdout = cast(TextIO, _Named(_taking_all(sys.stdout), "standard output"))
    sys.stderr = _taking_all(sys.stderr)


def require_stdout_written() -> None:
    """Raise the ``OSError`` due to which a part of stdout, the log included, was not written."""
    sys.stdout.flush()
    if isinstance(sys.stdout, _Named) and sys.stdout.fault:
        raise sys.stdout.fault


def say(line: str) -> None:
    """Print a last line on stderr, or on stdout if stderr cannot be written to; never fails."""
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(OSError, ValueError):
            print(line, file=stream, flush=True)
            return


def forget_unwritten() -> None:
    """Flush the streams, or discard their buffers: Python would change the exit code for what it cannot write."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _taking_all(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed by who started us; the next file to be opened would get its number, and its text
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - a stream for as long as we run
    if isinstance(stream, io.TextIOWrapper):
        is_utf8 = codecs.lookup(stream.encoding).name == "utf-8"  # ASCII is right for readers of any other as well
        stream.reconfigure(encoding="utf-8" if is_utf8 else "ascii", errors="backslashreplace")
    return stream


class CleanFormatter(logging.Formatter):
    """One printable line per message; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, D102 - logging's name
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802, D102
        return printable_lines(super().formatException(ei))


def log_to_stdout(form: str, *, level: int = logging.INFO, ours: str | None = None) -> None:
    """Send the log, and Python's warnings with it, to stdout.

    Parameters
    ----------
    form
        Format of a message.
    level
        Lowest level of messages that are shown.
    ours
        Package whose messages are shown from INFO on, whatever ``level`` is.
    """
    handler = _Log(sys.stdout)
    handler.setFormatter(CleanFormatter(form))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    if ours is not None:
        logging.getLogger(ours).setLevel(logging.INFO)


class _Log(logging.StreamHandler[TextIO]):
    """Drops output that cannot be written: a closed pipe or a full disk ends no training and no answer of a server."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _CleanConsole(Console):
    """Never interprets text as markup, and shows unprintable characters as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text as rich does, without markup."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, with escapes for unprintable characters."""
        if isinstance(renderable, Text) and not renderable.plain.isprintable():
            renderable = renderable.blank_copy(printable(renderable.plain))
        return super().render(renderable, options)

    def on_broken_pipe(self) -> None:
        """Re-raise for ``contract.process.command``; rich would end the process."""
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def console() -> Console:
    """Make a console on stdout; without a terminal it is wide enough for a table."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _CleanConsole(file=sys.stdout, highlight=False, markup=False, width=None if has_width else WIDTH)


def progress_on(to: Console, *more: ProgressColumn, columns: Sequence[ProgressColumn] = (), **options: Any) -> Progress:
    """Make a progress display whose descriptions are shown as they are.

    Parameters
    ----------
    more
        Columns after the usual ones.
    columns
        Columns in place of the usual ones.
    options
        Of ``rich.progress.Progress``.
    """
    usual = (
        said("description", style="progress.description"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*(columns or usual), *more, console=to, **options)


def said(field: str, *, style: str = "none") -> TextColumn:
    """Make a column of a task's text: its ``description``, or a field such as ``fields[left]``."""
    return TextColumn(f"{{task.{field}}}", style=style, markup=False)
