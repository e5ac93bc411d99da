"""A prepared dataset: what ``prepare`` leaves and every run reads.

The folder holds ``prepared.json``, ``splits.json``, ``card.toml``, nnU-Net's ``plans.json``, ``dataset.json`` and
``dataset_fingerprint.json``, the preprocessed studies in ``cases``, and ``sources.json`` (``training.sources``), which
says what archive it comes from. For a card that first locates an organ there is the same once more, for stage 1, in the
folder ``localisation``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from contract.cards import Card, Frozen, load_card
from contract.errors import OncoduetError
from contract.files import sha256_json
from contract.records import Record, Stage, read_record
from network.plans import read_plans

LOCALISATION = "localisation"
"""Folder of stage 1's dataset in a prepared dataset."""


class PreparedStudy(Frozen):
    """One study of the dataset."""

    case_id: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+$", max_length=200)]
    """Part of file names."""
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
        A file is missing or malformed, the card is not the one that the dataset was made with, or a preprocessed study
        is missing.
    """
    record = read_record(folder / "prepared.json", PreparedRecord)
    card = load_card(folder / "card.toml")
    if card.sha256 != record.card_sha256:
        raise OncoduetError(f"{folder / 'card.toml'}: expected the card that the dataset was made with, found another")
    if record.stage == "localisation":
        card = card.localising()
    plans, dataset = read_plans(folder / "plans.json", folder / "dataset.json", card)
    for study in record.studies:
        for path in case_files(folder, study.case_id):
            if not path.is_file():
                raise OncoduetError(f"{path}: expected a preprocessed study, found none")
    others = sorted(path.name for path in (folder / "cases").glob("*") if path.suffix not in {".b2nd", ".pkl"})
    if others:  # nnU-Net would choose its reader by them
        raise OncoduetError(f"{folder / 'cases'}: expected preprocessed studies alone, found {others[0]!r}")
    return Prepared(
        folder=folder,
        record=record,
        card=card,
        plans=plans,
        dataset=dataset,
        folds=read_record(folder / "splits.json", SplitsRecord).folds,
    )


def case_files(folder: Path, case_id: str) -> tuple[Path, Path, Path]:
    """Image, label and properties of a preprocessed study."""
    cases = folder / "cases"
    return cases / f"{case_id}.b2nd", cases / f"{case_id}_seg.b2nd", cases / f"{case_id}.pkl"
