"""What users see: the log and rich's output on stdout, safe for any content of names and headers.

Every log, console and progress bar of the packages comes from here. Markup in data is data (``[old] runs`` is shown as
it is), unprintable characters are shown as escapes, and so are those that the locale's encoding lacks.
"""

import codecs
import io
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from contract.text import one_line, printable, printable_lines

WIDTH = 160
"""Columns of what is shown where there is no terminal that has a width of its own."""


def clean_streams() -> None:
    """Let stdout and stderr take every character; where one is closed, what is written to it goes nowhere."""
    sys.stdout = _taking_all(sys.stdout)
    sys.stderr = _taking_all(sys.stderr)


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
        From which on the messages of everybody are shown.
    ours
        Package whose own messages are shown from INFO on.
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
    """Takes no text for markup, and shows what is not printable as an escape."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text, as rich does, of what is only that."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False, "highlight": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, as rich does, what is printable."""
        if isinstance(renderable, Text) and not renderable.plain.isprintable():
            renderable = renderable.blank_copy(printable(renderable.plain))
        return super().render(renderable, options)

    def on_broken_pipe(self) -> None:
        """Leave it to ``contract.process.command``; rich would end the process by itself."""
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def console() -> Console:
    """Make a console on stdout; without a terminal it is wide enough for a table."""
    is_told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return _CleanConsole(file=sys.stdout, highlight=False, markup=False, width=None if is_told else WIDTH)


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
