"""Independent pieces of work, in this process or spread over several.

Every piece has its own random stream, named by what it is for, so results are the same for any number of workers; they
come in the order of the pieces. Where processes cannot be had (they need semaphores in /dev/shm, which some containers
mount read-only or leave out), everything happens in this one.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from contract.errors import OncoduetError

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
        Processes; with 1, everything happens here.

    Raises
    ------
    OncoduetError
        A process was killed, as one is that takes more memory than there is.
    """
    pool = _pool(workers) if workers > 1 else None
    if pool is None:
        yield from map(work, pieces)
        return
    with pool:
        try:
            yield from pool.map(work, pieces)
        except BrokenProcessPool:
            raise OncoduetError(
                f"--workers {workers}: expected processes that end their work, found one killed; fewer take less memory"
            ) from None


def _pool(workers: int) -> ProcessPoolExecutor | None:
    """Processes, or None where the machine lends no semaphores for them."""
    try:
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    except (OSError, ImportError) as error:
        logger.warning("--workers %d: no processes can be had here (%s); one does all the work", workers, error)
        return None
