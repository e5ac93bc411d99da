"""One process at a time works in a folder: a lock on a file in it, which says who holds it.

The kernel gives the lock back when its holder ends, however that happens, so that a killed process blocks no other.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from contract.errors import OncoduetError, one_line
from contract.locks import try_lock

PATIENCE_S = 0.2
"""A look at whether a process works on a run (``training.campaign.status``) takes the lock, too."""

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_lock(
    path: Path, *, work: str = "on this run", wait: bool = False, patience_s: float = PATIENCE_S
) -> Iterator[None]:
    """Hold the lock of the folder that ``path`` is in.

    Parameters
    ----------
    work
        What the holder does, for the message: "no other process at work …".
    wait
        Wait for another process that holds it, however long; else for ``patience_s`` seconds.

    Raises
    ------
    OncoduetError
        Another process holds it, and ``wait`` is false; the message says which, where and since when.
    """
    with path.open("a+", encoding="utf-8") as lock:  # not "w", which would wipe out the holder's name
        until_s = time.monotonic() + patience_s
        while not try_lock(lock):
            if time.monotonic() <= until_s:
                time.sleep(0.01)
            elif wait:
                logger.info("%s: waiting for %s", path.parent, _holder(lock))
                try_lock(lock, wait=True)
                break
            else:
                raise OncoduetError(path.parent, expected=f"no other process at work {work}", found=_holder(lock))
        lock.truncate(0)
        json.dump(_ourselves(), lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _ourselves() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    job = os.environ.get("SLURM_JOB_ID")
    return holder | ({"slurm_job": job} if job else {})


def _holder(lock: IO[str]) -> str:
    """In words, as far as the holder got to writing it down."""
    lock.seek(0)
    text = lock.read()
    try:
        holder = json.loads(text)
        job = f", Slurm job {holder['slurm_job']}" if "slurm_job" in holder else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return one_line(text) or "one"
