"""Studies of an archive that cannot be prepared: named together, left out on request, listed in ``failures.json``."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from contract.archive.studies import refusal_of
from contract.card import Card
from contract.outputs import Output, file_output
from contract.records import Failure, FailuresRecord, write_record
from contract.text import first_few, one_line

OnBadStudy = Literal["stop", "skip"]
"""``stop``: a study that is wrong ends it, once all such are known; ``skip``: they are left out, and named."""
FILE = "failures.json"

logger = logging.getLogger(__name__)


class BadStudies:
    """Studies that are wrong, as far as they are known; with ``stop`` all of them are named together.

    Parameters
    ----------
    studies
        How many the archive has.
    output
        Where ``failures.json`` goes; it is as a batch's. None: there is a dataset, which an archive that is refused
        leaves as it is.
    """

    def __init__(
        self, archive: Path, card: Card, on_bad_study: OnBadStudy, *, studies: int, output: Path | None
    ) -> None:
        self.archive = archive
        self.card = card
        self.on_bad_study = on_bad_study
        self.studies = studies
        self.output = output
        self.faults: dict[str, str] = {}

    def note(self, name: str, fault: str) -> None:
        """Keep what is wrong with a study."""
        self.faults[name] = one_line(fault)

    def stop(self) -> None:
        """Raise ``OncoduetError`` with all that is known, unless bad studies are left out."""
        if self.faults and self.on_bad_study == "stop":
            if self.output is not None:
                self.write(self.output)
            for name, fault in self.faults.items():
                logger.error("study %s failed: %s", name, fault)
            hint = " (--on-bad-study skip leaves them out)"
            raise refusal_of(self.archive, self.faults, studies=self.studies, hint=hint)

    def say(self) -> None:
        """Name what is left out."""
        for fault in self.faults.values():
            logger.warning("left out: %s", fault)
        if self.faults:
            logger.warning(
                "%d of %d studies are left out: %s", *(len(self.faults), self.studies, first_few(sorted(self.faults)))
            )

    def write(self, output: Path) -> None:
        """Write ``failures.json``, or take away an earlier one where nothing is wrong."""
        if not self.faults and not (output / FILE).exists():
            return
        with failures_output(output, self.card).staged() as stage:
            if self.faults:
                write_record(stage / FILE, failures_record(self.card, self.studies, self.faults))


def failures_output(output: Path, card: Card) -> Output:
    """The list of a dataset's folder, which each call of ``prepare`` replaces."""
    listed = file_output(output / FILE, "training prepare", card=card.sha256)
    return Output(listed.folder, listed.command, listed.files, identity=listed.identity, by_file=True, replaces=True)


def failures_record(card: Card, studies: int, faults: Mapping[str, str]) -> FailuresRecord:
    """``failures.json``, by case id."""
    return FailuresRecord(
        parents={"card": card.sha256},
        studies=studies,
        failures=tuple(Failure(case_id=case_id, reason=reason) for case_id, reason in sorted(faults.items())),
    )
