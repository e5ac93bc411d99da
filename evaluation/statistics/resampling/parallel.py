"""Independent pieces of work, in this process or several.

Every piece has its own random stream, named by what it is for, so results are the same for any number of workers; they
come in the order of the pieces. Where processes cannot be started (they need semaphores in /dev/shm, which some
containers mount read-only or lack), everything runs in this one.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from typing import TypeVar

from contract.errors import OncoduetError
from contract.process.signals import children_that_end_with_us, leave_last_word_to_parent

Piece = TypeVar("Piece")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def each_of(work: Callable[[Piece], Result], pieces: Iterable[Piece], *, workers: int) -> Iterator[Result]:
    """Do the work on every piece and hand out the results in order.

    Parameters
    ----------
    work
        A function of a module, or a ``functools.partial`` of one: other processes must be able to import it.
    workers
        Number of processes; with 1, everything runs in this one.

    Raises
    ------
    OncoduetError
        A process was killed, as happens when memory runs out.
    """
    pool = _pool(workers) if workers > 1 else None
    if pool is None:
        yield from map(work, pieces)
        return
    try:
        with children_that_end_with_us():
            results = pool.map(work, pieces)  # starts the processes
        yield from results
    except BrokenProcessPool:
        raise OncoduetError(f"--workers {workers}", "a process was killed; fewer workers need less memory") from None
    except BaseException:
        for process in active_children():  # they would continue to the last piece
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor | None:
    """Processes, or None where the machine lacks the means for them to communicate."""
    try:
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    except (OSError, ImportError) as error:
        logger.warning("--workers %d: cannot start processes here (%s); continuing in one", workers, error)
        return None


def _end_with_parent() -> None:
    """End a process of the pool when the caller has ended, in any way."""
    leave_last_word_to_parent()
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
