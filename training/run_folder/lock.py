"""One process at a time works in a folder: a lock on a file in it, which says who holds it.

The kernel gives the lock back when its holder ends, however that happens, so that a killed process blocks no other.
"""

import json
import logging
import os
import socket
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from contract.files.locks import exclusive_lock
from contract.text import one_line
from training.run_folder.folder import is_lock_text

PATIENCE_S = 0.2
"""A look at whether a process works on a run (``training.campaign.status``) takes the lock, too."""

logger = logging.getLogger(__name__)


def work_lock(
    path: Path, *, work: str = "on this run", wait: bool = False, patience_s: float = PATIENCE_S
) -> AbstractContextManager[None]:
    """Hold the lock of the folder that ``path`` is in.

    Raises ``OncoduetError``: another process holds it, and ``wait`` is false; the message says which, where and since
    when.

    Parameters
    ----------
    work
        What the holder does, for the message: "no other process at work …".
    wait
        Wait for another process that holds it, however long; else for ``patience_s`` seconds.
    """
    return exclusive_lock(
        path,
        path.parent,
        f"other process at work {work}",
        patience_s=patience_s,
        holder=json.dumps(_ourselves()),
        describe=_described,
        is_own=is_lock_text,
        on_wait=(lambda holder: logger.info("%s: waiting for %s", path.parent, holder)) if wait else None,
    )


def _ourselves() -> dict[str, str | int]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    job = os.environ.get("SLURM_JOB_ID")
    return holder | ({"slurm_job": job} if job else {})


def _described(text: str) -> str:
    """In words, as far as the holder got to writing it down."""
    try:
        holder = json.loads(text)
        job = f", Slurm job {holder['slurm_job']}" if "slurm_job" in holder else ""
        return f"process {holder['pid']} on {holder['host']}{job}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return one_line(text)
