"""A folder of predictions, as ``algorithm batch`` and ``training predict`` fill it and the evaluation reads it.

Each study has a folder ``<case_id>`` with its outputs, at the card's paths below ``output``, and ``study.json``.
``predictions.json`` lists the studies as the platform does, ``source.json`` says what predicted them, ``card.toml`` is
the card, and ``batch.json`` says what the folder is filled with.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.atomic import write_json, write_text
from contract.files.reading import inside
from contract.records import Source, write_record
from contract.sockets import job_listing, read_jobs

BATCH, STUDY = "batch.json", "study.json"
PREDICTIONS, SOURCE, CARD = LISTING_FILES = ("predictions.json", "source.json", "card.toml")


def study_files(card: Card, name: str) -> list[str]:
    """Paths of a study's detection map, called ``<name>.mha``, and likelihood, below its folder of outputs."""
    return [f"{card.detection_map.relative_path}/{name}.mha", card.likelihood.relative_path]


def write_listing(folder: Path, card: Card, card_text: str, case_ids: Sequence[str], source: Source) -> None:
    """Write what makes a folder of studies readable for the evaluation: predictions.json, source.json, card.toml."""
    write_text(folder / CARD, card_text)
    write_record(folder / SOURCE, source)
    write_json(folder / PREDICTIONS, [job_listing(case_id, card) for case_id in case_ids])


def listed_case_ids(folder: Path) -> list[str] | None:
    """The studies of a listing, or None where it is not complete."""
    if not all((folder / name).is_file() for name in LISTING_FILES):
        return None
    return [job.pk for job in read_jobs(folder / PREDICTIONS)]


def require_known_studies(folder: Path, case_ids: Collection[str], archive: Path) -> None:
    """Raise ``OncoduetError`` if a folder contains predictions of a study that the archive does not have."""
    for case in inside(folder) if folder.is_dir() else ():
        if case.name not in case_ids and (case / STUDY).is_file():
            raise OncoduetError(
                case, expected=f"only predictions of studies in {archive}", found=f"{case.name}, which is not there"
            )
