"""The truth folder: a label map per case, and optionally the card and the settings that score them.

Label maps are ``CASE.nii.gz`` or ``CASE.mha``, directly in the folder or in ``labels/``. Where some names end in
``_label`` (picai-eval's convention), those files are meant and the ending is no part of the case id. The ids found here
are the full list: a case without a prediction is missing, a prediction without a case is a mistake. What the label maps
hold is kept in an index beside them (:mod:`evaluation.truth_index`), made on first use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from contract.cards import Card, Frozen, load_card, parse
from contract.errors import OncoduetError
from contract.files import read_json, sha256_file, sha256_json
from contract.names import require_case_id
from contract.volume import image_stem, is_image
from evaluation.cases import MatchingRule, Truth, truth_of
from evaluation.sparse import read_label_map
from evaluation.truth_index import INDEX, TruthIndex, open_index, write_index

BASELINES = "baselines"
"""Folder of frozen baselines beside the label maps (:mod:`evaluation.baseline`)."""

OnMissing = Literal["error", "worst"]


class Settings(Frozen):
    """``settings.json`` in the truth folder: what an evaluation on the platform cannot be told on its command line."""

    card: str | None = None
    """Name of a card that comes with the project."""
    per_case: bool = False
    """Whether the platform's run writes per-case rows, which tell what the truth is."""
    on_missing: OnMissing = "error"
    """What the platform's run does about a case without a prediction."""


@dataclass(frozen=True)
class TruthFolder:
    """The hidden side of an evaluation."""

    folder: Path
    label_maps: Mapping[str, Path]
    """By case id, in the order of the ids."""
    card: Card | None
    settings: Settings

    def case(self, case_id: str, rule: MatchingRule) -> Truth:
        """One case's truth, from the index; nothing of it is kept."""
        path = self.label_maps[case_id]
        return truth_of(path, self._index.read(self._sha256[case_id]) or read_label_map(path), rule)

    def sha256(self) -> str:
        """Hash of all label maps' bytes, by case id."""
        return sha256_json(dict(self._sha256))

    def write_index(self) -> Path:
        """Make the index anew, whatever there is, and say where it is.

        Raises
        ------
        OncoduetError
            A label map cannot be read, or the folder cannot be written to.
        """
        write_index(self.folder, self._by_sha256)
        return self.folder / INDEX

    @cached_property
    def _sha256(self) -> Mapping[str, str]:
        return {case_id: sha256_file(path) for case_id, path in self.label_maps.items()}

    @cached_property
    def _by_sha256(self) -> Mapping[str, Path]:
        return {self._sha256[case_id]: path for case_id, path in self.label_maps.items()}

    @cached_property
    def _index(self) -> TruthIndex:
        return open_index(self.folder, self._by_sha256)


def find_truth(folder: Path) -> TruthFolder:
    """List a truth folder.

    Raises
    ------
    OncoduetError
        There is no folder or no label map in it; label maps lie both in the folder and in ``labels/``; a case has two;
        the card or the settings are faulty.
    """
    if not folder.is_dir():
        raise OncoduetError(f"{folder}: expected a folder of label maps, found none")
    inner = folder / "labels"
    places = [place for place in (folder, inner) if place.is_dir() and any(is_image(path) for path in place.iterdir())]
    if len(places) > 1:
        raise OncoduetError(f"{folder}: expected label maps directly in it or in labels/, found both")
    if not places:
        raise OncoduetError(f"{folder}: expected label maps (CASE.nii.gz or CASE.mha), found none")
    settings = folder / "settings.json"
    given = parse(read_json(settings), Settings, settings) if settings.is_file() else Settings()
    card = folder / "card.toml"
    return TruthFolder(
        folder=folder,
        label_maps=images_by_case(places[0], "_label"),
        card=load_card(card) if card.is_file() else load_card(given.card) if given.card else None,
        settings=given,
    )


def images_by_case(folder: Path, ending: str) -> dict[str, Path]:
    """Images of a folder by case id; where some names end in ``ending``, only those, and without it.

    Raises
    ------
    OncoduetError
        Two images have the same case id.
    """
    images = [(image_stem(path), path) for path in sorted(folder.iterdir()) if is_image(path)]
    if any(stem.endswith(ending) for stem, _ in images):
        images = [(stem.removesuffix(ending), path) for stem, path in images if stem.endswith(ending)]
    found: dict[str, Path] = {}
    for case_id, path in images:
        if case_id in found:
            raise OncoduetError(
                f"{folder}: expected one image of {case_id}, found {found[case_id].name} and {path.name}"
            )
        found[require_case_id(case_id, path)] = path
    return dict(sorted(found.items()))
