"""The output of libraries goes into a log file next to what is made, not to the user's terminal."""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from contract.files.reading import regular_only
from contract.process.terminal import CleanFormatter


class Log:
    """A log file that is open for long and takes what is logged, printed or warned of within ``context``."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._handler = logging.StreamHandler(stream)
        self._handler.setFormatter(CleanFormatter("%(asctime)s %(message)s"))

    @contextmanager
    def context(self) -> Iterator[None]:
        """Send it here; the terminal stays with the progress display."""
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        root.handlers[:] = [self._handler]
        root.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(self._stream), contextlib.redirect_stderr(self._stream):
                yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


@contextmanager
def open_log(path: Path) -> Iterator[Log]:
    """Open a log file to append to. Raises ``OncoduetError`` where something else has its name."""
    stream = open(path, "a", encoding="utf-8", buffering=1, opener=regular_only)  # noqa: SIM115
    try:
        yield Log(stream)
    finally:
        with contextlib.suppress(OSError):  # a full disk, which an earlier write has reported
            stream.close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what is logged, printed or warned of in here to a file."""
    with open_log(path) as log, log.context():
        yield
