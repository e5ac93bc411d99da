"""Duplicate studies under two names, which would count one patient as two.

Every command that reads studies compares what it reads and warns of pairs with equal content (``prepare`` refuses
them where two folds would share them).
"""

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)


def say_alike(where: object, contents: Mapping[str, str], what: str) -> None:
    """Warn of cases with the same content, such as a hash of their voxels; ``what`` has a place for each of two."""
    first: dict[str, str] = {}
    for case_id, content in contents.items():
        if (other := first.setdefault(content, case_id)) != case_id:
            logger.warning("%s: %s", where, what.format(other, case_id))
