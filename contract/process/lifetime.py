"""Start and end of a command, shortened: imports without garbage collection, an exit without dismantling modules.

Imports make a million objects that stay, and each of Python's collections looks at all of them; so it collects none
until the command begins to work, and never looks at those again. At the end Python takes modules apart one by one
(torch's take half a second), to give back memory that the system takes back anyway.
"""

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

from contract.process.signals import heed_signals

_importing = threading.Event()


def begin_imports() -> None:
    """Call this before what takes long to import; from now on signals are heeded."""
    heed_signals()
    gc.disable()
    _importing.set()


def end_imports() -> None:
    """Collect again, but nothing of what is there now; nothing changes where imports were not begun so."""
    if _importing.is_set():
        _importing.clear()
        gc.freeze()
        gc.enable()


def leave(code: int) -> NoReturn:
    """End the process as ``sys.exit`` does, without taking its modules apart.

    What was registered for the end is done first, and buffers are written. Where a thread has to be waited for, it is
    ``sys.exit``.
    """
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    from contract.process.terminal import forget_unwritten  # noqa: PLC0415 - long since imported

    atexit._run_exitfuncs()
    forget_unwritten()
    os._exit(code)
