"""``sources.json`` of a prepared dataset: the archive that it was made from, and which bytes each of its files had.

A run notices by it that the archive has changed since, and finds the images on which detection chooses a checkpoint.
An archive's folder and the times of its files are no part of a dataset: nothing here enters its hash.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from contract.archive.studies import Study
from contract.errors import OncoduetError
from contract.file_stamps import FileStamp, is_unchanged, look_at
from contract.records import Record, read_record
from training.dataset.prepared import Prepared

FILE = "sources.json"


class SourcesRecord(Record):
    """``sources.json``."""

    archive: str
    """The archive's folder when it was prepared."""
    studies: Mapping[str, tuple[FileStamp, ...]]
    """Images and label map of each study, by case id."""


def stamp_study(archive: Path, study: Study) -> tuple[FileStamp, ...]:
    """Look at a study's images and label map."""
    return tuple(FileStamp(path=str(path.relative_to(archive)), **look_at(path)) for path in files_of(study))


def same_studies(sources: SourcesRecord, archive: Path, studies: Sequence[Study]) -> bool:
    """Whether an archive has just the studies that a dataset was made from, with the same bytes, in any folder."""
    now = {study.case_id: tuple(str(path.relative_to(archive)) for path in files_of(study)) for study in studies}
    then = {case_id: tuple(stamp.path for stamp in stamps) for case_id, stamps in sources.studies.items()}
    stamps = [stamp for stamps in sources.studies.values() for stamp in stamps]
    return now == then and next(_changed(archive, stamps, hash_all=False), None) is None


def read_sources(prepared: Prepared) -> SourcesRecord:
    """Where a dataset comes from; that of stage 1 is inside the other's folder."""
    folder = prepared.folder if prepared.record.stage == "detection" else prepared.folder.parent
    return read_record(folder / FILE, SourcesRecord)


def recorded_archive(prepared: Prepared) -> Path | None:
    """The folder that a dataset was made from, if there is one of that name here."""
    archive = Path(read_sources(prepared).archive)
    return archive if archive.is_dir() else None


def unchanged_archive(prepared: Prepared, *, archive: Path | None = None, hash_all: bool = False) -> Path | None:
    """The archive that a dataset was made from, or None where it cannot be reached.

    Raises ``OncoduetError``: a file of it has changed since the dataset was prepared, or is missing while others are
    there; or the folder that was given is none or holds no file of it.

    Parameters
    ----------
    archive
        Its current folder, if it was moved.
    hash_all
        Believe no size and time.
    """
    sources = read_sources(prepared)
    folder = archive or Path(sources.archive)
    stamps = [stamp for stamps in sources.studies.values() for stamp in stamps]
    if not any((folder / stamp.path).is_file() for stamp in stamps):
        if archive is not None:
            raise OncoduetError(archive, f"none of the files that {prepared.folder} was prepared from")
        return None
    changed = next(_changed(folder, stamps, hash_all=hash_all), None)
    if changed is not None:
        raise OncoduetError(
            changed[0],
            f"{changed[1]} {prepared.folder} was prepared from it; run `prepare` again with another --output, "
            "or remove the folder",
        )
    return folder


def reachable_archive(prepared: Prepared, archive: Path | None, *, purpose: str) -> Path:
    """The archive, where something needs its images: a prepared dataset holds none before preprocessing.

    Raises ``OncoduetError``: it cannot be reached, or has changed since the dataset was prepared.

    Parameters
    ----------
    purpose
        What needs them, for the error.
    """
    found = unchanged_archive(prepared, archive=archive)
    if found is None:
        raise OncoduetError(
            read_sources(prepared).archive,
            f"archive of {prepared.folder}, from which {purpose}, not found; --archive names its current folder",
        )
    return found


def files_of(study: Study) -> list[Path]:
    """A study's images and label map."""
    return [*study.channels.values(), *([study.label] if study.label else [])]


def _changed(folder: Path, stamps: Iterable[FileStamp], *, hash_all: bool) -> Iterator[tuple[Path, str]]:
    for stamp in stamps:
        path = folder / stamp.path
        if not path.is_file():
            yield path, "not found, although"
        elif not is_unchanged(stamp, path, hash_all=hash_all):
            yield path, "changed since"
