"""A prepared dataset: what ``prepare`` leaves and every run reads.

``prepared.json`` is there only while the rest is whole, and has the sha256 of every part. The folder holds
``prepared.json``, ``splits.json``, ``card.toml``, nnU-Net's ``plans.json``, ``dataset.json`` and
``dataset_fingerprint.json``, the preprocessed studies in ``cases``, and ``sources.json`` (``training.sources``), which
says what archive it comes from. For a card that first locates an organ there is the same once more, for stage 1, in the
folder ``localisation``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.cards import Card, Frozen, load_card
from contract.errors import OncoduetError
from contract.files import read_json, sha256_file, sha256_json
from contract.records import Record, Stage, read_record

LOCALISATION = "localisation"
"""Folder of stage 1's dataset in a prepared dataset."""

RECORD = "prepared.json"

PARTS = ("card.toml", "dataset.json", "dataset_fingerprint.json", "plans.json", "splits.json")
"""Files of every dataset beside ``prepared.json`` and ``cases``."""

MORE_PARTS = (f"{LOCALISATION}/prepared.json",)
"""That of a dataset with two stages. ``sources.json`` is none: where an archive lies is no part of a dataset."""


class PreparedStudy(Frozen):
    """One study of the dataset."""

    case_id: str
    patient_id: str
    lesions: int
    """Connected lesions (26 neighbours) on the study grid; in stage 1 those of the organ."""


class PreparedRecord(Record):
    """``prepared.json``."""

    card: str
    card_sha256: str
    dataset_fingerprint: str
    """Hash over case ids, voxels and labels on the study grid, and spacings; the studies' order does not count."""
    data_licence: str
    stage: Stage = "detection"
    foreground_samples_per_case: int
    """Voxels drawn from each study for the intensity statistics of quantitative channels."""
    studies: tuple[PreparedStudy, ...]
    files: Mapping[str, str]
    """sha256 of each preprocessed file in ``cases``, by name. Written once, checked by ``training verify``."""
    parts: Mapping[str, str] = {}
    """sha256 of every other file that a run's result depends on, by name; compared whenever the dataset is read."""


class Fold(Frozen):
    """Case ids of one fold; no patient stands on both sides."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


class SplitsRecord(Record):
    """``splits.json``."""

    seed: int
    folds: tuple[Fold, ...]


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset, read and checked."""

    folder: Path
    record: PreparedRecord
    card: Card
    """Of this stage; ``record`` names the whole card."""
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    folds: tuple[Fold, ...]
    splits_seed: int
    """Of the shuffle that dealt patients to the folds."""

    def for_stage(self, stage: Stage) -> "Prepared":
        """The dataset that networks of a stage are trained on.

        Raises
        ------
        OncoduetError
            The card does not locate an organ, or that dataset is damaged.
        """
        if stage == self.record.stage:
            return self
        if stage == "detection":
            raise OncoduetError(f"{self.folder}: expected a dataset of lesions, found one for localisation")
        if self.card.localisation is None:
            raise OncoduetError(f"card {self.card.name}: expected a localisation to train for, found none")
        return load_prepared(self.folder / LOCALISATION)

    @property
    def sha256(self) -> str:
        """Hash of all that a run's result depends on; who wrote it and when does not count."""
        folds = [fold.model_dump(mode="json") for fold in self.folds]
        record = self.record
        return sha256_json(
            [record.dataset_fingerprint, dict(record.files), self.card.sha256, self.plans, self.dataset, folds]
        )

    def fold(self, number: int) -> Fold:
        """One fold. Raises ``OncoduetError`` for a number that the splits do not have."""
        if not 0 <= number < len(self.folds):
            raise OncoduetError(
                f"{self.folder / 'splits.json'}: expected a fold from 0 to {len(self.folds) - 1}, found {number}"
            )
        return self.folds[number]


def load_prepared(folder: Path) -> Prepared:
    """Read a prepared dataset.

    Raises
    ------
    OncoduetError
        A file is missing, malformed or another than the dataset was made with, the card is not the one that it was made
        with, or a preprocessed study is missing.
    """
    record = read_record(folder / RECORD, PreparedRecord)
    card = load_card(folder / "card.toml")
    if card.sha256 != record.card_sha256:
        raise OncoduetError(f"{folder / 'card.toml'}: expected the card that the dataset was made with, found another")
    _require_parts(folder, record)
    for study in record.studies:
        for path in case_files(folder, study.case_id):
            if not path.is_file():
                raise OncoduetError(f"{path}: expected a preprocessed study, found none")
    splits = read_record(folder / "splits.json", SplitsRecord)
    return Prepared(
        folder=folder,
        record=record,
        card=card.localising() if record.stage == "localisation" else card,
        plans=read_json(folder / "plans.json"),
        dataset=read_json(folder / "dataset.json"),
        folds=splits.folds,
        splits_seed=splits.seed,
    )


def parts(folder: Path) -> dict[str, str]:
    """sha256 of each part of a dataset beside its record and the preprocessed studies, by name."""
    names = [name for name in (*PARTS, *MORE_PARTS) if (folder / name).is_file()]
    return {name: sha256_file(folder / name) for name in names}


def _require_parts(folder: Path, record: PreparedRecord) -> None:
    """What stands in the record is compared, so that files of two datasets are never taken for one."""
    if not record.parts:
        raise OncoduetError(
            f"{folder / RECORD}: expected the sha256 of the dataset's other files, found none: an older version "
            "wrote it; prepare the archive anew, into another folder"
        )
    for name in (*PARTS, *record.parts):
        path = folder / name
        if not path.is_file():
            raise OncoduetError(f"{path}: expected a part of the dataset, found none")
        if sha256_file(path) != record.parts.get(name):
            raise OncoduetError(f"{path}: expected the file that prepared.json names by its sha256, found another")


def case_files(folder: Path, case_id: str) -> tuple[Path, Path, Path]:
    """Image, label and properties of a preprocessed study."""
    cases = folder / "cases"
    return cases / f"{case_id}.b2nd", cases / f"{case_id}_seg.b2nd", cases / f"{case_id}.pkl"
