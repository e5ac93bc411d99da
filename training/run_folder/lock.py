"""One process at a time works on a run: a lock on a file in its folder, which says who holds it.

The kernel gives the lock back when its holder ends, however that happens, so that a killed process blocks nobody.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from contract.errors import OncoduetError
from contract.locks import try_lock
from training.run_folder.folder import RunFolder

PATIENCE_S = 0.2

logger = logging.getLogger(__name__)


@contextmanager
def alone(folder: RunFolder, *, wait: bool = False) -> Iterator[None]:
    """Hold a run's lock.

    Parameters
    ----------
    wait
        Wait for another process that holds it; else leave.

    Raises
    ------
    OncoduetError
        Another process holds it, and ``wait`` is false.
    """
    with folder.lock.open("a+", encoding="utf-8") as lock:  # not "w", which would wipe out the holder's name
        if not _locked(lock):
            if not wait:
                raise OncoduetError(folder.path, expected="no other process at work on this run", found=_holder(lock))
            logger.info("%s: waiting for %s", folder.path, _holder(lock))
            try_lock(lock, wait=True)
        lock.truncate(0)
        json.dump(_ourselves(), lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def _locked(lock: IO[str]) -> bool:
    """Try for a moment: a look at whether somebody is at work (``training.campaign.status``) takes the lock, too."""
    patience_s = time.monotonic() + PATIENCE_S
    while not try_lock(lock):
        if time.monotonic() > patience_s:
            return False
        time.sleep(0.01)
    return True


def _ourselves() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    job = os.environ.get("SLURM_JOB_ID")
    return holder | ({"slurm_job": job} if job else {})


def _holder(lock: IO[str]) -> str:
    """In words, as far as the holder got to writing it down."""
    lock.seek(0)
    try:
        holder = json.load(lock)
        job = f", Slurm job {holder['slurm_job']}" if "slurm_job" in holder else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "one"
