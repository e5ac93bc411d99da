"""From an archive to a prepared dataset: stacking, nnU-Net's plan and preprocessing, patient-disjoint folds."""

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy import ndimage

from contract.archive import Study, archive_licence, find_studies
from contract.cards import CARDS, Card, load_card
from contract.errors import OncoduetError, UsageError
from contract.files import sha256_json, staged_folder, write_json, write_text
from contract.records import write_record
from contract.volume import LabelArray
from network.study import read_study, read_study_label
from training.engines import nnunet_data
from training.engines.nnunet_data import StackedStudy
from training.logs import log_to
from training.prepared import Fold, PreparedRecord, PreparedStudy, SplitsRecord

logger = logging.getLogger(__name__)


def prepare(*, card_name: str, archive: Path, output: Path, folds: int, seed: int, console: Console) -> PreparedRecord:
    """Prepare a dataset for training.

    Parameters
    ----------
    card_name
        A card's name or path.
    folds, seed
        Number of folds and the seed of the shuffle that deals patients to them.
    console
        Where progress is shown.

    Raises
    ------
    OncoduetError
        The archive is empty or a study of it is wrong (see ``contract.archive``, ``network.study``); no study has a
        lesion; there are fewer patients than folds. Nothing is written then.
    UsageError
        Fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"--folds: expected at least 2, found {folds}")
    card = load_card(card_name)
    licence = archive_licence(archive)
    studies = find_studies(archive, card, labels_required=True)
    patients = {study.patient_id for study in studies}
    if len(patients) < folds:
        raise OncoduetError(f"{archive}: expected at least {folds} patients for {folds} folds, found {len(patients)}")
    with (
        staged_folder(output) as stage,
        log_to(stage / "prepare.log"),
        tempfile.TemporaryDirectory(prefix=".work-", dir=stage) as work,
        Progress(console=console, redirect_stdout=False, redirect_stderr=False) as progress,
    ):
        stacked = _Stacked(Path(work) / "stacked", card)
        records, hashes = [], []
        for study in progress.track(studies, description="read studies"):
            lesions, sha256 = stacked.add(study)
            records.append(PreparedStudy(case_id=study.case_id, patient_id=study.patient_id, lesions=lesions))
            hashes.append([study.case_id, sha256])
        if not stacked.largest_foreground_voxels:
            raise OncoduetError(f"{archive / 'labels'}: expected at least one study with a lesion, found none")

        case_ids = [study.case_id for study in studies]
        dataset = nnunet_data.dataset_json(card, studies=len(studies))
        samples = nnunet_data.samples_per_case(
            studies=len(studies), largest_foreground_voxels=stacked.largest_foreground_voxels
        )
        analysis = progress.add_task("take fingerprint", total=len(studies))
        fingerprint = nnunet_data.fingerprint(
            case_ids, stacked.read, samples_per_case=samples, done=lambda: progress.advance(analysis)
        )
        plans = nnunet_data.plan(dataset, fingerprint, name=f"Dataset001_{card.name}", work=Path(work) / "planning")
        for case_id in progress.track(case_ids, description="preprocess"):
            nnunet_data.preprocess_case(
                case_id, stacked.read(case_id), plans=plans, dataset=dataset, output=stage / "cases"
            )

        record = PreparedRecord(
            card=card.name,
            card_sha256=card.sha256,
            dataset_fingerprint=sha256_json(hashes),
            data_licence=licence,
            foreground_samples_per_case=samples,
            studies=tuple(records),
            parents={"archive": sha256_json(hashes), "card": card.sha256},
        )
        write_json(stage / "plans.json", plans)
        write_json(stage / "dataset.json", dataset)
        write_json(stage / "dataset_fingerprint.json", fingerprint)
        write_text(stage / "card.toml", _card_path(card_name).read_text(encoding="utf-8"))
        splits = split_patients(records, folds=folds, seed=seed)
        write_record(stage / "splits.json", SplitsRecord(seed=seed, folds=splits))
        write_record(stage / "prepared.json", record)
    positive = sum(study.lesions > 0 for study in records)
    logger.info(
        "%s: %d studies of %d patients, %d with lesions, %d folds", output, len(records), len(patients), positive, folds
    )
    return record


def split_patients(studies: Sequence[PreparedStudy], *, folds: int, seed: int) -> tuple[Fold, ...]:
    """Deal patients to folds: shuffled, those with a lesion first, so that each fold gets its share of them."""
    positive = {study.patient_id: False for study in studies}
    for study in studies:
        positive[study.patient_id] |= study.lesions > 0
    shuffled = np.random.default_rng(seed).permutation(sorted(positive)).tolist()
    dealt = sorted(shuffled, key=lambda patient: not positive[patient])  # stable: shuffled within both groups
    fold_of = {patient: place % folds for place, patient in enumerate(dealt)}
    return tuple(
        Fold(
            train=tuple(study.case_id for study in studies if fold_of[study.patient_id] != fold),
            validation=tuple(study.case_id for study in studies if fold_of[study.patient_id] == fold),
        )
        for fold in range(folds)
    )


class _Stacked:
    """Stacked studies on disk, so that each scan is decompressed and resampled once and memory holds one study."""

    def __init__(self, folder: Path, card: Card) -> None:
        self.folder = folder
        self.card = card
        self.spacing_mm_zyx: dict[str, tuple[float, float, float]] = {}
        self.largest_foreground_voxels = 0
        folder.mkdir()

    def add(self, study: Study) -> tuple[int, str]:
        """Read and check one study; its number of lesions and the hash of its contents."""
        assert study.label is not None
        image = read_study(self.card, study.channels, name=study.case_id)
        label = read_study_label(self.card, study.label, image)
        foreground = int(np.count_nonzero(label))
        self.largest_foreground_voxels = max(self.largest_foreground_voxels, foreground)
        self.spacing_mm_zyx[study.case_id] = image.spacing_mm_zyx
        np.save(self.folder / f"{study.case_id}.npy", image.array)
        np.save(self.folder / f"{study.case_id}_label.npy", label)
        total = hashlib.sha256(str((image.array.shape, image.spacing_mm_zyx)).encode())
        total.update(np.ascontiguousarray(image.array).tobytes())
        total.update(np.ascontiguousarray(label).tobytes())
        return count_lesions(label, self.card), total.hexdigest()

    def read(self, case_id: str) -> StackedStudy:
        """One study as ``nnunet_data`` takes it."""
        array = np.load(self.folder / f"{case_id}.npy")
        label = np.load(self.folder / f"{case_id}_label.npy")
        return array, label, self.spacing_mm_zyx[case_id]


def count_lesions(label: LabelArray, card: Card) -> int:
    """Connected components (26 neighbours) of the lesion class."""
    _, count = ndimage.label(label == card.lesion_index, structure=np.ones((3, 3, 3)))
    return int(count)


def _card_path(name_or_path: str) -> Path:
    return Path(name_or_path) if name_or_path.endswith(".toml") else CARDS / f"{name_or_path}.toml"
