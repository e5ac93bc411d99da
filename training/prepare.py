"""From an archive to a prepared dataset: stacking, nnU-Net's plan and preprocessing, patient-disjoint folds.

Studies are gone through three times: read and stacked, looked at for nnU-Net's plan, preprocessed; each time every
study by itself, in one of several processes. What is done of a study stays in the output's ``.work`` until the dataset
is finished (``training.dataset.workplace``), so that a killed call is continued. The dataset then appears in one step.
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from contract.archive.marksheet import contradictions
from contract.archive.studies import MARKSHEET, Study, archive_licence, archive_patients, list_studies
from contract.card import Card, card_path, load_card
from contract.errors import OncoduetError, UsageError
from contract.file_stamps import glance
from contract.files.atomic import explain_full_disk, write_json, write_text
from contract.files.reading import below as files_below
from contract.files.reading import sha256_json
from contract.outputs import Output, require_apart, require_folder
from contract.process.progress import clock, stdout_bar
from contract.process.workers import Workers, shared_threads
from contract.records import Stage, write_record
from contract.text import SHOWN, first_few
from network.study import plausibility
from training.dataset import nnunet_planning
from training.dataset.archive_stamps import FILE as SOURCES
from training.dataset.archive_stamps import SourcesRecord, files_of, read_sources, same_studies
from training.dataset.bad_studies import BadStudies, OnBadStudy, failures_output
from training.dataset.preparation_needs import StudyNeeds, fitting_workers, require_disk, study_needs
from training.dataset.prepared import (
    LOCALISATION,
    PARTS,
    RECORD,
    SPLITS,
    Prepared,
    PreparedRecord,
    PreparedStudy,
    SplitsRecord,
    case_files,
    load_prepared,
    parts,
    require_cases_alone,
)
from training.dataset.splits import require_one_patient, require_patients, split_patients
from training.dataset.study_steps import (
    Fault,
    PreprocessedRecord,
    ReadRecord,
    analyse,
    load_analysis,
    preprocess_study,
    preprocessed_files,
    read_study,
)
from training.dataset.workplace import COMMAND, FOLDER, WorkRecord, remove_workplace, require_continuable, workplace
from training.run_folder.environment import versions
from training.run_folder.logs import log_to

Piece = TypeVar("Piece")
Result = TypeVar("Result")

LOG = "prepare.log"
MOST_WORKERS = 1024
_TELLING, _SHORT_S = 10, 60.0
"""After how many studies the time of all is said, unless it is so short."""
_OF_ALL = 1.7
"""The whole preparation takes so many times as long as reading and stacking: measured on bpMRI phantoms and CT."""

logger = logging.getLogger(__name__)


def prepare(
    *,
    card_name: str,
    archive: Path,
    output: Path,
    folds: int,
    seed: int,
    patients: str | None = None,
    on_bad_study: OnBadStudy = "stop",
    replace: bool = False,
    workers: int = 1,
) -> PreparedRecord:
    """Prepare a dataset for training; one that is there already and was made from just this is left as it is.

    Parameters
    ----------
    card_name
        A card's name or path.
    folds, seed
        Number of folds and the seed of the shuffle that deals patients to them.
    patients
        Who the patients are, where the archive leaves it open; see :func:`contract.archive.studies.archive_patients`.
    on_bad_study
        What to do about studies that are wrong.
    replace
        Put it in the place of a dataset that was made from something else, although runs may have been made from that;
        or of an unfinished one of another card.
    workers
        Processes, at most; the dataset does not depend on them.

    Raises
    ------
    OncoduetError
        The archive is empty or a study of it is wrong (see ``contract.archive``, ``network.study``); no study has a
        lesion, or one lacks the organ that the card locates first; there are fewer patients than folds, or the patients
        are unknown; the output holds another dataset, an unfinished one of another card, or files of other programs;
        the disk is too small; a process was killed. There is no new dataset then.
    UsageError
        Fewer than two folds, a seed below 0, or no worker.
    """
    _require_usable(folds, seed, workers)
    _require_place(output, archive)
    card = load_card(card_name)
    licence = archive_licence(archive)
    studies, bad = _listed(archive, card, on_bad_study, output)
    patient_of = archive_patients(archive, studies, patients)
    require_patients(archive, patient_of, folds)
    stages: list[Stage] = ["detection"] if card.localisation is None else ["detection", "localisation"]
    if (output / RECORD).is_file() and not replace:
        existing = load_prepared(output)
        kept = [study for study in studies if study.case_id not in existing.record.left_out]
        _require_same(
            existing,
            card=card,
            licence=licence,
            archive=archive,
            studies=kept,
            folds=folds,
            seed=seed,
            patient_of=patient_of,
        )
        remove_workplace(output)
        return _as_it_is(existing)
    place = Output(
        output,
        COMMAND,
        _files(stages, [study.case_id for study in studies]),
        identity={
            "card": card.sha256,
            "folds": folds,
            "seed": seed,
            "archive": glance(archive, [path for study in studies for path in files_of(study)]),
            "licence": licence,
            "patients": sha256_json(patient_of),
            "on_bad_study": on_bad_study,
        },
        replaces=replace,
        record=RECORD,
    )
    place.check()
    failures_output(output, card).check()
    wanted = WorkRecord(
        card=card.name, card_sha256=card.sha256, versions={**versions(), "SimpleITK": version("SimpleITK")}
    )
    require_continuable(output, wanted, replace=replace)
    needs = [study_needs(study, card, stages) for study in studies]
    require_disk(output, needs, held=_size(output / FOLDER))
    workers = min(fitting_workers(workers, needs), len(studies))
    with (
        workplace(output, wanted) as work,
        _full_disk_said(output),
        Workers(workers, shared_threads(workers)) as all_,
    ):
        (work / LOG).unlink(missing_ok=True)
        crew = _Crew(work, all_)
        read = _read(crew, studies, needs, archive=archive, card=card, stages=stages, bad=bad, patient_of=patient_of)
        bad.stop()
        require_patients(archive, {case_id: patient_of[case_id] for case_id in read}, folds)
        if not any(record.stages["detection"].components for record in read.values()):
            raise OncoduetError(archive / "labels", "no study with a lesion")
        made = {stage: _preprocess(crew, stage, card, read) for stage in stages}
        prepared = made["detection"].studies(patient_of)
        splits = SplitsRecord(seed=seed, folds=split_patients(prepared, folds=folds, seed=seed))
        remarks = _Remarks(bad, _contradictions(archive, prepared), made["detection"].lost)
        with log_to(work / LOG):
            remarks.say()
        bad.write(output)
        with place.staged() as folder:
            sources = {case_id: record.stamps for case_id, record in read.items()}
            write_record(folder / SOURCES, SourcesRecord(archive=str(archive.resolve()), studies=sources))
            card_text = card_path(card_name).read_text(encoding="utf-8")
            for stage in reversed(stages):  # the outer one's record names the inner one's
                below = folder if stage == "detection" else folder / LOCALISATION
                made[stage].write(below, card_text, splits)
                record = made[stage].record(card, licence=licence, patient_of=patient_of)
                changes = {"left_out": tuple(sorted(bad.faults)), "parts": parts(below)}
                write_record(below / RECORD, record.model_copy(update=changes))
            shutil.copyfile(work / LOG, folder / LOG)
    _say_doubts(read.values())
    remarks.say()
    _summarise(output, prepared, folds)
    return load_prepared(output).record


def _require_place(output: Path, archive: Path) -> None:
    """Raise ``OncoduetError`` where a dataset could not be written, or not be read again."""
    require_apart(output, archive=archive)
    require_folder(output)
    require_cases_alone(output, output / LOCALISATION)


def _require_usable(folds: int, seed: int, workers: int) -> None:
    if folds < 2:
        raise UsageError("--folds", expected="at least 2", found=folds)
    if seed < 0:
        raise UsageError("--seed", expected="at least 0", found=seed)
    if not 1 <= workers <= MOST_WORKERS:
        raise UsageError("--workers", expected=f"a whole number from 1 to {MOST_WORKERS}", found=workers)


def _listed(archive: Path, card: Card, on_bad_study: OnBadStudy, output: Path) -> tuple[Sequence[Study], BadStudies]:
    """The studies that seem sound before their voxels are read, and those that are not; remarks are logged."""
    listing = list_studies(archive, card, labels_required=True)
    for remark in listing.remarks:
        logger.warning("%s", remark)
    count = len(listing.studies) + len(listing.faults)
    place = None if (output / RECORD).is_file() else output
    bad = BadStudies(archive, card, on_bad_study, studies=count, output=place)
    for name, fault in listing.faults.items():
        bad.note(name, fault)
    bad.stop()
    return listing.studies, bad


def _require_same(
    existing: Prepared,
    *,
    card: Card,
    licence: str,
    archive: Path,
    studies: Sequence[Study],
    folds: int,
    seed: int,
    patient_of: Mapping[str, str],
) -> None:
    """Raise ``OncoduetError`` unless a dataset was made from just this: its runs would be orphaned."""
    for what, found, expected in [
        ("card", existing.record.card_sha256, card.sha256),
        ("data licence", existing.record.data_licence, licence),
        ("number of folds", len(existing.folds), folds),
        ("seed", existing.splits_seed, seed),
        (
            "patients",
            {study.case_id: study.patient_id for study in existing.record.studies},
            {study.case_id: patient_of[study.case_id] for study in studies},
        ),
        ("studies", same_studies(read_sources(existing), archive, studies), True),
    ]:
        if found != expected:
            raise OncoduetError(
                existing.folder,
                f"dataset with another {what}, by which runs may have been trained; give another output, or --replace",
            )


def _as_it_is(existing: Prepared) -> PreparedRecord:
    """The record of a dataset that is there, after saying so and what it leaves out."""
    if left_out := existing.record.left_out:
        logger.warning(
            "%s: without %d studies, as its prepare.log says: %s", existing.folder, len(left_out), first_few(left_out)
        )
    logger.info("%s: prepared already from these studies, nothing to do", existing.folder)
    return existing.record


def _files(stages: Sequence[Stage], case_ids: Sequence[str]) -> list[str]:
    """All that a dataset may consist of."""
    below = ["" if stage == "detection" else f"{LOCALISATION}/" for stage in stages]
    cases = [str(path) for case_id in case_ids for path in case_files(Path(), case_id)]
    return [SOURCES, LOG, *(f"{each}{name}" for each in below for name in [RECORD, SPLITS, *PARTS, *cases])]


@dataclass(frozen=True)
class _Crew:
    """Who does the work on single studies, and where it is kept."""

    work: Path
    workers: Workers

    def each(
        self, what: str, step: Callable[[Piece], Result], pieces: Mapping[str, Piece], *, record: str
    ) -> Iterator[tuple[str, Result]]:
        """Do a step on every study, first on those that have a record of it; with each study's case id."""
        known = [case_id for case_id in pieces if (self.work / "studies" / case_id / record).is_file()]
        left = [case_id for case_id in pieces if case_id not in set(known)]
        order = [*known, *left]
        progress = iter(stdout_bar(what)(left, done=len(known)))
        if not known:
            next(progress, None)
        results = self.workers.each(step, [pieces[case_id] for case_id in order])
        for number, (result, case_id) in enumerate(zip(results, order, strict=True), start=1):
            yield case_id, result
            if number >= len(known):
                next(progress, None)


def _read(
    crew: _Crew,
    studies: Sequence[Study],
    needs: Sequence[StudyNeeds],
    *,
    archive: Path,
    card: Card,
    stages: Sequence[Stage],
    bad: BadStudies,
    patient_of: Mapping[str, str],
) -> dict[str, ReadRecord]:
    """Read and stack every study, in the order of the studies; those that are wrong are noted."""
    pieces = {study.case_id: study for study in studies}
    step = partial(read_study, work=crew.work, archive=archive, card=card, stages=stages)
    forecast = _Forecast({study.case_id: need.voxels for study, need in zip(studies, needs, strict=True)})
    results = {}
    for case_id, result in crew.each("read studies", step, pieces, record="read.json"):
        results[case_id] = result
        forecast.note(case_id)
    read, known = {}, dict[str, str]()
    for case_id in pieces:
        result = results[case_id]
        if isinstance(result, Fault):
            bad.note(case_id, result.reason)
            continue
        contents = {f"{name} image": sha256 for name, sha256 in result.channel_sha256.items()}
        contents |= {"label map": result.label_sha256} if result.label_sha256 else {}
        try:
            require_one_patient(known, contents, case_id, patient_of)
        except OncoduetError as error:
            bad.note(case_id, str(error))
            continue
        read[case_id] = result
    with log_to(crew.work / LOG):
        said = dict.fromkeys(each for record in read.values() for each in record.said)  # Python's are of a process
        for each in said:
            logging.getLogger(each.logger).warning("%s", each.message)
    return read


class _Forecast:
    """Says once how long all will take, when enough studies were read to tell."""

    def __init__(self, voxels: Mapping[str, int]) -> None:
        self._voxels = voxels
        self._left = sum(voxels.values())
        self._times: list[float] = []
        self._counted = 0

    def note(self, case_id: str) -> None:
        """A study was read; the first ones' time is also that of starting processes."""
        self._left -= self._voxels[case_id]
        if self._times:
            self._counted += self._voxels[case_id]
        self._times.append(time.monotonic())
        if len(self._times) == _TELLING:
            per_voxel = (self._times[-1] - self._times[0]) / self._counted
            left_s = per_voxel * (_OF_ALL * sum(self._voxels.values()) - (sum(self._voxels.values()) - self._left))
            if left_s > _SHORT_S:
                logger.info("about %s in all are left, by the first studies", clock(left_s))


@dataclass(frozen=True)
class _Made:
    """One stage's plan and preprocessed studies."""

    stage: Stage
    work: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    fingerprint: dict[str, Any]
    samples: int
    read: Mapping[str, ReadRecord]
    preprocessed: Mapping[str, PreprocessedRecord]

    @property
    def lost(self) -> list[str]:
        """What is to be said of lesions that resampling lost."""
        return [line for case_id in self.read for line in self.preprocessed[case_id].lost]

    def studies(self, patient_of: Mapping[str, str]) -> tuple[PreparedStudy, ...]:
        """The studies as the dataset names them."""
        return tuple(
            PreparedStudy(
                case_id=case_id,
                patient_id=patient_of[case_id],
                lesions=record.stages[self.stage].components,
                content_sha256=record.content_sha256,
            )
            for case_id, record in self.read.items()
        )

    def record(self, card: Card, *, licence: str, patient_of: Mapping[str, str]) -> PreparedRecord:
        """The record, but for what it says of the others of its folder."""
        # Over case ids, voxels, labels and spacings; the order in which studies were found does not count.
        content = sha256_json({case_id: record.stages[self.stage].sha256 for case_id, record in self.read.items()})
        return PreparedRecord(
            card=card.name,
            card_sha256=card.sha256,
            dataset_fingerprint=content,
            data_licence=licence,
            stage=self.stage,
            foreground_samples_per_case=self.samples,
            studies=self.studies(patient_of),
            files={name: sha256 for case_id in self.read for name, sha256 in self.preprocessed[case_id].files.items()},
            parents={"archive": content, "card": card.sha256},
        )

    def write(self, folder: Path, card_text: str, splits: SplitsRecord) -> None:
        """Put all but the record into a folder of the same file system."""
        write_text(folder / "card.toml", card_text)
        write_record(folder / SPLITS, splits)
        write_json(folder / "plans.json", self.plans)
        write_json(folder / "dataset.json", self.dataset)
        write_json(folder / "dataset_fingerprint.json", self.fingerprint)
        (folder / "cases").mkdir()
        for case_id in self.read:
            for path in preprocessed_files(self.work, case_id, self.stage):
                _link(path, folder / "cases" / path.name)


def _preprocess(crew: _Crew, stage: Stage, card: Card, read: Mapping[str, ReadRecord]) -> _Made:
    """Fingerprint, plan and preprocessing of one stage's studies."""
    of_stage = card if stage == "detection" else card.localising()
    pieces = {case_id: (case_id, record.stages[stage]) for case_id, record in read.items()}
    dataset = nnunet_planning.dataset_json(of_stage, studies=len(pieces))
    samples = nnunet_planning.samples_per_case(
        studies=len(pieces), largest_foreground_voxels=max(each.foreground_voxels for _, each in pieces.values())
    )
    what = "" if stage == "detection" else f" ({stage})"
    look = partial(analyse, work=crew.work, stage=stage, samples=samples)
    analysed = dict(crew.each(f"take fingerprint{what}", look, pieces, record=f"{stage}_analysis.json"))
    fingerprint = nnunet_planning.fingerprint(
        [load_analysis(crew.work, case_id, stage, analysed[case_id]) for case_id in pieces]
    )
    with log_to(crew.work / LOG), tempfile.TemporaryDirectory(prefix=".partial-", dir=crew.work) as planning:
        plans = nnunet_planning.plan(dataset, fingerprint, name=f"Dataset001_{card.name}", work=Path(planning))
    step = partial(preprocess_study, work=crew.work, stage=stage, card=of_stage, plans=plans, dataset=dataset)
    done = dict(crew.each(f"preprocess{what}", step, pieces, record=f"{stage}_preprocessed.json"))
    return _Made(stage, crew.work, plans, dataset, fingerprint, samples, read, done)


def _link(path: Path, target: Path) -> None:
    """Give a file a second name, so that a call that is killed now has lost nothing; where that cannot be, move it."""
    try:
        target.hardlink_to(path)
    except OSError:
        path.replace(target)


@contextmanager
def _full_disk_said(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        explain_full_disk(error, output, size_bytes=None)
        raise


def _size(folder: Path) -> int:
    """Bytes of the files below a folder, or 0 where there is none."""
    return sum(path.lstat().st_size for path in files_below(folder)) if folder.is_dir() else 0


def _contradictions(archive: Path, studies: Sequence[PreparedStudy]) -> list[str]:
    """Where the archive's marksheet, if there is one, and the label maps disagree on which studies have a lesion."""
    if not (archive / MARKSHEET).is_file():
        return []
    try:
        return contradictions(archive / MARKSHEET, {study.case_id: study.lesions > 0 for study in studies})
    except OncoduetError as error:
        return [f"{error}; not compared with the label maps"]


@dataclass(frozen=True)
class _Remarks:
    """What is left out, of which the archive says two things, and which lesions no network will see."""

    bad: BadStudies
    contradicted: Sequence[str]
    lost: Sequence[str]

    def say(self) -> None:
        """Log it: into prepare.log, and in the end to the user."""
        self.bad.say()
        for line in self.contradicted:
            logger.warning("%s", line)
        for line in self.lost:
            logger.warning("%s: networks are trained as if it were not there", line)


def _say_doubts(read: Iterable[ReadRecord]) -> None:
    """Repeat to the user the first warnings about images and label maps; all are in prepare.log."""
    lines = [each.message for record in read for each in record.said if each.logger == plausibility.__name__]
    for line in lines[:SHOWN]:
        logger.warning("%s", line)
    if len(lines) > SHOWN:
        logger.warning("%d more such warnings in %s", len(lines) - SHOWN, LOG)


def _summarise(output: Path, studies: Sequence[PreparedStudy], folds: int) -> None:
    patients = len({study.patient_id for study in studies})
    positive = sum(study.lesions > 0 for study in studies)
    logger.info(
        "%s: %d studies of %d patients, %d with lesions, %d folds", output, len(studies), patients, positive, folds
    )
