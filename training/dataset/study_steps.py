"""What ``prepare`` does with one study, in any of its processes: read and stack, take the fingerprint, preprocess.

Each step leaves its files and its record in the study's folder of the workplace (``training.dataset.workplace``), and
is not done again if they are there. A step takes and returns little, since it may happen in another process; what it
warns of is in its record, so that a later call that finds the study done says it too.
"""

import contextlib
import errno
import hashlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from contract.archive.studies import Study
from contract.card import Card
from contract.errors import OncoduetError
from contract.file_stamps import FileStamp
from contract.files.atomic import write_array
from contract.files.reading import read_array, sha256_file, sha256_json
from contract.images.volume import LabelArray, Volume
from contract.process.workers import collected_log
from contract.records import Stage
from contract.schema import Frozen
from contract.text import one_line
from network.study.localisation import true_region
from network.study.placement import Placement
from network.study.scan import Scan, classes_on_study_grid, content_sha256, read_scan, read_truth, stack
from training.dataset import nnunet_planning
from training.dataset.archive_stamps import stamp_study
from training.dataset.lost_lesions import Lesion, lesions_on, lost_lesions
from training.dataset.nnunet_planning import StackedStudy, StudyFingerprint
from training.dataset.prepared import case_files
from training.dataset.workplace import StepRecord, once, study_folder

logger = logging.getLogger(__name__)


class Said(Frozen):
    """A warning, and which logger it is of."""

    logger: str
    message: str


class Stacked(Frozen):
    """A study on the study grid of one stage: ``<stage>.npy``, shape (channel, z, y, x), and ``<stage>_label.npy``."""

    sha256: str
    """Over the voxels, the labels and the spacing."""
    spacing_mm_zyx: tuple[float, float, float]
    """For the network."""
    foreground_voxels: int
    components: int
    """Connected lesions (26 neighbours) on the study grid; in stage 1 those of the organ."""
    lesions: tuple[Lesion, ...]
    """Those of the label map; none in stage 1."""


class ReadRecord(StepRecord):
    """``read.json``: a study that was read and stacked."""

    stamps: tuple[FileStamp, ...]
    content_sha256: str
    """Of the reference channel's voxels (``network.study.scan.content_sha256``)."""
    channel_sha256: Mapping[str, str]
    """The same of every channel."""
    label_sha256: str | None
    """The same of the label map; null where it is empty."""
    said: tuple[Said, ...]
    stages: Mapping[Stage, Stacked]


class AnalysisRecord(StepRecord):
    """``<stage>_analysis.json``: what of a study enters nnU-Net's fingerprint, with ``<stage>_foreground.npy``."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    relative_size: float
    foreground_sha256: str


class PreprocessedRecord(StepRecord):
    """``<stage>_preprocessed.json``: the study's files of the dataset, in ``<stage>``."""

    files: Mapping[str, str]
    """Their sha256, by name."""
    lost: tuple[str, ...]
    """What is to be said of lesions that resampling lost."""


@dataclass(frozen=True)
class Fault:
    """Why a study cannot be prepared, in one line."""

    reason: str


def read_study(study: Study, *, work: Path, archive: Path, card: Card, stages: Sequence[Stage]) -> ReadRecord | Fault:
    """Read a study once and stack it for every stage.

    Raises ``OncoduetError`` or ``OSError``: it cannot be written to the workplace.
    """
    with _noting(study.case_id, archive) as faults:
        stamps = stamp_study(archive, study)  # before it is read: a change meanwhile is noticed
    if faults:
        return faults[0]
    made_from = sha256_json([[stamp.path, stamp.sha256] for stamp in stamps] + [card.sha256, list(stages)])
    folder = study_folder(work, study.case_id)
    files = [path for stage in stages for path in _stacked_files(folder, stage)]

    def intact(record: ReadRecord) -> bool:
        return all(
            _voxels_sha256(*_load(folder, stage, stacked)) == stacked.sha256 for stage, stacked in record.stages.items()
        )

    def make() -> ReadRecord:
        assert study.label is not None
        with collected_log() as told, _noting(study.case_id, archive) as faults:
            scan = read_scan(card, study.channels, name=study.case_id)
            truth = read_truth(study.label, Placement.of(card, scan.native))
            made = {stage: _stacked(study, scan, truth, card, stage) for stage in stages}
        if faults:
            raise _FaultError(faults[0])
        for stage, (array, label, _) in made.items():
            for path, each in zip(_stacked_files(folder, stage), (array, label), strict=True):
                write_array(path, each)
        return ReadRecord(
            made_from=made_from,
            stamps=stamps,
            content_sha256=scan.content_sha256,
            channel_sha256=scan.channel_sha256,
            label_sha256=content_sha256(truth) if truth.array.any() else None,
            said=tuple(
                Said(logger=each.name, message=each.getMessage()) for each in told if each.levelno >= logging.WARNING
            ),
            stages={stage: stacked for stage, (_, _, stacked) in made.items()},
        )

    try:
        return once(folder, "read", ReadRecord, made_from, files=files, intact=intact, make=make)
    except _FaultError as error:
        return error.fault


def load_stacked(work: Path, case_id: str, stage: Stage, stacked: Stacked) -> StackedStudy:
    """Voxels, label and spacing of a study that was read."""
    return _load(work / "studies" / case_id, stage, stacked)


def analyse(piece: tuple[str, Stacked], *, work: Path, stage: Stage, samples: int) -> AnalysisRecord:
    """Take from a study what enters the fingerprint.

    Parameters
    ----------
    piece
        Case id, and what was stacked.
    samples
        Foreground voxels to draw; see :func:`training.dataset.nnunet_planning.samples_per_case`.
    """
    case_id, stacked = piece
    folder = study_folder(work, case_id)
    path = folder / f"{stage}_foreground.npy"

    def make() -> AnalysisRecord:
        found = nnunet_planning.study_fingerprint(_load(folder, stage, stacked), samples=samples)
        write_array(path, found.foreground)
        return AnalysisRecord(
            made_from=made_from,
            shape=found.shape,
            spacing=found.spacing,
            relative_size=found.relative_size,
            foreground_sha256=sha256_file(path),
        )

    made_from = sha256_json([stacked.sha256, samples])
    intact = lambda record: sha256_file(path) == record.foreground_sha256  # noqa: E731
    return once(folder, f"{stage}_analysis", AnalysisRecord, made_from, files=[path], intact=intact, make=make)


def load_analysis(work: Path, case_id: str, stage: Stage, record: AnalysisRecord) -> StudyFingerprint:
    """What :func:`analyse` found."""
    foreground = read_array(work / "studies" / case_id / f"{stage}_foreground.npy")
    return StudyFingerprint(record.shape, record.spacing, record.relative_size, foreground)


def preprocess_study(
    piece: tuple[str, Stacked], *, work: Path, stage: Stage, card: Card, plans: dict[str, Any], dataset: dict[str, Any]
) -> PreprocessedRecord:
    """Preprocess a study and keep it in nnU-Net's format.

    Parameters
    ----------
    piece
        Case id, and what was stacked.
    card
        The stage's.
    """
    case_id, stacked = piece
    folder = study_folder(work, case_id)
    files = case_files(folder / stage, case_id)

    def make() -> PreprocessedRecord:
        with contextlib.redirect_stdout(io.StringIO()):
            case = nnunet_planning.preprocess_case(
                *(case_id, _load(folder, stage, stacked)), plans=plans, dataset=dataset, output=files[0].parent
            )
        lost = lost_lesions(stacked.lesions, case, plans=plans, card=card)
        return PreprocessedRecord(
            made_from=made_from, files=_hashes(files), lost=tuple(f"study {case_id}: {each}" for each in lost)
        )

    made_from = sha256_json([stacked.sha256, plans, dataset])
    intact = lambda record: _hashes(files) == record.files  # noqa: E731
    return once(folder, f"{stage}_preprocessed", PreprocessedRecord, made_from, files=files, intact=intact, make=make)


def preprocessed_files(work: Path, case_id: str, stage: Stage) -> tuple[Path, Path, Path]:
    """Where :func:`preprocess_study` keeps image, label and properties."""
    return case_files(work / "studies" / case_id / stage, case_id)


def count_connected_lesions(label: LabelArray, card: Card) -> int:
    """Connected components (26 neighbours) of the lesion class."""
    _, count = ndimage.label(label == card.lesion_index, structure=np.ones((3, 3, 3)))
    return int(count)


class _FaultError(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


@contextmanager
def _noting(case_id: str, archive: Path) -> Iterator[list[Fault]]:
    """Collect what is wrong with a study; a full disk is not."""
    faults: list[Fault] = []
    try:
        yield faults
    except OncoduetError as error:
        faults.append(Fault(one_line(str(error))))
    except OSError as error:
        if error.errno in (None, errno.ENOSPC, errno.EDQUOT):
            raise
        faults.append(Fault(one_line(f"study {case_id} in {archive}: files cannot be read: {error}")))
    except (MemoryError, ArithmeticError, ValueError, IndexError) as error:  # sizes that no array can have
        logger.debug("study %s", case_id, exc_info=True)
        found = f"{type(error).__name__}: {error}"
        faults.append(Fault(one_line(f"study {case_id} in {archive}: images cannot be prepared: {found}")))


def _stacked(study: Study, scan: Scan, truth: Volume, card: Card, stage: Stage) -> tuple[Any, LabelArray, Stacked]:
    """The region around a study's organ where the card locates one first and this is stage 2, else the whole."""
    assert study.label is not None
    of_stage = card if stage == "detection" else card.localising()
    region = None if of_stage.localisation is None else true_region(of_stage, truth, study.label)
    placement = Placement.of(of_stage, scan.native, region=region)
    array = stack(scan, placement)
    label = classes_on_study_grid(truth, placement)
    about = Stacked(
        sha256=_voxels_sha256(array, label, placement.spacing_mm_zyx),
        spacing_mm_zyx=placement.spacing_mm_zyx,
        foreground_voxels=int(np.count_nonzero(label)),
        components=count_connected_lesions(label, of_stage),
        lesions=tuple(lesions_on(of_stage, truth, placement.grid)) if stage == "detection" else (),
    )
    return array, label, about


def _voxels_sha256(array: Any, label: LabelArray, spacing_mm_zyx: tuple[float, float, float]) -> str:
    total = hashlib.sha256(str((array.shape, spacing_mm_zyx)).encode())
    total.update(np.ascontiguousarray(array).tobytes())
    total.update(np.ascontiguousarray(label).tobytes())
    return total.hexdigest()


def _load(folder: Path, stage: Stage, stacked: Stacked) -> StackedStudy:
    array, label = map(read_array, _stacked_files(folder, stage))
    return array, label, stacked.spacing_mm_zyx


def _stacked_files(folder: Path, stage: Stage) -> tuple[Path, Path]:
    """Voxels and label of a stacked study."""
    return folder / f"{stage}.npy", folder / f"{stage}_label.npy"


def _hashes(files: Sequence[Path]) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in files}
