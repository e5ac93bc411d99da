"""From an archive to a prepared dataset: stacking, nnU-Net's plan and preprocessing, patient-disjoint folds."""

import errno
import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy import ndimage

from contract.archive.marksheet import contradictions
from contract.archive.studies import MARKSHEET, Study, archive_licence, archive_patients, list_studies, refusal_of
from contract.card import Card, card_path, load_card
from contract.errors import OncoduetError, UsageError
from contract.file_stamps import glance
from contract.files.atomic import write_json, write_text
from contract.files.reading import sha256_file, sha256_json
from contract.images.volume import LabelArray, Volume
from contract.outputs import Output, require_apart, require_folder
from contract.process.terminal import progress_on
from contract.records import Stage, write_record
from contract.text import SHOWN, first_few, one_line
from network import plausibility
from network.localisation import true_region
from network.placement import Placement
from network.preprocessing import Preprocessed
from network.study import Scan, classes_on, read_scan, read_truth, stack
from training.dataset import nnunet_planning
from training.dataset.archive_stamps import FILE as SOURCES
from training.dataset.archive_stamps import SourcesRecord, files_of, read_sources, same_studies, stamp_study
from training.dataset.lost_lesions import Lesion, lesions_on, lost_lesions
from training.dataset.nnunet_planning import StackedStudy
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
from training.run_folder.logs import log_to

OnBadStudy = Literal["stop", "skip"]
"""``stop``: a study that is wrong ends it, once all such are known; ``skip``: they are left out, and named."""

logger = logging.getLogger(__name__)


def prepare(
    *,
    card_name: str,
    archive: Path,
    output: Path,
    folds: int,
    seed: int,
    console: Console,
    patients: str | None = None,
    on_bad_study: OnBadStudy = "stop",
    replace: bool = False,
) -> PreparedRecord:
    """Prepare a dataset for training; one that is there already and was made from just this is left as it is.

    Parameters
    ----------
    card_name
        A card's name or path.
    folds, seed
        Number of folds and the seed of the shuffle that deals patients to them.
    console
        Where progress is shown.
    patients
        Who the patients are, where the archive leaves it open; see :func:`contract.archive.studies.archive_patients`.
    on_bad_study
        What to do about studies that are wrong.
    replace
        Put it in the place of a dataset that was made from something else, although runs may have been made from that.

    Raises
    ------
    OncoduetError
        The archive is empty or a study of it is wrong (see ``contract.archive``, ``network.study``); no study has a
        lesion, or one lacks the organ that the card locates first; there are fewer patients than folds, or it is open
        who they are; the output holds another dataset or files of other origin. Nothing is written then.
    UsageError
        Fewer than two folds, or a seed below 0.
    """
    _require_usable(folds, seed)
    _require_place(output, archive)
    card = load_card(card_name)
    licence = archive_licence(archive)
    studies, bad = _listed(archive, card, on_bad_study)
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
        return _as_it_is(existing)
    place = Output(
        output,
        "training prepare",
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
    with (
        place.staged() as stage,
        log_to(stage / "prepare.log"),
        tempfile.TemporaryDirectory(prefix=".work-", dir=stage) as work,
        progress_on(console, redirect_stdout=False, redirect_stderr=False) as progress,
    ):
        stacked = {each: _Stacked(Path(work) / each, card, each) for each in stages}
        stamps, doubts, known = {}, _Doubts(), dict[str, str]()
        for study in progress.track(studies, description="read studies"):
            assert study.label is not None
            with bad.noting(study.case_id):
                stamp = stamp_study(archive, study)  # before it is read, so that a later change is noticed
                with doubts.noted():
                    scan = read_scan(card, study.channels, name=study.case_id)
                    truth = read_truth(card, study.label, scan.native)
                require_one_patient(known, scan, truth, study.case_id, patient_of)
                for dataset in stacked.values():
                    dataset.add(study, patient_of[study.case_id], scan, truth)
                stamps[study.case_id] = stamp
        bad.stop()
        kept = [study for study in studies if study.case_id not in bad.faults]
        for dataset in stacked.values():
            dataset.keep(kept)
        require_patients(archive, {study.case_id: patient_of[study.case_id] for study in kept}, folds)
        if not any(study.lesions for study in stacked["detection"].records):
            raise OncoduetError(archive / "labels", "no study with a lesion")
        lesions = stacked["detection"].records
        splits = SplitsRecord(seed=seed, folds=split_patients(lesions, folds=folds, seed=seed))
        write_record(stage / SOURCES, SourcesRecord(archive=str(archive.resolve()), studies=stamps))
        card_text = card_path(card_name).read_text(encoding="utf-8")
        for name in reversed(stages):  # the outer one's record names the inner one's
            folder = stage if name == "detection" else stage / LOCALISATION
            record = _preprocess(stacked[name], folder, card=card, licence=licence, work=Path(work), progress=progress)
            write_text(folder / "card.toml", card_text)
            write_record(folder / SPLITS, splits)
            changes = {"left_out": tuple(sorted(bad.faults)), "parts": parts(folder)}
            write_record(folder / RECORD, record.model_copy(update=changes))
        lost = stacked["detection"].lost
        contradicted = _contradictions(archive, lesions)
        _say(bad, lost, contradicted)  # in prepare.log, and below to the user
    doubts.say()
    _say(bad, lost, contradicted)
    _summarise(output, lesions, folds)
    return load_prepared(output).record


def _require_place(output: Path, archive: Path) -> None:
    """Raise ``OncoduetError`` where a dataset could not be written, or not be read again."""
    require_apart(output, archive=archive)
    require_folder(output)
    require_cases_alone(output, output / LOCALISATION)


def _require_usable(folds: int, seed: int) -> None:
    if folds < 2:
        raise UsageError("--folds", expected="at least 2", found=folds)
    if seed < 0:
        raise UsageError("--seed", expected="at least 0", found=seed)


def _listed(archive: Path, card: Card, on_bad_study: OnBadStudy) -> tuple[Sequence[Study], "_BadStudies"]:
    """The studies that seem sound before their voxels are read, and those that are not; remarks are logged."""
    listing = list_studies(archive, card, labels_required=True)
    for remark in listing.remarks:
        logger.warning("%s", remark)
    bad = _BadStudies(archive, on_bad_study, studies=len(listing.studies) + len(listing.faults))
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
    return [SOURCES, "prepare.log", *(f"{each}{name}" for each in below for name in [RECORD, SPLITS, *PARTS, *cases])]


class _Doubts(logging.Handler):
    """Warnings about images and label maps, which go into prepare.log at once and to the user in the end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self._said.append(record.getMessage())

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep what is warned of in here."""
        source = logging.getLogger(plausibility.__name__)
        source.addHandler(self)
        try:
            yield
        finally:
            source.removeHandler(self)

    def say(self) -> None:
        """Repeat the first ones."""
        for line in self._said[:SHOWN]:
            logger.warning("%s", line)
        if len(self._said) > SHOWN:
            logger.warning("%d more such warnings in prepare.log", len(self._said) - SHOWN)


class _BadStudies:
    """Studies that are wrong, as far as they are known; with ``stop`` all of them are named together."""

    def __init__(self, archive: Path, on_bad_study: OnBadStudy, *, studies: int) -> None:
        self.archive = archive
        self.on_bad_study = on_bad_study
        self.studies = studies
        self.faults: dict[str, str] = {}

    def note(self, name: str, fault: str) -> None:
        """Keep what is wrong with a study."""
        self.faults[name] = one_line(fault)

    @contextmanager
    def noting(self, case_id: str) -> Iterator[None]:
        """Collect errors of a study; a full disk is not one of them."""
        try:
            yield
        except OncoduetError as error:
            self.note(case_id, str(error))
        except OSError as error:
            if error.errno in (None, errno.ENOSPC, errno.EDQUOT):
                raise
            self.note(case_id, f"study {case_id} in {self.archive}: files cannot be read: {error}")
        except (MemoryError, ArithmeticError, ValueError, IndexError) as error:  # sizes that no array can have
            logger.debug("study %s", case_id, exc_info=True)
            self.note(
                case_id,
                f"study {case_id} in {self.archive}: images cannot be prepared: {type(error).__name__}: {error}",
            )

    def stop(self) -> None:
        """Raise ``OncoduetError`` with all that is known, unless bad studies are left out."""
        if self.faults and self.on_bad_study == "stop":
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


def _preprocess(
    stacked: "_Stacked", folder: Path, *, card: Card, licence: str, work: Path, progress: Progress
) -> PreparedRecord:
    """Fingerprint, plan and preprocessing of one stage's studies, into its folder."""
    case_ids = [study.case_id for study in stacked.records]
    dataset = nnunet_planning.dataset_json(stacked.card, studies=len(case_ids))
    samples = nnunet_planning.samples_per_case(
        studies=len(case_ids), largest_foreground_voxels=max(stacked.foreground_voxels[each] for each in case_ids)
    )
    what = "" if stacked.stage == "detection" else f" ({stacked.stage})"
    analysis = progress.add_task(f"take fingerprint{what}", total=len(case_ids))
    fingerprint = nnunet_planning.fingerprint(
        case_ids, stacked.read, samples_per_case=samples, done=lambda: progress.advance(analysis)
    )
    planning = work / f"planning-{stacked.stage}"
    plans = nnunet_planning.plan(dataset, fingerprint, name=f"Dataset001_{card.name}", work=planning)
    for case_id in progress.track(case_ids, description=f"preprocess{what}"):
        preprocessed = nnunet_planning.preprocess_case(
            case_id, stacked.read(case_id), plans=plans, dataset=dataset, output=folder / "cases"
        )
        stacked.note_lost(case_id, preprocessed, plans)
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", dataset)
    write_json(folder / "dataset_fingerprint.json", fingerprint)
    files = [path for case_id in case_ids for path in case_files(folder, case_id)]
    return PreparedRecord(
        card=card.name,
        card_sha256=card.sha256,
        dataset_fingerprint=stacked.fingerprint,
        data_licence=licence,
        stage=stacked.stage,
        foreground_samples_per_case=samples,
        studies=tuple(stacked.records),
        files={path.name: sha256_file(path) for path in files},
        parents={"archive": stacked.fingerprint, "card": card.sha256},
    )


def _contradictions(archive: Path, studies: Sequence[PreparedStudy]) -> list[str]:
    """Where the archive's marksheet, if there is one, and the label maps disagree on which studies have a lesion."""
    if not (archive / MARKSHEET).is_file():
        return []
    try:
        return contradictions(archive / MARKSHEET, {study.case_id: study.lesions > 0 for study in studies})
    except OncoduetError as error:
        return [f"{error}; not compared with the label maps"]


def _say(bad: _BadStudies, lost: Sequence[str], contradicted: Sequence[str]) -> None:
    """What is left out, which lesions no network will see, and of which the archive says two things."""
    bad.say()
    for line in contradicted:
        logger.warning("%s", line)
    for line in lost:
        logger.warning("%s: networks are trained as if it were not there", line)


def _summarise(output: Path, studies: Sequence[PreparedStudy], folds: int) -> None:
    patients = len({study.patient_id for study in studies})
    positive = sum(study.lesions > 0 for study in studies)
    logger.info(
        "%s: %d studies of %d patients, %d with lesions, %d folds", output, len(studies), patients, positive, folds
    )


class _Stacked:
    """Stacked studies on disk, so that each scan is decompressed and resampled once and memory holds one study."""

    def __init__(self, folder: Path, card: Card, stage: Stage) -> None:
        self.folder = folder
        self.card = card if stage == "detection" else card.localising()
        self.stage: Stage = stage
        self.records: list[PreparedStudy] = []
        self.hashes: dict[str, str] = {}
        self.spacing_mm_zyx: dict[str, tuple[float, float, float]] = {}
        self.foreground_voxels: dict[str, int] = {}
        self.lesions: dict[str, list[Lesion]] = {}
        self.lost: list[str] = []
        """Messages about lesions that resampling lost."""
        folder.mkdir()

    def add(self, study: Study, patient_id: str, scan: Scan, truth: Volume) -> None:
        """Keep one study: the region around its organ where the card locates one first, else the whole."""
        assert study.label is not None
        region = None if self.card.localisation is None else true_region(self.card, truth, study.label)
        placement = Placement.of(self.card, scan.native, region=region)
        array = stack(self.card, scan, placement)
        label = classes_on(self.card, truth, placement.grid)
        self.foreground_voxels[study.case_id] = int(np.count_nonzero(label))
        self.spacing_mm_zyx[study.case_id] = placement.spacing_mm_zyx
        np.save(self.folder / f"{study.case_id}.npy", array)
        np.save(self.folder / f"{study.case_id}_label.npy", label)
        total = hashlib.sha256(str((array.shape, placement.spacing_mm_zyx)).encode())
        total.update(np.ascontiguousarray(array).tobytes())
        total.update(np.ascontiguousarray(label).tobytes())
        lesions = count_lesions(label, self.card)
        self.lesions[study.case_id] = lesions_on(self.card, truth, placement.grid) if self.stage == "detection" else []
        self.hashes[study.case_id] = total.hexdigest()
        self.records.append(
            PreparedStudy(
                case_id=study.case_id, patient_id=patient_id, lesions=lesions, content_sha256=scan.content_sha256
            )
        )

    def keep(self, studies: Iterable[Study]) -> None:
        """Forget all others: what was wrong with one may have shown in another stage alone."""
        kept = {study.case_id for study in studies}
        self.records = [record for record in self.records if record.case_id in kept]
        self.hashes = {case_id: sha256 for case_id, sha256 in self.hashes.items() if case_id in kept}

    def note_lost(self, case_id: str, preprocessed: Preprocessed, plans: Mapping[str, Any]) -> None:
        """Look for the study's lesions in what preprocessing made of it."""
        found = lost_lesions(self.lesions[case_id], preprocessed, plans=plans, card=self.card)
        self.lost += [f"study {case_id}: {each}" for each in found]

    @property
    def fingerprint(self) -> str:
        """Hash over case ids, voxels, labels and spacings; the order in which studies were found does not count."""
        return sha256_json(self.hashes)

    def read(self, case_id: str) -> StackedStudy:
        """Voxels, label and spacing of one study."""
        array = np.load(self.folder / f"{case_id}.npy")
        label = np.load(self.folder / f"{case_id}_label.npy")
        return array, label, self.spacing_mm_zyx[case_id]


def count_lesions(label: LabelArray, card: Card) -> int:
    """Connected components (26 neighbours) of the lesion class."""
    _, count = ndimage.label(label == card.lesion_index, structure=np.ones((3, 3, 3)))
    return int(count)
