"""One process at a time works in a folder: a lock on a file in it, which says who holds it.

The kernel gives the lock back when its holder ends, however that happens, so that a killed process blocks no other.
"""

import logging
from contextlib import AbstractContextManager
from pathlib import Path

from contract.files.locks import exclusive_lock, holder_in_words, names_holder, this_process

PATIENCE_S = 0.2
"""Wait for the lock: ``training.campaign.status`` takes it for a moment, too."""

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
        What the holder does, for the message "no other process at work …".
    wait
        Wait for another process that holds it, however long; else for ``patience_s`` seconds.
    """
    return exclusive_lock(
        path,
        path.parent,
        f"other process at work {work}",
        patience_s=patience_s,
        holder=this_process(),
        describe=holder_in_words,
        is_own=names_holder,
        on_wait=(lambda holder: logger.info("%s: waiting for %s", path.parent, holder)) if wait else None,
    )
