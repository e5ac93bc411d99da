"""Progress and remaining time of long commands, on stdout, since the platform treats stderr as an error.

A terminal gets a bar; a file or a container's log gets a line for every tenth of the work, and at least one in 30 s if
anything was done. The time left is estimated from what this process has done, not from what it found done.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from contract.process.terminal import console, progress_on, said

Item = TypeVar("Item")

LINE_EVERY_S = 30.0

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)  # how far it is, is said also where of other packages only warnings are


class Track(Protocol):
    """Goes through the items and shows how far it is; ``done`` items more were finished by an earlier process."""

    def __call__(self, items: Sequence[Item], /, *, done: int = 0) -> Iterable[Item]: ...  # noqa: D102


def stdout_bar(description: str) -> Track:
    """Progress with the given words before it: a bar on a terminal, now and then a line elsewhere."""

    def track(items: Sequence[Item], /, *, done: int = 0) -> Iterator[Item]:
        show = _bar if sys.stdout.isatty() else _lines
        yield from show(description, items, done)

    return track


def time_left(elapsed_s: float, *, done: int, left: int) -> str:
    """Estimate in words, if the rest goes as fast as what was done in the given time."""
    return f"about {clock(elapsed_s / done * left)} left" if left else "done"


def _bar(description: str, items: Sequence[Item], done: int) -> Iterator[Item]:
    columns = (said("description"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), said("fields[left]"))
    progress = progress_on(console(), columns=columns)
    with _log_above(progress):
        begun = time.monotonic()
        task = progress.add_task(description, total=done + len(items), completed=done, left="")
        for number, item in enumerate(items, start=1):
            yield item
            left = time_left(time.monotonic() - begun, done=number, left=len(items) - number)
            progress.update(task, completed=done + number, left=left, refresh=True)


def _lines(description: str, items: Sequence[Item], done: int) -> Iterator[Item]:
    begun = said_at = time.monotonic()
    step = math.ceil(len(items) / 10)
    said = 0
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if number == len(items) or number - said >= step or now - said_at >= LINE_EVERY_S:
            said, said_at = number, now
            left = time_left(now - begun, done=number, left=len(items) - number)
            logger.info(
                "%s: %d of %d after %s, %s", description, done + number, done + len(items), clock(now - begun), left
            )


@contextmanager
def _log_above(progress: Progress) -> Iterator[None]:
    """Show the bar, and let log lines on stdout appear above it."""
    stdout = sys.stdout
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is stdout
    ]
    with progress:
        for handler in handlers:
            handler.setStream(sys.stdout)
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(stdout)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))
