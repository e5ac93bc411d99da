"""Which studies of a batch the networks were trained on: scores on those say nothing.

A bundle lists hashes of the voxels of its networks' training studies, and no name. A study is recognised by its
reference channel, under any name and in any format; resampled or rescaled voxels are others. Stage 1 counts, since it
chose what the networks saw.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from algorithm.prediction.bundle import Bundle
from contract.records import Member, TrainingStudiesRecord, read_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownStudies:
    """Hashes of the studies that some networks were trained on, or chosen by."""

    trained_on: frozenset[str]
    chosen_by: frozenset[str]

    @classmethod
    def of(cls, bundle: Bundle, members: Sequence[Member]) -> "KnownStudies | None":
        """What some members and the networks of stage 1 know; None where one of them does not say.

        Raises ``OncoduetError``: a list is malformed.
        """
        stage_1 = bundle.localisation.record.members if bundle.localisation else ()
        files = {member.training_studies_file for member in (*members, *stage_1)}
        if None in files:
            return None
        lists = [read_record(bundle.folder / str(file), TrainingStudiesRecord) for file in files]
        trained = frozenset(each for one in lists for each in one.trained_on)
        return cls(trained, frozenset(each for one in lists for each in one.chosen_by) - trained)

    def among(self, contents: Mapping[str, str]) -> tuple[str, ...]:
        """Case ids of the studies that were trained on; ``contents`` are the studies' hashes by case id."""
        return tuple(sorted(case_id for case_id, content in contents.items() if content in self.trained_on))

    def say(self, name: str, contents: Mapping[str, str]) -> None:
        """Warn of how many of a batch's studies are known, if any."""
        trained = len(self.among(contents))
        chosen = sum(content in self.chosen_by for content in contents.values())
        if trained:
            logger.warning(
                "%s: %d of %d studies were trained on: scores on them say nothing", name, trained, len(contents)
            )
        if chosen:
            logger.warning(
                "%s: by %d of %d studies its weights or rules were chosen: scores on them are too good",
                *(name, chosen, len(contents)),
            )
