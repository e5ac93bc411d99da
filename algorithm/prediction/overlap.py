"""Studies in succession: while the networks predict one, the next is read and the last is written.

A thread reads and a thread writes; networks stay in the caller's. Studies come out in order and with the same bits:
only the waiting is saved. Memory limits it: a study is read ahead only while it, the current one and the one
that is still written fit together; it waits for the writing where that is what helps, and else for its turn.
"""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from network.machine.memory import GB

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")

logger = logging.getLogger(__name__)


class Overlap(Generic[Item, Read, Done]):
    """How the items are gone through.

    Parameters
    ----------
    read
        Reads an item; the second argument says whether it has the memory alone, and so has to look whether it fits.
    work
        What the caller's thread does with what was read.
    write
        Writes what came out.
    bytes_of
        The most memory that an item ever takes.
    room_bytes
        Memory for items, when none is there.
    """

    def __init__(
        self,
        *,
        read: Callable[[Item, bool], Read],
        work: Callable[[Item, Read], Done],
        write: Callable[[Item, Done], None],
        bytes_of: Callable[[Item], int],
        room_bytes: int,
    ) -> None:
        self._read, self._work, self._write = read, work, write
        self._bytes_of, self._room_bytes = bytes_of, room_bytes
        self._said = False

    def each(self, items: Sequence[Item]) -> Generator[tuple[Item, Exception | None], None, None]:
        """Go through the items; each comes out once it is written, with what went wrong."""
        threads = torch.get_num_threads()
        reader, writer = (
            ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(threads,))
            for name in ("read", "write")
        )
        try:
            yield from self._each(items, reader, writer)
        finally:
            for each in (reader, writer):
                each.shutdown(cancel_futures=True)

    def _each(
        self, items: Sequence[Item], reader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> Iterator[tuple[Item, Exception | None]]:
        ahead: Future[Read] | None = None
        written: tuple[Item, Future[None]] | None = None
        for number, item in enumerate(items):
            if ahead is None and written is not None:  # it gets the memory alone
                yield written[0], written[1].exception()  # type: ignore[misc]  # no BaseException comes from a thread
                written = None
            try:
                read = reader.submit(self._read, item, True).result() if ahead is None else ahead.result()
                failed = None
            except Exception as error:
                failed = error
            ahead = None
            if number + 1 < len(items):
                ahead = self._read_ahead(item, items[number + 1], written, reader)
            if failed is None:
                try:
                    done = self._work(item, read)
                except Exception as error:
                    failed = error
                del read
            if written is not None:
                yield written[0], written[1].exception()  # type: ignore[misc]
                written = None
            if failed is None:
                written = (item, writer.submit(self._write, item, done))
                del done
            else:
                yield item, failed
                failed = None
        if written is not None:
            yield written[0], written[1].exception()  # type: ignore[misc]

    def _read_ahead(
        self, item: Item, following: Item, written: tuple[Item, Future[None]] | None, reader: ThreadPoolExecutor
    ) -> Future[Read] | None:
        """Begin to read the following one, at once or when another is written; None: it has to wait for its turn."""
        both = self._bytes_of(item) + self._bytes_of(following)
        if both > self._room_bytes:
            if not self._said:
                self._said = True
                logger.info(
                    "studies are read in turn: two at a time need %.1f GB of %.1f GB", both / GB, self._room_bytes / GB
                )
            return None
        if written is None or both + self._bytes_of(written[0]) <= self._room_bytes:
            return reader.submit(self._read, following, False)
        return reader.submit(self._read_after, written[1], following)

    def _read_after(self, written: Future[None], item: Item) -> Read:
        written.exception()
        return self._read(item, False)
