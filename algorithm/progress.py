"""How far a long command is: a bar on stdout, since the platform takes stderr for trouble."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


class Track(Protocol):
    """Goes through the items and shows how far it is."""

    def __call__(self, items: Sequence[Item], /) -> Iterable[Item]: ...  # noqa: D102


def stdout_bar(description: str) -> Track:
    """A progress bar with the given words before it."""

    def track(items: Sequence[Item], /) -> Iterator[Item]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stdout)) as progress:
            yield from progress.track(items, description=description)

    return track
