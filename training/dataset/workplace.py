"""``.work`` in the output of ``prepare``: what it has done of each study, from which a killed call continues.

It is gone once the dataset is finished. Until then the same command continues there. A piece of work counts as done if
its record names just what it would be made from now and its files hold what the record says: nothing half-written and
no edited record is believed, and a changed image is read again. What another card began is refused; what another
version of the programs began is started over, since its last bits may differ. A link in there is refused.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from contract.errors import OncoduetError
from contract.files.atomic import remove_partial_files, writable
from contract.files.locks import lock_if_possible
from contract.files.reading import sha256_json
from contract.outputs import MANIFEST, claim_scratch, require_scratch, subfolder
from contract.records import Record, read_record, write_record

FOLDER = ".work"
COMMAND = "training prepare"
_RECORD = "work.json"

logger = logging.getLogger(__name__)


class WorkRecord(Record):
    """``.work/work.json``."""

    card: str
    card_sha256: str
    versions: Mapping[str, str]


class StepRecord(Record):
    """What is done of one study, in addition to its files."""

    made_from: str
    """Hash of all that decides the result."""
    seal: str = ""
    """Hash of the other fields, so that an edited record is not believed."""

    @property
    def others(self) -> str:
        """What the seal has to be."""
        return sha256_json(self.model_dump(mode="json", exclude={"seal"}))


Step = TypeVar("Step", bound=StepRecord)


def require_continuable(output: Path, wanted: WorkRecord, *, replace: bool) -> None:
    """Raise ``OncoduetError`` where the user's files have the workplace's name, it has links, or is another card's."""
    require_scratch(output / FOLDER, COMMAND)
    for path in sorted((output / FOLDER).rglob("*")):
        subfolder(path.parent, path.name)
    found = _begun(output / FOLDER)
    if found is not None and found.card_sha256 != wanted.card_sha256 and not replace:
        raise OncoduetError(
            output,
            expected=f"a preparation for the card {wanted.card} to continue, or none",
            found=f"an unfinished one for {_other(found, wanted)}; give another output, or --replace",
        )


@contextmanager
def workplace(output: Path, wanted: WorkRecord) -> Iterator[Path]:
    """Give the folder to work in, with what an earlier call of the same has done; it is gone if this one succeeds.

    Raises ``OncoduetError``: another process works there, or the output cannot be written to.
    """
    folder, existed = output / FOLDER, output.exists()
    with writable(output):
        folder.mkdir(parents=True, exist_ok=True)
        hold = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if lock_if_possible(hold) is False:
            raise OncoduetError(output, expected="no other process at work here", found="one that prepares a dataset")
        with _kept_unless_empty(output, existed=existed):
            claim_scratch(folder, COMMAND)
            found = _begun(folder)
            if found is None or not _continues(found, wanted):
                if found is not None:
                    logger.warning("%s: of another card or by other versions of the programs; starting over", folder)
                _empty(folder)
                write_record(folder / _RECORD, wanted)
            yield folder
            shutil.rmtree(folder)
    finally:
        os.close(hold)


@contextmanager
def _kept_unless_empty(output: Path, *, existed: bool) -> Iterator[None]:
    """Where the work is not finished, say that it can be continued, or remove what is of no use."""
    folder = output / FOLDER
    try:
        yield
    except BaseException:
        if any(path.is_dir() for path in folder.glob("*")):
            logger.info("%s: what is done is kept there, and the same command continues", folder)
        else:
            remove_workplace(output)
            if not existed and output.is_dir() and not any(output.iterdir()):
                output.rmdir()
        raise


def remove_workplace(output: Path) -> None:
    """Remove what a call left that was killed when its dataset was finished already, or soon after it began."""
    if (output / FOLDER).is_dir():
        require_scratch(output / FOLDER, COMMAND)
        shutil.rmtree(output / FOLDER, ignore_errors=True)
    if output.is_dir():
        remove_partial_files(output)


def once(folder: Path, name: str, model: type[Step], made_from: str, *, files: Sequence[Path],
         intact: Callable[[Step], bool], make: Callable[[], Step]) -> Step:  # fmt: skip
    """The record of a piece of work that is done already, or else is done now.

    Parameters
    ----------
    folder, name
        Where the record is, and its name without ``.json``.
    made_from
        Hash of all that decides the result.
    files
        What is written into the folder, beside the record.
    intact
        Whether the files are those of a record.
    make
        Does it, and writes the files.
    """
    path = folder / f"{name}.json"
    try:
        known = read_record(path, model) if path.is_file() else None
        if known is not None and (known.made_from, known.seal) == (made_from, known.others) and intact(known):
            return known
    except (OncoduetError, OSError, ValueError):  # damaged in any way
        pass
    for each in (path, *files):
        _remove(each)
    made = make()
    made = made.model_copy(update={"seal": made.others})
    if not folder.is_dir():
        raise OncoduetError(folder, "removed by another program during the work")
    write_record(path, made)
    return made


def study_folder(work: Path, case_id: str) -> Path:
    """A study's folder in the workplace, made where there is none. Raises ``OncoduetError``: the workplace is gone."""
    if not work.is_dir():
        raise OncoduetError(work, "removed by another program during the work")
    folder = work / "studies" / case_id
    for each in (folder.parent, folder):
        if not each.is_dir():
            _remove(each)
            each.mkdir(exist_ok=True)
    return folder


def _begun(folder: Path) -> WorkRecord | None:
    try:
        return read_record(folder / _RECORD, WorkRecord) if (folder / _RECORD).is_file() else None
    except OncoduetError:
        return None


def _continues(found: WorkRecord, wanted: WorkRecord) -> bool:
    return (found.card_sha256, found.versions, found.written_by) == (
        *(wanted.card_sha256, wanted.versions, wanted.written_by),
    )


def _other(found: WorkRecord, wanted: WorkRecord) -> str:
    return f"{found.card}" if found.card != wanted.card else f"another version of {found.card}"


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != MANIFEST:
            _remove(path)


def _remove(path: Path) -> None:
    """Remove what there is under a name, whatever it is."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
