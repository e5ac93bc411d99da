"""Work that tests give to other processes, which import it by this module's name."""

import logging
import os
import warnings

from contract.process.workers import THREADS

logger = logging.getLogger("contract.somebody")


def speak(number: int) -> int:
    """Say one thing in each way, and fail at the last number."""
    logger.info("%d is told", number)
    logger.warning("%d is doubtful", number)
    warnings.warn("numbers may be large", stacklevel=1)
    if number == 3:
        raise ValueError(f"{number} is wrong")
    return number


def threads_of(_: int) -> set[str]:
    return {os.environ[name] for name in THREADS}
