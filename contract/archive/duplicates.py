"""Studies that are there twice, under two names: every count would take one patient for two.

One rule for every command that meets studies: what it can see of them is compared, and pairs that are alike are
warned of, not refused (``prepare`` alone refuses them, where two folds would share them).
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
