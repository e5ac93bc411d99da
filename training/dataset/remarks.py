"""Remarks on a dataset: studies left out, contradictions in the archive, lost lesions, and doubtful images."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.archive.marksheet import contradictions
from contract.archive.studies import MARKSHEET
from contract.errors import OncoduetError
from contract.text import SHOWN
from network.study import plausibility
from training.dataset.bad_studies import BadStudies
from training.dataset.prepared import PreparedStudy
from training.dataset.study_steps import ReadRecord

logger = logging.getLogger(__name__)


def marksheet_contradictions(archive: Path, studies: Sequence[PreparedStudy]) -> list[str]:
    """Where the archive's marksheet, if there is one, and the label maps disagree on which studies have a lesion."""
    if not (archive / MARKSHEET).is_file():
        return []
    try:
        return contradictions(archive / MARKSHEET, {study.case_id: study.lesions > 0 for study in studies})
    except OncoduetError as error:
        return [f"{error}; not compared with the label maps"]


@dataclass(frozen=True)
class Remarks:
    """Studies left out, contradictions of marksheet and label maps, and lesions lost by resampling."""

    bad: BadStudies
    contradicted: Sequence[str]
    lost: Sequence[str]

    def say(self) -> None:
        """Log all of them."""
        self.bad.say()
        for line in self.contradicted:
            logger.warning("%s", line)
        for line in self.lost:
            logger.warning("%s: networks are trained as if it were not there", line)


def repeat_doubts(read: Iterable[ReadRecord], *, log: str) -> None:
    """Repeat to the user the first warnings about images and label maps; all are in prepare.log."""
    lines = [each.message for record in read for each in record.said if each.logger == plausibility.__name__]
    for line in lines[:SHOWN]:
        logger.warning("%s", line)
    if len(lines) > SHOWN:
        logger.warning("%d more such warnings in %s", len(lines) - SHOWN, log)
