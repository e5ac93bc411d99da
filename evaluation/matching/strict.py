"""Strict matching: the most confident candidates first, and as many lesions as possible at every threshold.

A candidate may take a lesion when their overlap, unrounded, reaches the rule's minimum. Candidates are visited by
descending confidence; one is accepted when the accepted ones can be rearranged so that each still has a lesion of its
own (an augmenting path). Hence the accepted candidates above any threshold are a largest matching of all candidates
above it: a weak candidate never displaces a strong one, and raising the threshold never uncovers a lost lesion.

Before that, candidates are cut at links narrower than the rule allows: guesses joined by a line are several guesses.
Threads of combs and nets reach no lesion. Only the order of confidences counts, so coding a rank in them gains
nothing.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from evaluation.masks.components import intersections, without_narrow_links, without_threads
from evaluation.matching.assignment import assign
from evaluation.matching.cases import Case, Finding, FindingKind, Float64Array, MatchingRule


def match(case: Case, rule: MatchingRule) -> tuple[Finding, ...]:
    """Match candidates with lesions: hits by lesion, then missed lesions, false positives, ignored candidates.

    Candidates that reach a lesion which others have are ignored: they are neither hits nor false positives. Their
    numbers are those of :func:`cut`.
    """
    case = cut(case, rule)
    return match_by(case, overlaps(case, rule), rule.minimum_overlap)


def match_by(case: Case, overlap: Float64Array, minimum: float) -> tuple[Finding, ...]:
    """Match the candidates of a case that is already cut, by overlaps of shape (lesions, candidates)."""
    reachable: npt.NDArray[np.bool_] = overlap >= minimum
    best = overlap.max(axis=0, initial=0.0)
    accepted = accept(reachable, case.confidences, best)
    pairs = pair(overlap, reachable, accepted)
    confidences = case.confidences
    hits = [Finding("tp", float(confidences[c]), float(overlap[lesion, c]), lesion, c) for lesion, c in pairs]
    hit_lesions = {lesion for lesion, _ in pairs}
    missed = [
        Finding("fn", 0.0, float(overlap[lesion].max(initial=0.0)), lesion)
        for lesion in range(len(case.lesions))
        if lesion not in hit_lesions
    ]
    touching = set(np.flatnonzero(reachable.any(axis=0)).tolist())
    others = [c for c in range(len(confidences)) if c not in set(accepted)]
    unmatched: tuple[tuple[FindingKind, list[int]], ...] = (
        ("fp", [c for c in others if c not in touching]),
        ("ignored", [c for c in others if c in touching]),
    )
    left = [Finding(kind, float(confidences[c]), float(best[c]), candidate=c) for kind, some in unmatched for c in some]
    return (*hits, *missed, *left)


def cut(case: Case, rule: MatchingRule) -> Case:
    """The case with its candidates cut at narrow links; each part is as confident as the whole was."""
    candidates, origin = without_narrow_links(case.candidates, rule.narrowest_link)
    return (
        case
        if candidates is case.candidates
        else replace(case, candidates=candidates, confidences=case.confidences[origin])
    )


def overlaps(case: Case, rule: MatchingRule) -> Float64Array:
    """Overlap of each lesion with each candidate in [0, 1], shape (lesions, candidates): IoU or Dice.

    What a candidate of lines, combs or nets shares with a lesion by its threads is no overlap.
    """
    shared = intersections(case.lesions, without_threads(case.candidates, rule.narrowest_link))
    sizes = case.lesions.sizes[:, None] + case.candidates.sizes[None, :]
    ratio: Float64Array = 2 * shared / sizes if rule.overlap == "dice" else shared / (sizes - shared)
    return ratio


def accept(reachable: npt.NDArray[np.bool_], confidences: Float64Array, best_overlaps: Float64Array) -> list[int]:
    """Candidates that get a lesion, most confident first; ties go to the larger best overlap, then the lower number.

    Parameters
    ----------
    reachable
        Whether a candidate may take a lesion, shape (lesions, candidates).
    confidences, best_overlaps
        Confidence and largest overlap of each candidate.
    """
    holder: dict[int, int] = {}  # candidate by lesion

    def place(candidate: int, tried: set[int]) -> bool:
        for lesion in np.flatnonzero(reachable[:, candidate]).tolist():
            if lesion in tried:
                continue
            tried.add(lesion)
            if lesion not in holder or place(holder[lesion], tried):
                holder[lesion] = candidate
                return True
        return False

    order = sorted(range(len(confidences)), key=lambda c: (-confidences[c], -best_overlaps[c], c))
    return [candidate for candidate in order if place(candidate, set())]


def pair(overlap: Float64Array, reachable: npt.NDArray[np.bool_], accepted: list[int]) -> list[tuple[int, int]]:
    """Give every accepted candidate a lesion it may take, with the largest total overlap; (lesion, candidate) pairs."""
    forbidden = -1.0 - len(accepted)  # outweighs the sum of all overlaps
    allowed = reachable[:, accepted]
    gain = np.where(allowed, overlap[:, accepted], forbidden)
    return [(lesion, accepted[place]) for lesion, place in assign(gain, allowed)]
