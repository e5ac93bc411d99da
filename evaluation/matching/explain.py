"""Why each lesion and each candidate of a case is a hit, a miss, a false positive or ignored, in either answer.

Lesions are L1, L2, …, candidates C1, C2, …, each in raster order of their first voxel, as both matchings number them. A
reason is read off the overlaps and what the matching chose; nothing is matched by other rules here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.matching import picai, strict
from evaluation.matching.cases import Case, Finding, FindingKind, Float64Array, MatchingRule

Answer = Literal["strict", "picai"]

_MATCHING = {"strict": strict, "picai": picai}
_CHOICE: Mapping[Answer, str] = {
    "strict": "which is at least as confident",
    "picai": "which makes the sum of (1 + overlap) over all pairs largest",
}
_MEASURE = {"iou": "IoU", "dice": "Dice"}


@dataclass(frozen=True)
class Item:
    """One lesion or candidate, and what became of it."""

    name: str
    kind: FindingKind
    """Kind of finding; a lesion and its candidate are both ``tp``."""
    confidence: float | None
    """Confidence of a candidate; None for a lesion."""
    volume_ml: float
    overlaps: tuple[tuple[str, float], ...]
    """Overlaps with lesions or candidates that it shares voxels with, the largest first."""
    partner: str | None
    why: str


def explain(case: Case, rule: MatchingRule, *, voxel_volume_ml: float, answer: Answer) -> list[Item]:
    """Explain what became of every lesion, then of every candidate of a case, and why.

    Parameters
    ----------
    case
        One study, ready for matching.
    rule
        Rule of the matching.
    voxel_volume_ml
        Voxel volume of the truth's grid.
    """
    matching = _MATCHING[answer]
    case = strict.cut(case, rule) if answer == "strict" else case
    findings = matching.match(case, rule)
    by_lesion = {each.lesion: each for each in findings if each.lesion is not None}
    by_candidate = {each.candidate: each for each in findings if each.candidate is not None}
    overlap = strict.overlaps(case, rule)  # without picai's epsilon: what is shown
    reached = matching.overlaps(case, rule) >= rule.minimum_overlap
    items = []
    for number, size in enumerate(case.lesions.sizes.tolist()):
        found = by_lesion[number]
        why = _why_lesion(found, overlap[number], np.flatnonzero(reached[number]).tolist(), by_candidate, rule)
        partner = None if found.candidate is None else _candidate(found.candidate)
        overlaps = tuple((_candidate(other), value) for other, value in _shared(overlap[number]))
        items.append(Item(_lesion(number), found.kind, None, size * voxel_volume_ml, overlaps, partner, why))
    for number, size in enumerate(case.candidates.sizes.tolist()):
        found = by_candidate[number]
        lesions = np.flatnonzero(reached[:, number]).tolist()
        why = _why_candidate(found, overlap[:, number], lesions, by_lesion, rule=rule, choice=_CHOICE[answer])
        partner = None if found.lesion is None else _lesion(found.lesion)
        overlaps = tuple((_lesion(other), value) for other, value in _shared(overlap[:, number]))
        volume_ml = size * voxel_volume_ml
        items.append(Item(_candidate(number), found.kind, found.confidence, volume_ml, overlaps, partner, why))
    return items


def _why_lesion(
    found: Finding, overlap: Float64Array, reaching: list[int], by_candidate: Mapping[int, Finding], rule: MatchingRule
) -> str:
    if found.candidate is not None:
        return f"hit by {_candidate(found.candidate)}: {_amount(overlap[found.candidate], rule)}"
    if not reaching:
        return _why_nobody("candidate", [(_candidate(other), value) for other, value in _shared(overlap)], rule)
    elsewhere = [(c, by_candidate[c].lesion) for c in reaching]
    return "; ".join(
        f"{_candidate(c)} reaches it ({_amount(overlap[c], rule)}), but hits {_lesion(lesion)}"
        for c, lesion in elsewhere
        if lesion is not None
    )


def _why_candidate(
    found: Finding,
    overlap: Float64Array,
    reached: list[int],
    by_lesion: Mapping[int, Finding],
    *,
    rule: MatchingRule,
    choice: str,
) -> str:
    if found.lesion is not None:
        return f"hits {_lesion(found.lesion)}: {_amount(overlap[found.lesion], rule)}"
    if not reached:
        return _why_nobody("lesion", [(_lesion(other), value) for other, value in _shared(overlap)], rule)
    taken = [(lesion, by_lesion[lesion]) for lesion in reached]
    return "; ".join(
        f"reaches {_lesion(lesion)} ({_amount(overlap[lesion], rule)}), but that is hit by "
        f"{_candidate(other.candidate)} ({other.confidence:g}), {choice}"
        for lesion, other in taken
        if other.candidate is not None
    )


def _why_nobody(other_side: str, shared: list[tuple[str, float]], rule: MatchingRule) -> str:
    if not shared:
        return f"shares no voxel with a {other_side}"
    name, value = shared[0]
    return f"the nearest {other_side} is {name}: {_amount(value, rule)}, less than {rule.minimum_overlap:g}"


def _shared(overlap: Float64Array) -> list[tuple[int, float]]:
    """Numbers and overlaps of those with any, the largest first."""
    order = np.argsort(-overlap, kind="stable")
    return [(int(other), float(overlap[other])) for other in order if overlap[other] > 0]


def _amount(overlap: float, rule: MatchingRule) -> str:
    return f"{_MEASURE[rule.overlap]} {overlap:.3f}"


def _lesion(number: int) -> str:
    return f"L{number + 1}"


def _candidate(number: int) -> str:
    return f"C{number + 1}"
