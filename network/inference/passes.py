"""Passes of networks on several cores of a CPU, with the bits of one.

torch would divide each operation among its threads, and how it divides them changes the last bits. Here every pass is
computed by a single thread, and several passes at a time: the result is the same for any number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[int]:
    """Let torch use one thread within, in this thread and in those that are started; gives how many it had.

    On a GPU nothing changes, and passes are computed one by one.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def computed_in_order(passes: Iterable[Callable[[], Result]], *, at_a_time: int) -> Iterator[Result]:
    """Results of passes in their order. Close the iterator to abandon those that have not begun."""
    if at_a_time == 1:
        yield from (each() for each in passes)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(at_a_time, "pass") as pool:
        try:
            for each in passes:
                waiting.append(pool.submit(_compute, each))
                if len(waiting) > at_a_time:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _compute(one: Callable[[], Result]) -> Result:
    with torch.inference_mode():  # which counts per thread
        return one()
