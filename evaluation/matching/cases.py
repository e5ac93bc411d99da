"""A case: one study's detection map and truth, checked, and the findings after matching.

The strict reading refuses everything that would make a score meaningless: another grid, values outside [0, 1], a
softmax map in place of a detection map. The lenient reading refuses only what picai-eval 1.4.13 cannot score either.
"""

import logging
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.reading import read_json, sha256_json
from contract.images.grid import Grid, require_same_grid
from contract.images.plausible_extent import doubt_of_lesions
from contract.images.probability import ROUNDING, as_probabilities
from evaluation.masks.components import Components, ScatteredError, connect
from evaluation.masks.sizes import Size
from evaluation.masks.sparse_image import Foreground, LabelMap, open_image, read_confidences

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
FindingKind = Literal["tp", "fp", "fn", "ignored"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MatchingRule:
    """Which label values are lesions, and when a candidate hits one."""

    lesion_values: tuple[int, ...] | None = None
    """Label values that are lesions; absent: every value but 0."""
    label_values: tuple[int, ...] | None = None
    """Values that a label map may hold; absent: any."""
    overlap: Literal["iou", "dice"] = "iou"
    minimum_overlap: float = 0.1
    most_candidates: int = 2_000
    """Most candidates of one case; strict refuses more."""
    narrowest_link: int = 3
    """Narrowest link in voxels; strict cuts candidates at narrower ones."""
    organ_values: tuple[int, ...] = field(default=(), compare=False)
    """Values of the organ around the lesions, by which a doubtful truth is recognised; no score depends on them."""

    @staticmethod
    def of(card: Card | None) -> "MatchingRule":
        """The card's rule; without a card any non-zero label is lesion, and IoU ≥ 0.1 is a hit."""
        if card is None:
            return MatchingRule()
        return MatchingRule(
            lesion_values=card.lesion_values,
            label_values=tuple(card.label_values),
            overlap=card.matching.overlap,
            minimum_overlap=card.matching.minimum_overlap,
            most_candidates=card.matching.most_candidates,
            narrowest_link=card.matching.narrowest_link_voxels,
            organ_values=card.organ_values,
        )

    @property
    def sha256(self) -> str:
        """Hash of the rule, recorded with the scores."""
        return sha256_json({name: value for name, value in asdict(self).items() if name != "organ_values"})

    def reads_alike(self, other: "MatchingRule", label_values: Collection[int]) -> bool:
        """Whether a truth with these label values is scored the same by both rules."""
        values = set(label_values) - {0}
        lesions = [values if rule.lesion_values is None else values & set(rule.lesion_values) for rule in (self, other)]
        known = all(rule.label_values is None or values <= set(rule.label_values) for rule in (self, other))
        mine, theirs = (replace(rule, lesion_values=None, label_values=None) for rule in (self, other))
        return known and lesions[0] == lesions[1] and mine == theirs


@dataclass(frozen=True)
class LesionTruth:
    """Truth of one study."""

    path: Path
    grid: Grid
    lesions: Components


@dataclass(frozen=True)
class PredictionFiles:
    """The files of one study's prediction."""

    detection_map: Path
    likelihood: Path | None
    """JSON file with the case likelihood; absent: the maximum of the detection map counts."""


@dataclass(frozen=True)
class Case:
    """One study, ready for matching."""

    lesions: Components
    candidates: Components
    confidences: Float64Array
    """Confidence of each candidate: its largest voxel."""
    map_maximum: np.float32
    likelihood: float
    """Value by which strict ranks the case."""


@dataclass(frozen=True)
class Finding:
    """One lesion or candidate after matching."""

    kind: FindingKind
    """``tp``: a lesion and its candidate; ``fn``: a missed lesion; ``fp``: a candidate on no lesion; ``ignored``: a
    candidate on a lesion that another candidate has."""
    confidence: float
    """Confidence of the candidate; 0 for a missed lesion."""
    overlap: float
    """Overlap, for ``tp`` of the two with each other; else (strict) the largest with anything, (picai) 0."""
    lesion: int | None = None
    """Number of the lesion, for ``tp`` and ``fn``."""
    candidate: int | None = None
    """Number of the candidate, for all but ``fn``."""


@dataclass(frozen=True)
class ScoredCase:
    """One study after matching."""

    case_id: str
    positive: bool
    likelihood: float
    findings: tuple[Finding, ...]
    missing: bool = False
    sizes: tuple[Size, ...] = ()
    """Sizes of its lesions, by their number; empty unless asked for."""


def truth_of(path: Path, label_map: LabelMap, rule: MatchingRule) -> LesionTruth:
    """Find the lesions of a label map: 26-connected components of the card's lesion values.

    Lesions of an implausible size are warned of.

    Raises
    ------
    OncoduetError
        The map holds values that the card does not know.
    """
    labels = label_map.labels
    if rule.label_values is not None:
        known = sorted(set(rule.label_values))
        unknown = sorted({*np.unique(labels.values).tolist(), *([0] if labels.has_background else [])} - set(known))
        if unknown:
            raise OncoduetError(path, expected=f"label values {known}", found=unknown)
    voxels = labels.voxels
    if rule.lesion_values is not None:
        voxels = voxels[np.isin(labels.values, rule.lesion_values)]
    organ = int(np.isin(labels.values, rule.organ_values).sum())
    doubt = doubt_of_lesions(lesion=voxels.size, organ=organ, image=math.prod(labels.shape_zyx))
    if doubt is not None:
        _log.warning("%s: %s", path, doubt)
    return LesionTruth(path, label_map.grid, _connected(path, voxels, labels.shape_zyx))


def read_case(
    prediction: PredictionFiles, truth: LesionTruth, *, most_candidates: int = MatchingRule.most_candidates
) -> Case:
    """Read a detection map and its likelihood by the strict rules.

    Raises
    ------
    OncoduetError
        The map is unreadable, not 3D, not finite, on another grid than the truth, has values outside [0, 1], more
        candidates than are allowed, or a candidate with more than one value (a softmax map); the likelihood is not a
        number in [0, 1].
    """
    path = prediction.detection_map
    image = open_image(path)
    require_same_grid(image.grid, truth.grid, found_name=str(path), expected_name=str(truth.path))
    confidence = _in_range(path, read_confidences(image))
    high = float(_limits(confidence)[1])
    candidates = _connected(path, confidence.voxels, confidence.shape_zyx)
    if len(candidates) > most_candidates:
        raise OncoduetError(
            path, expected=f"at most {most_candidates} candidates (the card's most_candidates)", found=len(candidates)
        )
    least, largest = _extremes(confidence, candidates)
    uneven = np.flatnonzero(least != largest)
    if uneven.size:
        raise OncoduetError(
            path,
            expected="a detection map (one confidence per connected candidate)",
            found=(
                f"{uneven.size} of {len(candidates)} candidates with several, such as {least[uneven[0]]:g} "
                f"and {largest[uneven[0]]:g}; cut a softmax map into candidates first"
            ),
        )
    likelihood = high if prediction.likelihood is None else read_likelihood(prediction.likelihood)
    return Case(truth.lesions, candidates, largest, np.float32(high), likelihood)


def read_case_as_picai_eval(prediction: PredictionFiles, truth: LesionTruth) -> Case:
    """Read a detection map as leniently as picai-eval does: no geometry, values above 1, missing slices padded.

    Raises
    ------
    OncoduetError
        What picai-eval raises for, or cannot score: NaN or infinite voxels, negative values, fewer components than
        values, another shape than the truth's where there is a lesion.
    """
    path = prediction.detection_map
    confidence = read_confidences(open_image(path))
    shape = truth.grid.shape_zyx
    if confidence.shape_zyx[0] < shape[0]:
        confidence = confidence.centred(shape)
    if len(truth.lesions) and confidence.shape_zyx != shape:
        raise OncoduetError(path, expected=f"the shape of {truth.path}, {shape} (z, y, x)", found=confidence.shape_zyx)
    low, high = _limits(confidence)
    if low < 0:
        raise OncoduetError(path, expected="no negative confidence", found=f"{low:g}")
    candidates = _connected(path, confidence.voxels, confidence.shape_zyx)
    values = np.unique(confidence.values).size
    if len(candidates) < values:
        raise OncoduetError(
            path, expected="a detection map", found=f"a softmax map: {len(candidates)} components with {values} values"
        )
    _, largest = _extremes(confidence, candidates)
    return Case(truth.lesions, candidates, largest, high, float(high))


LONGEST_LIKELIHOOD = 1000
"""Bytes of a file that holds one number."""


def read_likelihood(path: Path) -> float:
    """Read a case likelihood: a bare JSON number in [0, 1], not text, Boolean or NaN."""
    value: Any = read_json(path, most_bytes=LONGEST_LIKELIHOOD)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -ROUNDING <= value <= 1 + ROUNDING:
        raise OncoduetError(path, expected="a likelihood, a number in [0, 1]", found=f"{str(value)[:60]!r}")
    return float(as_probabilities(np.array([float(value)]), source=path, what="a likelihood")[0])


def _in_range(path: Path, confidence: Foreground) -> Foreground:
    """Confidences in [0, 1]; see ``contract.images.probability``."""
    values = confidence.values.astype(np.float32, copy=False)
    whole = np.append(values, np.zeros(int(confidence.has_background), dtype=np.float32))
    kept = as_probabilities(whole, source=path, what="confidences")[: values.size]
    return Foreground(confidence.shape_zyx, confidence.voxels[kept != 0], kept[kept != 0])


def _connected(path: Path, voxels: Int64Array, shape_zyx: tuple[int, int, int]) -> Components:
    try:
        return connect(voxels, shape_zyx)
    except ScatteredError as error:
        raise OncoduetError(path, f"{error}: too scattered for a lesion map") from None


def _limits(confidence: Foreground) -> tuple[np.float32, np.float32]:
    """Smallest and largest voxel of the whole image."""
    values = np.append(confidence.values, np.zeros(int(confidence.has_background), dtype=np.float32))
    return np.float32(values.min()), np.float32(values.max())


def _extremes(confidence: Foreground, candidates: Components) -> tuple[Float64Array, Float64Array]:
    """Smallest and largest value of each candidate."""
    least, largest = np.full(len(candidates), np.inf), np.full(len(candidates), -np.inf)
    values = confidence.values.astype(np.float64)
    np.minimum.at(least, candidates.owners, values)
    np.maximum.at(largest, candidates.owners, values)
    return least, largest
