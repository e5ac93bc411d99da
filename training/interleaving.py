"""Several trainings interleaved in one process: each is a generator that yields after every step.

What a training needs of the process while it works (its log, its random numbers, its stream on the GPU) is a context
that is entered for each of its steps and left before another training's step.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar, cast

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""A training: yields after each step and returns its result."""


def interleave(steps: Steps[Result], context: Callable[[], AbstractContextManager[None]]) -> Steps[Result]:
    """The same steps, each within a new context; closing the generator closes them within one, too."""
    try:
        while True:
            with context():
                try:
                    next(steps)
                except StopIteration as end:
                    return cast(Result, end.value)
            yield
    finally:
        with context():
            steps.close()


def run_to_end(steps: Steps[Result]) -> Result:
    """Run all steps; returns the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast(Result, end.value)


class Clock:
    """Wall and CPU seconds of one training's own steps."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = 0.0, 0.0
        self._since: tuple[float, float] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what passes in here."""
        self._since = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._wall_s, self._cpu_s = self.seconds()
            self._since = None

    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds so far, the current step included."""
        if self._since is None:
            return self._wall_s, self._cpu_s
        wall_s, cpu_s = self._since
        return self._wall_s + time.perf_counter() - wall_s, self._cpu_s + time.process_time() - cpu_s
