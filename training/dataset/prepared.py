"""A prepared dataset: what ``prepare`` leaves and every run reads.

``prepared.json`` is there only while the rest is whole, and has the sha256 of every part. The folder holds
``prepared.json``, ``splits.json``, ``card.toml``, nnU-Net's ``plans.json``, ``dataset.json`` and
``dataset_fingerprint.json``, the preprocessed studies in ``cases``, and ``sources.json``
(``training.dataset.archive_stamps``), which says what archive it comes from. For a card that first locates an organ
there is the same once more, for stage 1, in the folder ``localisation``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from contract.card import Card, load_card
from contract.errors import OncoduetError
from contract.files.reading import inside, sha256_file, sha256_json
from contract.names import duplicates
from contract.records import Record, Stage, read_record
from contract.schema import Frozen, Name
from contract.text import first_few
from network.model.plans import read_plans

SPLITS = "splits.json"
LOCALISATION = "localisation"
"""Folder of stage 1's dataset in a prepared dataset."""

RECORD = "prepared.json"

PARTS = ("card.toml", "dataset.json", "dataset_fingerprint.json", "plans.json")
"""Files of every dataset in addition to ``prepared.json``, ``cases`` and ``splits.json``, which may be edited."""

MORE_PARTS = (f"{LOCALISATION}/prepared.json",)
"""Further part of a two-stage dataset. ``sources.json`` is not hashed."""


class PreparedStudy(Frozen):
    """One study of the dataset."""

    case_id: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+$", max_length=200)]
    """Case id, part of file names."""
    patient_id: str
    lesions: int
    """Connected lesions (26 neighbours) on the study grid; in stage 1 those of the organ."""
    content_sha256: str | None = None
    """Hash by which the study is recognised (``network.study.scan``); null where an older program prepared it."""


class PreparedRecord(Record):
    """``prepared.json``."""

    card: Name
    card_sha256: str
    dataset_fingerprint: str
    """Hash over case ids, voxels and labels on the study grid, and spacings; the studies' order does not count."""
    data_licence: str
    stage: Stage = "detection"
    foreground_samples_per_case: int
    """Voxels drawn from each study for the intensity statistics of quantitative channels."""
    studies: tuple[PreparedStudy, ...]
    left_out: tuple[str, ...] = ()
    """Case ids (or folders) of the archive that were faulty and left out on request; ``prepare.log`` gives the
    reasons."""
    files: Mapping[str, str]
    """sha256 of each preprocessed file in ``cases``, by name; compared before they are trained on."""
    parts: Mapping[str, str] = {}
    """sha256 of every other file that a run's result depends on but the splits, by name; compared at every reading."""


class Fold(Frozen):
    """Case ids of one fold; no patient is on both sides."""

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
    """Card of this stage; ``record`` names the whole card."""
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    folds: tuple[Fold, ...]
    splits_seed: int
    """Seed of the shuffle that assigned patients to folds."""

    def for_stage(self, stage: Stage) -> "Prepared":
        """The dataset that networks of a stage are trained on.

        Raises ``OncoduetError``: the card does not locate an organ, or that dataset is damaged or has other folds.
        """
        if stage == self.record.stage:
            return self
        if stage == "detection":
            raise OncoduetError(self.folder, expected="a dataset of lesions", found="one for localisation")
        if self.card.localisation is None:
            raise OncoduetError(f"card {self.card.name}", "no localisation to train for")
        located = load_prepared(self.folder / LOCALISATION)
        if located.folds != self.folds:
            raise OncoduetError(
                located.folder / SPLITS,
                f"folds differ from those in {self.folder / SPLITS}; "
                "a study held out in one stage would train the other",
            )
        return located

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
            raise OncoduetError(self.folder / SPLITS, expected=f"a fold from 0 to {len(self.folds) - 1}", found=number)
        return self.folds[number]

    def require_recorded(self, case_ids: Iterable[str]) -> None:
        """Compare the preprocessed files of studies with what ``prepared.json`` says of them, and with the network.

        Within a process each study is read once, as long as sizes and times stay the same.

        Raises ``OncoduetError``: a file is another, or has other channels or classes than the dataset.
        """
        from training.dataset.preprocessed import require_study  # noqa: PLC0415

        for case_id in case_ids:
            image, label, properties = case_files(self.folder, case_id)
            stamps = {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in (image, label, properties)}
            if all(_compared.get(path) == stamp for path, stamp in stamps.items()):
                continue
            for path in stamps:
                if sha256_file(path) != self.record.files.get(path.name):
                    raise OncoduetError(path, f"does not match the hash in {RECORD}")
            channels, classes = (len(self.dataset[what]) for what in ("channel_names", "labels"))
            require_study(image, label, channels=channels, classes=classes)
            _compared.update(stamps)


_compared: dict[Path, tuple[int, int]] = {}
"""Size in bytes and time of change in ns of the preprocessed files that this process has compared."""


def load_prepared(folder: Path) -> Prepared:
    """Read a prepared dataset.

    Raises ``OncoduetError``: a file is missing, malformed or another than the dataset was made with, the card is not
    the one that it was made with, a preprocessed study is missing, or a fold is none: see :func:`require_folds`.
    """
    record = read_record(folder / RECORD, PreparedRecord)
    card = load_card(folder / "card.toml")
    if card.sha256 != record.card_sha256:
        raise OncoduetError(folder / "card.toml", f"does not match the hash in {RECORD}")
    _require_parts(folder, record)
    if record.stage == "localisation":
        card = card.localising()
    plans, dataset = read_plans(folder / "plans.json", folder / "dataset.json", card)
    for study in record.studies:
        for path in case_files(folder, study.case_id):
            if not path.is_file():
                raise OncoduetError(path, "preprocessed study not found")
    require_cases_alone(folder)
    splits = read_record(folder / SPLITS, SplitsRecord)
    require_folds(folder / SPLITS, splits.folds, record.studies)
    return Prepared(
        folder=folder,
        record=record,
        card=card,
        plans=plans,
        dataset=dataset,
        folds=splits.folds,
        splits_seed=splits.seed,
    )


def parts(folder: Path) -> dict[str, str]:
    """sha256 of each part of a dataset except its record, splits and preprocessed studies, by name."""
    names = [name for name in (*PARTS, *MORE_PARTS) if (folder / name).is_file()]
    return {name: sha256_file(folder / name) for name in names}


def require_cases_alone(*folders: Path) -> None:
    """Raise ``OncoduetError`` if ``cases`` holds files by which nnU-Net would choose its reader."""
    for cases in [folder / "cases" for folder in folders]:
        others = sorted(
            path.name for path in (inside(cases) if cases.is_dir() else ()) if path.suffix not in {".b2nd", ".pkl"}
        )
        if others:
            raise OncoduetError(cases, expected="only preprocessed studies", found=f"{others[0]!r}")


def _require_parts(folder: Path, record: PreparedRecord) -> None:
    """Compare each part with the record, so that files of two datasets are never taken for one."""
    if not record.parts:
        raise OncoduetError(
            folder / RECORD,
            "no sha256 of the dataset's other files (written by an older version); "
            "run `prepare` again with another --output",
        )
    for name in (*PARTS, *record.parts):
        path = folder / name
        if not path.is_file():
            raise OncoduetError(path, "part of the dataset not found")
        if sha256_file(path) != record.parts.get(name):
            raise OncoduetError(path, f"does not match the hash in {RECORD}")


def require_folds(path: Path, folds: Sequence[Fold], studies: Sequence[PreparedStudy]) -> None:
    """Refuse splits, edited by hand or not, that would train on what they set apart, or leave studies out.

    Raises ``OncoduetError``: there is no fold; or one trains on no study or sets none apart, names a study that the
    dataset does not have or names it twice, has a patient on both sides, or a study on neither.
    """
    if not folds:
        raise OncoduetError(path, "no folds")
    patient_of = {study.case_id: study.patient_id for study in studies}
    for number, fold in enumerate(folds):
        where = f"{path}: fold {number}"
        for side, cases in (("train", fold.train), ("validation", fold.validation)):
            if not cases:
                raise OncoduetError(where, f"no studies in {side}")
            unknown = sorted(set(cases) - set(patient_of))
            if unknown:
                raise OncoduetError(where, expected=f"studies of {path.parent} in {side}", found=first_few(unknown))
            if doubled := duplicates(cases):
                raise OncoduetError(where, f"duplicate in {side}: {first_few(doubled)}")
        train, validation = ({patient_of[case_id] for case_id in cases} for cases in (fold.train, fold.validation))
        if both := sorted(train & validation):
            raise OncoduetError(where, f"patient on both sides: {first_few(both)}")
        if missing := sorted(set(patient_of) - {*fold.train, *fold.validation}):
            raise OncoduetError(where, f"study neither in train nor in validation: {first_few(missing)}")


def case_files(folder: Path, case_id: str) -> tuple[Path, Path, Path]:
    """Image, label and properties of a preprocessed study."""
    cases = folder / "cases"
    return cases / f"{case_id}.b2nd", cases / f"{case_id}_seg.b2nd", cases / f"{case_id}.pkl"
