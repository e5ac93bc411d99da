"""Independent pieces of work, in this process or spread over several.

Results come in the order of the pieces and are the same for any number of workers; a piece that draws random numbers
has a stream of its own. Where processes cannot be had (they need semaphores in /dev/shm, which some containers mount
read-only or leave out), everything happens in this one.

What a piece logs in another process is logged in this one, when its turn has come: nothing is lost, and a warning of
Python's, which each process gives once, is given once.
"""

import argparse
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from logging.handlers import QueueHandler
from multiprocessing import active_children, get_context, parent_process
from typing import Any, Self, TypeVar

from contract.errors import OncoduetError
from contract.process.signals import children_that_end_with_us, leave_last_word_to_parent

Piece = TypeVar("Piece")
Result = TypeVar("Result")

THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
"""Variables by which libraries are told how many threads to start."""

MOST_WORKERS = 1024

logger = logging.getLogger(__name__)


def worker_count(text: str) -> int:
    """A number of processes, for the ``type`` of an option."""
    if not (text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MOST_WORKERS):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST_WORKERS}, found {text!r}")
    return int(text)


class WorkerKilledError(OncoduetError):
    """A process of the pool was killed, as one is that takes more memory than there is."""


class Workers:
    """Processes for as long as the context is open; each imports what it needs once.

    Parameters
    ----------
    count
        How many, at most; with 1, everything happens in this process.
    variables
        Environment of the other processes, in addition to ours.
    """

    def __init__(self, count: int, variables: Mapping[str, str] | None = None) -> None:
        self.count = count
        """How many there are, at most; 1 where there can be no others."""
        self._variables = variables or {}
        self._pool: ProcessPoolExecutor | None = None
        self._given: set[str] = set()

    def __enter__(self) -> Self:
        if self.count > 1:
            self._pool = _pool(self.count)
        if self._pool is None:
            self.count = 1
        return self

    def each(self, work: Callable[[Piece], Result], pieces: Iterable[Piece], *, at_once: int = 1) -> Iterator[Result]:
        """Do the work on every piece and hand out the results in order.

        Raises :class:`WorkerKilledError`, or what the work raised.

        Parameters
        ----------
        work
            A function of a module, or a ``functools.partial`` of one: other processes must be able to import it.
        at_once
            So many pieces are sent to a process at a time: more for little work.
        """
        if self._pool is None:
            yield from map(work, pieces)
            return
        try:
            with children_that_end_with_us(), _environment(self._variables):
                results = self._pool.map(partial(_telling, work), pieces, chunksize=at_once)  # starts the processes
            for result, told in results:
                _tell(told, self._given)
                yield result
        except BrokenProcessPool:
            raise WorkerKilledError(
                f"--workers {self.count}", "a process was killed; fewer workers need less memory"
            ) from None
        except Exception as error:
            _tell(getattr(error, "told", ()), self._given)
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        if kind is not None:
            for process in active_children():  # they would continue to the last piece
                process.terminate()
        self._pool.shutdown(cancel_futures=True)


def each_of(work: Callable[[Piece], Result], pieces: Iterable[Piece], *, workers: int) -> Iterator[Result]:
    """Do the work on every piece with so many processes; see :class:`Workers`."""
    with Workers(workers) as all_:
        yield from all_.each(work, pieces)


def shared_threads(workers: int) -> dict[str, str]:
    """Variables by which so many workers share the cores that this process may use."""
    each = max(1, len(os.sched_getaffinity(0)) // workers)
    return {name: os.environ.get(name, str(each)) for name in THREADS}


@contextmanager
def collected_log() -> Iterator[list[logging.LogRecord]]:
    """Take what is logged in here, from INFO on, in place of the log; the records can be sent to another process."""
    records: list[logging.LogRecord] = []
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [_Collecting(records)]
    root.setLevel(logging.INFO)
    try:
        yield records
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


class _Collecting(QueueHandler):
    """Keeps records without what cannot be sent, such as a traceback's frames."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(records)  # type: ignore[arg-type]  # our enqueue wants no queue
        self._records = records

    def enqueue(self, record: logging.LogRecord) -> None:
        self._records.append(record)


def _telling(work: Callable[[Piece], Result], piece: Piece) -> tuple[Result, list[logging.LogRecord]]:
    """In another process: a piece's result, and what it logged; an error brings that along."""
    with collected_log() as told:
        try:
            return work(piece), told
        except Exception as error:
            error.told = told  # type: ignore[attr-defined]
            raise


def _tell(records: Iterable[logging.LogRecord], given: set[str]) -> None:
    for record in records:
        if record.name == "py.warnings":
            if record.getMessage() in given:
                continue
            given.add(record.getMessage())
        source = logging.getLogger(record.name)
        if source.isEnabledFor(record.levelno):
            source.handle(record)


def _pool(workers: int) -> ProcessPoolExecutor | None:
    """Processes, or None where the machine has no means by which they could talk to one another."""
    try:
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    except (OSError, ImportError) as error:
        logger.warning("--workers %d: cannot start processes here (%s); continuing in one", workers, error)
        return None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have variables for as long as processes are started: libraries read them when they are imported."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin() -> None:
    """In a process of the pool: end when who asked for the work has ended, however that happened."""
    leave_last_word_to_parent()
    logging.captureWarnings(True)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
