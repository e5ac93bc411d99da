"""Independent pieces of work, in this process or spread over several.

Every piece has its own random stream, named by what it is for, so results are the same for any number of workers; they
come in the order of the pieces.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def each_of(work: Callable[[Piece], Result], pieces: Iterable[Piece], *, workers: int) -> Iterator[Result]:
    """Do the work on every piece and hand out the results in order.

    Parameters
    ----------
    work
        A function of a module, or a ``functools.partial`` of one: other processes must be able to import it.
    workers
        Processes; with 1, everything happens here.
    """
    if workers <= 1:
        yield from map(work, pieces)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, pieces)
