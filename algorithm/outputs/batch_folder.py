"""A batch's output folder: which batch fills it, and which studies are finished there.

``batch.json`` names the bundle, members and settings for which the folder was begun; any other batch is refused. A
study's folder ``<ensemble>/<case_id>`` appears by one rename, with its outputs and ``study.json``: the sizes, times and
hashes of the images that it was made from, and by what. A folder without such a record is not ours: it is left alone,
or refused before work begins; one by other networks or settings is refused, too. A study is finished when it has its
folder in every ensemble, its images are unchanged, and its outputs are those that ``study.json`` lists by their hashes.
An edited output is refused, since it may be the user's work; a missing one is predicted again, and so is a study of an
older program, which did not record by what it was predicted. Of images, equal size and time are trusted, since hashing
a large archive takes as long as reading it; otherwise the hash decides, so that a copied archive counts as the same and
a repaired image is predicted again.

The number of threads and the device may differ from one call to the next: they change the last bits, not the method.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from algorithm.outputs.study_output import StudyOutput, write_study
from contract.archive.studies import Study
from contract.batch_layout import (
    BATCH,
    LISTING_FILES,
    PREDICTIONS,
    STUDY,
    listed_case_ids,
    require_known_studies,
    study_files,
    write_listing,
)
from contract.card import Card
from contract.errors import OncoduetError
from contract.file_stamps import is_unchanged
from contract.files.atomic import held_folder, remove_partial_files, sync, writable
from contract.files.locks import exclusive_lock
from contract.files.reading import below, inside, sha256_file, sha256_json
from contract.images.volume import read_volume
from contract.outputs import (
    Output,
    file_output,
    require_folder,
    require_free,
    require_unedited,
    require_unowned,
    subfolder,
)
from contract.records import (
    BatchRecord,
    FailuresRecord,
    Source,
    StudyRecord,
    read_record,
    write_record,
)
from network.study.scan import content_sha256

FAILURES, LOCK = "failures.json", ".lock"
COMMAND = "algorithm batch"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchFolder:
    """The output folder of a batch."""

    path: Path
    card: Card
    methods: Mapping[str, str]
    """``method_sha256`` of each ensemble, by its folder relative to ``path`` (``.`` for ``path`` itself)."""

    @property
    def failures(self) -> Path:
        """The list of studies without prediction."""
        return self.path / FAILURES

    def check(self, record: BatchRecord, *, archive: Path, case_ids: Iterable[str]) -> None:
        """Raise ``OncoduetError`` if the folder was begun as another batch, with other studies, or is not ours to fill.

        Parameters
        ----------
        record
            What is to be made now.
        case_ids
            All studies of the archive, sound or not.
        """
        case_ids = list(case_ids)
        require_folder(self.path)
        for folder in self._folders():
            require_unowned(folder, COMMAND)
            for case_id in case_ids:
                subfolder(folder, case_id)
            strangers = [case_id for case_id in case_ids if not (folder / case_id / STUDY).is_file()]
            require_free(folder, strangers, COMMAND)
        path = self.path / BATCH
        if not path.is_file():
            require_free(self.path, [BATCH], COMMAND)
            return
        self._require_same(record)
        for folder in self._folders():
            require_known_studies(folder, set(case_ids), archive)

    def require_replaceable(self, case_ids: Iterable[str]) -> None:
        """Raise ``OncoduetError`` if what will be replaced was changed since, is another's, or holds other files.

        Parameters
        ----------
        case_ids
            Studies to predict; where there are any, the listings and the list of failures are replaced too.
        """
        self._failures.check()
        for folder in self._folders():
            self._listing(folder).check()
            for case_id in case_ids:
                self._require_replaceable(folder, case_id)

    def require_unedited(self) -> None:
        """Raise ``OncoduetError`` if a listing is not as it was written."""
        for folder in self._folders():
            require_unedited(folder, LISTING_FILES)

    def _require_replaceable(self, folder: Path, case_id: str) -> None:
        case, record = folder / case_id, self._record(folder, case_id)
        ours = set(self._study_files(case))
        foreign = [
            path
            for path in (below(case) if case.is_dir() else ())
            if path.is_symlink() or not (path in ours or path.is_dir())
        ]
        if foreign:
            raise OncoduetError(
                min(foreign),
                expected="only predictions in a study's folder that is to be replaced",
                found="a file not written by oncoduet; move it away",
            )
        for name, sha256 in (record.outputs if record else {}).items():
            if (case / name).exists() and sha256_file(case / name) != sha256:
                raise OncoduetError(
                    case / name,
                    f"file was edited since {COMMAND} wrote it; move it away, and the study is predicted again",
                )

    def _require_same(self, record: BatchRecord) -> None:
        path = self.path / BATCH
        found = read_record(path, BatchRecord)
        for what, before, now in [
            ("bundle", found.parents.get("bundle"), record.parents.get("bundle")),
            ("--members", " ".join(found.members), " ".join(record.members)),
            *(
                (name, found.settings.get(name), record.settings.get(name))
                for name in sorted({*found.settings, *record.settings})
            ),
        ]:
            if before != now:
                raise OncoduetError(
                    path,
                    expected=f"a folder that was begun with the same {what} ({now})",
                    found=f"{before}; give another output",
                )
        if found.written_by != record.written_by:
            logger.warning("%s was begun by another revision of this program (%s)", path, found.written_by.git_revision)

    @contextmanager
    def begun(self, record: BatchRecord) -> Iterator[None]:
        """Lock the folder for this process, and remove what a killed one left half-written.

        Raises ``OncoduetError``: the folder cannot be written to, or another process is filling it, or began another
        batch there in between.
        """
        with writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(subfolder(self.path, LOCK), self.path, "other process at work here"):
            if (self.path / BATCH).is_file():
                self._require_same(record)
            else:
                write_record(self.path / BATCH, record)
            self.remove_partial_files()
            yield

    def remove_partial_files(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in {self.path, *self._folders()}:
            if folder.is_dir():
                remove_partial_files(folder)

    def finished(self, studies: Sequence[Study]) -> set[str]:
        """Case ids of the studies that have predictions of the current images in every ensemble.

        Raises ``OncoduetError``: one was predicted by other networks or settings.
        """
        found = set()
        for study in studies:
            try:
                if self._is_finished(study):
                    found.add(study.case_id)
            except OSError as error:  # predicting it will say the same, and lists it among the failures
                logger.warning("study %s: %s", study.case_id, error)
        return found

    def is_listed(self, case_ids: Sequence[str]) -> bool:
        """Whether every ensemble has its listing, of just these studies."""
        return all(listed_case_ids(folder) == case_ids for folder in self._folders())

    def unlist(self) -> None:
        """Remove the listings and the failures: from here on the batch is incomplete."""
        for folder in self._folders():
            for name in LISTING_FILES:
                (folder / name).unlink(missing_ok=True)
        self.failures.unlink(missing_ok=True)

    def discard(self, case_id: str) -> None:
        """Remove a study from every ensemble, its record last: a folder without one is not ours."""
        for folder in self._folders():
            if (folder / case_id / STUDY).is_file():
                files = self._study_files(folder / case_id)
                for path in files:
                    path.unlink(missing_ok=True)
                parents = {parent for path in files for parent in path.parents if folder in parent.parents}
                for parent in sorted(parents, reverse=True):
                    if parent.is_dir() and not inside(parent):
                        shutil.rmtree(parent)  # with the system's litter

    def write(self, ensemble: str, output: StudyOutput, study: StudyRecord, *, content_sha256: str) -> None:
        """Add a study's outputs to an ensemble by one rename; the hash is that of the voxels that were read."""
        known = {"content_sha256": content_sha256, "method_sha256": self.methods[ensemble]}
        folder = self.path / ensemble
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with held_folder(folder) as stage:
            case = stage / study.case_id
            write_study(case / "output", self.card, output, name=study.case_id)
            written = {path.relative_to(case).as_posix(): sha256_file(path) for path in self._outputs(case)}
            write_record(case / STUDY, study.model_copy(update={**known, "outputs": written}))
            with writable(folder / study.case_id):
                case.replace(folder / study.case_id)
            sync(folder)

    def contents(self, case_ids: Sequence[str], studies: Sequence[Study]) -> dict[str, str]:
        """Hash of each predicted study's reference channel, by case id; read again where an older program predicted."""
        images = {study.case_id: study.channels[self.card.geometry.reference] for study in studies}
        found = {}
        for case_id in case_ids:
            known = read_record(self._folders()[0] / case_id / STUDY, StudyRecord).content_sha256
            found[case_id] = known or content_sha256(read_volume(images[case_id]))
        return found

    def write_failures(self, failures: FailuresRecord) -> None:
        """Write down which studies have no prediction, and why."""
        with self._failures.staged() as stage:
            write_record(stage / FAILURES, failures)

    def write_listing(self, ensemble: str, card_text: str, case_ids: Sequence[str], source: Source) -> None:
        """Make an ensemble's folder readable for the evaluation."""
        with self._listing(self.path / ensemble).staged() as stage:
            write_listing(stage, self.card, card_text, case_ids, source)

    @property
    def _failures(self) -> Output:
        return file_output(self.failures, COMMAND, methods=sha256_json(dict(self.methods)))

    def _listing(self, folder: Path) -> Output:
        """The listing of the studies that exist by now; those that are added or repaired later are predicted then."""
        method = self.methods[folder.relative_to(self.path).as_posix()]
        return Output(folder, COMMAND, LISTING_FILES, identity={"method": method}, record=PREDICTIONS)

    def _folders(self) -> list[Path]:
        return [subfolder(self.path, ensemble) for ensemble in self.methods]

    def _record(self, folder: Path, case_id: str) -> StudyRecord | None:
        """``study.json``, if there is one; another ensemble's is refused."""
        path = folder / case_id / STUDY
        if not path.is_file():
            return None
        record = read_record(path, StudyRecord)
        if record.method_sha256 not in (None, self.methods[folder.relative_to(self.path).as_posix()]):
            raise OncoduetError(
                path,
                "predicted by another bundle, ensemble or settings; move it away, and the study is predicted again",
            )
        return record

    def _study_files(self, case: Path) -> list[Path]:
        """What we write into a study's folder, the record last."""
        return [*self._outputs(case), case / STUDY]

    def _outputs(self, case: Path) -> list[Path]:
        return [case / "output" / name for name in study_files(self.card, case.name)]

    def _is_finished(self, study: Study) -> bool:
        hashed = cache(sha256_file)
        for folder in self._folders():
            case, record = folder / study.case_id, self._record(folder, study.case_id)
            if record is None or not all(path.is_file() for path in self._outputs(case)):
                return False
            if record.method_sha256 is None:
                logger.warning("study %s: an older program predicted it, it is not known by what", study.case_id)
                return False
            images = {stamp.channel: stamp for stamp in record.images}
            if images.keys() != study.channels.keys() or not all(
                is_unchanged(images[channel], path, hashed=hashed) for channel, path in study.channels.items()
            ):
                logger.warning("study %s: its images have changed since it was predicted", study.case_id)
                return False
            if any(sha256_file(case / name) != sha256 for name, sha256 in record.outputs.items()):
                return False
        return True
