"""Where the remarks of libraries go: into a log file beside what is made, not into the user's way."""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what is logged, printed or warned of in here to a file; the terminal stays with the progress display."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with path.open("a", encoding="utf-8", buffering=1) as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        root.handlers[:] = [handler]
        root.setLevel(logging.INFO)
        try:
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
