"""One process at a time works on a run: a lock on a file in its folder, which says who holds it.

The kernel gives the lock back when its holder ends, however that happens, so that a killed process blocks nobody.
"""

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from contract.locks import exclusive_lock
from training.run_folder.folder import RunFolder

PATIENCE_S = 0.2
"""``training.campaign.status`` takes the lock for a moment, to see whether a process works on the run."""

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
    with exclusive_lock(
        folder.lock,
        folder.path,
        "other process at work on this run",
        patience_s=PATIENCE_S,
        holder=json.dumps(_ourselves()),
        describe=_described,
        on_wait=(lambda holder: logger.info("%s: waiting for %s", folder.path, holder)) if wait else None,
    ):
        yield


def _ourselves() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    job = os.environ.get("SLURM_JOB_ID")
    return holder | ({"slurm_job": job} if job else {})


def _described(text: str) -> str:
    """The holder in words, if its text is complete."""
    try:
        holder = json.loads(text)
        job = f", Slurm job {holder['slurm_job']}" if "slurm_job" in holder else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return ""
