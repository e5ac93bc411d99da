"""From an archive to a prepared dataset: stacking, nnU-Net's plan and preprocessing, patient-disjoint folds.

Studies pass three times (``training.dataset.passes``): read and stacked, looked at for nnU-Net's plan, preprocessed.
What is done of a study stays in the output's ``.work`` until the dataset is finished (``training.dataset.workplace``),
so that a killed call is continued. The dataset then appears in one step.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from contract.archive.studies import Study, archive_licence, archive_patients, list_studies
from contract.card import Card, card_path, load_card
from contract.errors import OncoduetError, UsageError
from contract.file_stamps import glance
from contract.files.atomic import full_disk_said
from contract.files.reading import below as files_below
from contract.files.reading import sha256_json
from contract.outputs import Output, require_apart, require_folder
from contract.process.workers import Workers, shared_threads
from contract.records import Stage, write_record
from contract.text import first_few
from training.dataset.archive_stamps import FILE as SOURCES
from training.dataset.archive_stamps import SourcesRecord, files_of, read_sources, same_studies
from training.dataset.bad_studies import BadStudies, OnBadStudy, failures_output
from training.dataset.passes import Crew, preprocess_stage, read_studies
from training.dataset.preparation_needs import fitting_workers, require_disk, study_needs
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
from training.dataset.remarks import Remarks, marksheet_contradictions, repeat_doubts
from training.dataset.splits import require_enough_patients, split_patients
from training.dataset.workplace import COMMAND, FOLDER, WorkRecord, remove_workplace, require_continuable, workplace
from training.run_folder.environment import versions
from training.run_folder.logs import log_to

LOG = "prepare.log"
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
        Fewer than two folds, or a seed below 0.
    """
    _require_usable(folds, seed)
    _require_place(output, archive)
    card = load_card(card_name)
    licence = archive_licence(archive)
    studies, bad = _listed(archive, card, on_bad_study, output)
    patient_of = archive_patients(archive, studies, patients)
    require_enough_patients(archive, patient_of, folds)
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
        full_disk_said(output),
        Workers(workers, shared_threads(workers)) as all_,
    ):
        (work / LOG).unlink(missing_ok=True)
        crew = Crew(work, all_, partial(log_to, work / LOG))
        read = read_studies(
            crew,
            studies,
            needs,
            archive=archive,
            card=card,
            stages=stages,
            bad=bad,
            patient_of=patient_of,
        )
        bad.stop()
        require_enough_patients(archive, {case_id: patient_of[case_id] for case_id in read}, folds)
        if not any(record.stages["detection"].components for record in read.values()):
            raise OncoduetError(archive / "labels", "no study with a lesion")
        made = {stage: preprocess_stage(crew, stage, card, read) for stage in stages}
        prepared = made["detection"].studies(patient_of)
        splits = SplitsRecord(seed=seed, folds=split_patients(prepared, folds=folds, seed=seed))
        remarks = Remarks(bad, marksheet_contradictions(archive, prepared), made["detection"].lost)
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
    repeat_doubts(read.values(), log=LOG)
    remarks.say()
    _summarise(output, prepared, folds)
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


def _size(folder: Path) -> int:
    """Bytes of the files below a folder, or 0 where there is none."""
    return sum(path.lstat().st_size for path in files_below(folder)) if folder.is_dir() else 0


def _summarise(output: Path, studies: Sequence[PreparedStudy], folds: int) -> None:
    patients = len({study.patient_id for study in studies})
    positive = sum(study.lesions > 0 for study in studies)
    logger.info(
        "%s: %d studies of %d patients, %d with lesions, %d folds", output, len(studies), patients, positive, folds
    )
