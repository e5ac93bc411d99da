"""Lesion candidates: which parts of a probability map are findings, and how confident each is.

A candidate is a 26-connected component of voxels at or above a threshold, with the peak inside it as its confidence.
The rules differ in how thresholds are found. They are those of Report-Guided Annotation (Bosma et al., Radiology: AI
2023; report_guided_annotation 0.3.4) and give its results bit for bit:

=============  ======================================================================================================
a number       one threshold, as given
dynamic-fast   one threshold: the map's peak / 2.5
dynamic        the highest peak's component at peak / 2.5 becomes a candidate and is removed; again, until enough are
               found or the peak falls below 0.01; a candidate that touches an earlier one is dropped
dynamic-v2     the same without the defect below
=============  ======================================================================================================

Defect of ``dynamic``, kept since published results have it: when all components at the threshold are too small, the
search ends, and if that happens first, the answer is one candidate of confidence 0 that fills the image. A lesion of
144 voxels at 0.30 beside a single voxel at 0.90 is lost. ``dynamic-v2`` removes the small ones and goes on.

Thresholds are computed in the map's own precision, as the reference does: float32 maps stay float32.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.cards import CandidateRule, Card
from contract.volume import Float32Array, LabelArray, Volume

PEAK_FRACTION = 2.5
"""A candidate reaches out to its peak divided by this."""
LOWEST_PEAK = 0.01
"""The dynamic rules stop below this peak."""

_TOUCHING = np.ones((3, 3, 3), dtype=bool)
Rule = CandidateRule | float
Probability = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Candidate:
    """One predicted lesion: a connected component with one confidence."""

    label: int  # value in the component map; from 1, with gaps where components were too small
    confidence: float  # the peak inside
    volume_ml: float


@dataclass(frozen=True)
class Extraction:
    """The candidates of one study and where they are."""

    candidates: tuple[Candidate, ...]
    components: LabelArray  # shape (z, y, x), 0 outside of candidates


def extract_candidates(
    probability: Probability,
    *,
    rule: Rule,
    voxel_volume_ml: float,
    maximum: int = 5,
    minimum_voxels: int = 11,
) -> Extraction:
    """Cut lesion candidates from a probability map.

    Parameters
    ----------
    probability
        Shape (z, y, x); negative values (cubic resampling makes some) count as 0.
    rule
        A rule's name, or a threshold.
    maximum
        Most candidates that the two dynamic searches look for; ``dynamic-fast`` and a threshold have no such limit.
    minimum_voxels
        Smaller components are no candidates.
    """
    clipped = np.maximum(probability, probability.dtype.type(0))
    if rule in ("dynamic", "dynamic-v2"):
        found, components = _search(
            clipped, maximum=maximum, minimum_voxels=minimum_voxels, skip_small=rule == "dynamic-v2"
        )
    else:
        threshold = float(clipped.max() / PEAK_FRACTION) if rule == "dynamic-fast" else float(rule)
        found, components = _at_threshold(clipped, threshold, minimum_voxels)
    voxels = np.bincount(components.ravel())
    candidates = tuple(
        Candidate(label=label, confidence=peak, volume_ml=float(voxels[label]) * voxel_volume_ml)
        for label, peak in found
    )
    return Extraction(candidates, components)


def detection_map(extraction: Extraction) -> Float32Array:
    """Paint each candidate with its confidence; 0 elsewhere."""
    confidence_of = np.zeros(int(extraction.components.max(initial=0)) + 1, dtype=np.float32)
    for candidate in extraction.candidates:
        confidence_of[candidate.label] = candidate.confidence
    return confidence_of[extraction.components]


def card_candidates(card: Card, probability: Volume) -> Extraction:
    """Candidates by the card's rule."""
    return extract_candidates(
        np.asarray(probability.array, dtype=np.float32),
        rule=card.candidates.rule,
        voxel_volume_ml=probability.grid.voxel_volume_ml,
        maximum=card.candidates.maximum,
        minimum_voxels=card.candidates.minimum_voxels,
    )


def case_likelihood(card: Card, detections: Float32Array, probability: Float32Array) -> float:
    """Likelihood that the study shows a lesion: the detection map's maximum.

    Without any candidate (or with the empty one of ``dynamic``) the card decides: 0, or the probability's maximum, so
    that such studies still rank among themselves.
    """
    highest = float(detections.max())
    if highest > 0 or card.candidates.case_likelihood_without_candidate == "zero":
        return highest
    return float(max(probability.max(), 0.0))


def _at_threshold(
    probability: Probability, threshold: float | np.floating, minimum_voxels: int
) -> tuple[list[tuple[int, float]], LabelArray]:
    """Components of at least the minimum size at or above a threshold: (label, peak) each, and the component map."""
    mask = (probability >= threshold) & (probability > 0)
    components = np.zeros(probability.shape, dtype=np.int32)
    box = _bounding_box(mask)
    if box is None:
        return [], components
    labelled, count = ndimage.label(mask[box], structure=_TOUCHING)
    large = _large(labelled, count, minimum_voxels)
    peaks = ndimage.maximum(probability[box], labels=labelled, index=np.arange(1, count + 1))
    components[box] = np.where(large[labelled], labelled, 0)
    return [(label, float(peaks[label - 1])) for label in range(1, count + 1) if large[label]], components


def _search(
    probability: Probability, *, maximum: int, minimum_voxels: int, skip_small: bool
) -> tuple[list[tuple[int, float]], LabelArray]:
    """The dynamic rules: one candidate after the other, by falling peak."""
    components = np.zeros(probability.shape, dtype=np.int32)
    box = _bounding_box(probability >= LOWEST_PEAK / PEAK_FRACTION * 0.99)  # nothing below is ever looked at
    if box is None:
        return [], components
    remaining = probability[box].copy()
    accepted = np.zeros(remaining.shape, dtype=np.int32)
    grown = np.zeros(remaining.shape, dtype=bool)
    found: list[tuple[int, float]] = []
    while len(found) < maximum:
        highest = remaining.max()
        if highest < LOWEST_PEAK:
            break
        threshold = highest / remaining.dtype.type(PEAK_FRACTION)
        labelled, count = ndimage.label(remaining >= threshold, structure=_TOUCHING)
        large = _large(labelled, count, minimum_voxels)[1:]
        if not large.any():
            if skip_small:
                remaining[remaining > threshold] = 0
                continue
            if not found:
                return [(1, 0.0)], np.ones(probability.shape, dtype=np.int32)
            break
        peaks = np.where(large, ndimage.maximum(remaining, labels=labelled, index=np.arange(1, count + 1)), -1)
        component = labelled == 1 + int(np.argmax(peaks))  # ties: the first in the order of voxels
        if not grown[component].any():
            found.append((1 + len(found), float(peaks.max())))
            accepted[component] = len(found)
            grown |= ndimage.binary_dilation(component, structure=_TOUCHING)
        remaining[component] = 0
    components[box] = accepted
    return found, components


def _large(labelled: npt.NDArray[np.integer], count: int, minimum_voxels: int) -> npt.NDArray[np.bool_]:
    """Whether each label from 0 on is a component of at least the minimum size; false for the background."""
    large = np.bincount(labelled.ravel(), minlength=count + 1) >= minimum_voxels
    large[0] = False
    return large


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Smallest box around the true voxels, or None where there is none."""
    box = []
    for axis in range(mask.ndim):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not inside.size:
            return None
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)
