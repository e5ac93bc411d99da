"""Ctrl-C, SIGTERM and SIGHUP end every command with one line on stderr and the exit code that shells have for them.

While a program imports its modules there is nothing to tidy up, and it ends at once (:func:`heed_signals`). While it
works, a signal is an exception (:func:`signals_as_exceptions`), so that half-written files are removed. As PID 1 of a
container a process ignores every signal without a handler: hence SIGTERM has one from the first moment.

What a parent had ignored stays ignored: SIGINT in the background of a shell without job control, SIGHUP under nohup.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | signal.Handlers

WORDS = {
    signal.SIGINT: "error: stopped by Ctrl-C",
    signal.SIGTERM: "error: stopped by SIGTERM",
    signal.SIGHUP: "error: stopped by SIGHUP, its terminal is gone",
}
"""Error line for each signal that ends a command."""

QUIET_S = 1.0
"""Wrappers forward Ctrl-C to a process that the terminal has signalled too: a second signal this soon is ignored."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; no ``Exception``, so that it is not handled as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(number: int) -> int:
    """The exit code that shells report for a process ended by a signal."""
    return 128 + number


def heed_signals() -> None:
    """End the process at once at any of the signals; for the time of imports, and after the work."""
    for number in _heard():
        signal.signal(number, _end)


def signals_as_exceptions() -> AbstractContextManager[None]:
    """Raise ``KeyboardInterrupt`` or ``Terminated`` in the main thread; in another thread nothing changes."""
    return _handled(_heard(), _raise)


def deaf() -> AbstractContextManager[None]:
    """Ignore all signals during the last steps of a process that is ending."""
    return _handled(WORDS, signal.SIG_IGN)


@contextmanager
def _handled(numbers: Iterable[signal.Signals], handler: Handler) -> Iterator[None]:
    """Handle signals in the main thread for a while."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


@contextmanager
def children_that_end_with_us() -> Iterator[None]:
    """Start processes that leave the last message to us; each calls :func:`leave_last_word_to_parent` first.

    Ctrl-C goes to a whole group of processes, and each would print its traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WORDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_last_word_to_parent() -> None:
    """In a child: end silently at SIGTERM, and ignore Ctrl-C, at which the parent ends the child."""
    others = WORDS.keys() - {signal.SIGINT}
    for number in others:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, others)


def _heard() -> list[signal.Signals]:
    """The signals that are handled: SIGTERM always, the others unless the parent process ignored them."""
    return [each for each in WORDS if each is signal.SIGTERM or signal.getsignal(each) is not signal.SIG_IGN]


_last_s = float("-inf")


def _is_echo() -> bool:
    global _last_s
    before_s, _last_s = _last_s, time.monotonic()
    return _last_s - before_s < QUIET_S


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    if not _is_echo():
        with suppress(OSError):
            os.write(2, f"{WORDS[signal.Signals(number)]}\n".encode())
        os._exit(exit_code(number))


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    if not _is_echo():
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
