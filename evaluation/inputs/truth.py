"""The truth folder: a label map per case, and optionally the card and the settings of the scoring.

Label maps are ``CASE.nii.gz`` or ``CASE.mha``, directly in the folder or in ``labels/`` (an archive). Where names end
in ``_label`` (picai-eval's convention), that is no part of the case id. The ids found here are the full list: a case
without a prediction is missing, a prediction without a case is a mistake, and each study that a ``marksheet.csv`` here
names has a label map. Their contents are kept in an index (:mod:`evaluation.inputs.truth_index`), built on first use.

Only the truth, or the caller, decides which card scores: ``card.toml``, the card that ``settings.json`` names, or the
project's card that an archive's ``archive.json`` was made for.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from contract.archive.duplicates import say_alike
from contract.archive.marksheet import read_marksheet
from contract.archive.patients import FILE as PATIENTS
from contract.archive.patients import PatientRule, patients_by_case, read_patients
from contract.card import Card, card_names, load_card
from contract.errors import OncoduetError
from contract.files.case_folders import case_name, require_none_below
from contract.files.reading import read_json, sha256_file, sha256_json
from contract.images.volume import is_image
from contract.schema import Frozen, parse
from contract.text import first_few
from evaluation.inputs.case_files import folders_of_patients, images_by_case
from evaluation.inputs.truth_index import INDEX, Encode, TruthIndex, open_index, write_index
from evaluation.masks.sparse_image import read_label_map
from evaluation.matching.cases import LesionTruth, MatchingRule, truth_of

BASELINES = "baselines"
"""Folder of frozen baselines in the truth folder (:mod:`evaluation.index`)."""

MARKSHEET = "marksheet.csv"

OnMissing = Literal["error", "worst"]

_log = logging.getLogger(__name__)


class Settings(Frozen):
    """``settings.json`` in the truth folder: options of an evaluation on the platform, which has no command line."""

    card: str | None = None
    """Name of a card that comes with the project."""
    per_case: bool = False
    """Whether the platform's run writes per-case rows, which reveal the truth."""
    on_missing: OnMissing = "error"
    """How the platform's run treats a case without a prediction."""
    exact: bool = False
    """Whether the platform's run shows exact figures, picai's too; hidden labels can be inferred from them."""
    patients: PatientRule | None = None
    """Patient of each case, where the ids are ambiguous and there is no ``patients.csv``."""
    few_patients: bool = False
    """Whether baselines are compared over fewer patients than otherwise required."""


@dataclass(frozen=True)
class TruthFolder:
    """The hidden side of an evaluation."""

    folder: Path
    label_maps: Mapping[str, Path]
    """Label maps by case id, in the order of the ids."""
    card: Card | None
    settings: Settings
    named_patients: Mapping[str, str]
    """Patients by case id, from ``patients.csv``."""
    known_patients: Mapping[str, str]
    """Patients by case id, from the marksheet or the folders of an archive."""
    marksheet: Path | None = None

    def case(self, case_id: str, rule: MatchingRule) -> LesionTruth:
        """One case's truth, from the index; it is not kept in memory."""
        path = self.label_maps[case_id]
        return truth_of(path, self._index.read(self.sha256_of[case_id]) or read_label_map(path), rule)

    def open_index(self, encode: Encode) -> None:
        """Open the index now, and read what it lacks as is told."""
        self.__dict__.setdefault("_index", open_index(self.folder, self._by_sha256, encode=encode))

    def elsewhere(self, case_id: str) -> "CaseOfTruth":
        """One case's truth for another process to read."""
        return CaseOfTruth(self.label_maps[case_id], self.sha256_of[case_id], self._index.path)

    def patients(self, said: tuple[Mapping[str, str], PatientRule | None] = ({}, None)) -> dict[str, str]:
        """The patient of every case.

        Parameters
        ----------
        said
            What ``--patients`` says (:func:`contract.archive.patients.parse_patients_option`): patients by case id, or
            a rule that counts before what the folder says.

        Raises
        ------
        OncoduetError
            The ids are ambiguous, and no patients are given, or a table names only some of the studies of one.
        """
        given, rule = said
        return patients_by_case(
            self.label_maps,
            given={} if rule else {**self.named_patients, **given},
            folders={} if rule else self.known_patients,
            rule=rule or self.settings.patients,
            source=self.folder,
        )

    def label_values(self) -> set[int]:
        """All values but 0 that the label maps hold."""
        maps = ((path, self._index.read(self.sha256_of[case_id])) for case_id, path in self.label_maps.items())
        return {int(value) for path, known in maps for value in set((known or read_label_map(path)).labels.values)}

    def say_alike(self) -> None:
        """Warn of cases with the same label map, unless empty."""
        maps = {case_id: self._index.content(sha256) for case_id, sha256 in self.sha256_of.items()}
        contents = {case_id: content for case_id, content in maps.items() if content is not None}
        say_alike(self.folder, contents, "cases {} and {} have the same label map: one study, or two?")

    def sha256(self) -> str:
        """Hash of all label maps' bytes, by case id."""
        return sha256_json(dict(self.sha256_of))

    def write_index(self) -> Path:
        """Rebuild the index and return its path.

        Raises
        ------
        OncoduetError
            A label map cannot be read, or the folder cannot be written to.
        """
        write_index(self.folder, self._by_sha256)
        return self.folder / INDEX

    @cached_property
    def sha256_of(self) -> Mapping[str, str]:
        """Hash of each label map's bytes, by case id."""
        return {case_id: sha256_file(path) for case_id, path in self.label_maps.items()}

    @cached_property
    def _by_sha256(self) -> Mapping[str, Path]:
        return {self.sha256_of[case_id]: path for case_id, path in self.label_maps.items()}

    @cached_property
    def _index(self) -> TruthIndex:
        return open_index(self.folder, self._by_sha256)


@dataclass(frozen=True)
class CaseOfTruth:
    """Where the truth of a case is; nothing of it is read yet."""

    label_map: Path
    sha256: str
    index: Path | None
    """None: only in another process's memory."""

    def read(self, rule: MatchingRule) -> LesionTruth:
        """As :meth:`TruthFolder.case`."""
        known = None if self.index is None else _opened(self.index).read(self.sha256)
        return truth_of(self.label_map, known or read_label_map(self.label_map), rule)


@cache
def _opened(index: Path) -> TruthIndex:
    return TruthIndex(index)


def find_truth(folder: Path) -> TruthFolder:
    """List a truth folder.

    Raises
    ------
    OncoduetError
        There is no folder or no label map in it; label maps are both in the folder and in ``labels/``, or below;
        a case has two, or one whose name or ending is not as the others'; the marksheet names a case without; the
        card, the settings, the marksheet or the patients are faulty.
    """
    if not folder.is_dir():
        raise OncoduetError(folder, "folder of label maps not found")
    inner = folder / "labels"
    places = [place for place in (folder, inner) if place.is_dir() and any(is_image(path) for path in place.iterdir())]
    if len(places) > 1:
        raise OncoduetError(folder, "label maps both in the folder and in labels/")
    if not places:
        raise OncoduetError(folder, "no label maps (CASE.nii.gz or CASE.mha)")
    files = {
        name: next((place / name for place in (places[0], folder) if (place / name).is_file()), None)
        for name in ("settings.json", "card.toml", "archive.json", MARKSHEET, PATIENTS)
    }
    label_maps = images_by_case(places[0], "_label", neighbour="_detection_map")
    require_none_below(places[0], label_maps, asked=None, skip=BASELINES)
    settings = files["settings.json"]
    given = parse(read_json(settings), Settings, settings) if settings else Settings()
    return TruthFolder(
        folder=folder,
        label_maps=label_maps,
        card=_card(files["card.toml"], given, files["archive.json"]),
        settings=given,
        named_patients=_patients_named(files[PATIENTS]),
        known_patients={
            **(folders_of_patients(folder, label_maps) if places[0] == inner else {}),
            **_patients_of_marksheet(files[MARKSHEET], label_maps),
        },
        marksheet=files[MARKSHEET],
    )


def _card(own: Path | None, settings: Settings, archive: Path | None) -> Card | None:
    if own is not None:
        return load_card(own)
    if settings.card is not None:
        return load_card(settings.card)
    record = read_json(archive) if archive is not None else None
    if not isinstance(record, dict) or record.get("card") not in card_names():
        return None
    name = str(record["card"])
    card = load_card(name)
    if record.get("card_sha256", card.sha256) != card.sha256:
        _log.warning(
            "%s: made with another version of the card %s, which is therefore not used for scoring", archive, name
        )
        return None
    return card


def _patients_of_marksheet(path: Path | None, label_maps: Mapping[str, Path]) -> dict[str, str]:
    if path is None:
        return {}
    _, rows = read_marksheet(path, ())
    unlabelled = [case_id for case_id in rows if case_id not in label_maps]
    if unlabelled:
        raise OncoduetError(path, f"no label map for {first_few(unlabelled, 1)} of its {len(rows)} cases")
    return {case_id: row["patient_id"] for case_id, row in rows.items()}


def _patients_named(path: Path | None) -> dict[str, str]:
    return {} if path is None else {case_name(case_id): patient for case_id, patient in read_patients(path).items()}
