"""Lesion candidates: which parts of a probability map are findings, and how confident each is.

A candidate is a 26-connected component of voxels at or above a threshold, with the peak inside it as its confidence.
The rules differ in how thresholds are found. They are those of Report-Guided Annotation (Bosma et al., Radiology: AI
2023; report_guided_annotation 0.3.4) and give its results bit for bit. The reference calls the first one ``static``;
here, as on the command line (``--rule 0.1``), a number says it:

=============  ======================================================================================================
a number       one threshold, as given
dynamic-fast   one threshold: the map's peak / 2.5
dynamic        the highest peak's component at peak / 2.5 becomes a candidate and is removed; again, until enough are
               found or the peak falls below 0.01; a candidate that touches an earlier one is dropped
dynamic-v2     the same without the defect below
=============  ======================================================================================================

Defect of ``dynamic``, kept since published results have it: when all components at the threshold are too small, the
search ends, and if that happens first, the answer is one candidate of confidence 0 that fills the image. A lesion of
144 voxels at 0.30 is lost where a single voxel has 0.90. ``dynamic-v2`` removes the small ones and continues.

Thresholds are computed in the map's own precision, as the reference does: float32 maps stay float32. Each step looks
only at the bounding box of the voxels above its threshold, so the cost does not grow with the image.
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
    if rule in ("dynamic", "dynamic-v2"):
        return _search(
            probability,
            maximum=maximum,
            minimum_voxels=minimum_voxels,
            skip_small=rule == "dynamic-v2",
            voxel_volume_ml=voxel_volume_ml,
        )
    threshold = probability.max() / PEAK_FRACTION if rule == "dynamic-fast" else float(rule)
    return _at_threshold(
        probability, threshold=threshold, minimum_voxels=minimum_voxels, voxel_volume_ml=voxel_volume_ml
    )


def paint_candidates(extraction: Extraction) -> Float32Array:
    """Paint each candidate with its confidence; 0 elsewhere."""
    confidence_of = np.zeros(int(extraction.components.max(initial=0)) + 1, dtype=np.float32)
    for candidate in extraction.candidates:
        confidence_of[candidate.label] = candidate.confidence
    painted = np.zeros(extraction.components.shape, dtype=np.float32)
    labels = extraction.components.ravel()
    inside = np.flatnonzero(labels != 0)  # few: looking up every voxel would cost more than finding the candidates
    painted.ravel()[inside] = confidence_of[labels[inside]]
    return painted


def card_candidates(card: Card, probability: Volume) -> Extraction:
    """Candidates by the card's rule."""
    return extract_candidates(
        np.asarray(probability.array, dtype=np.float32),
        rule=card.candidates.rule,
        voxel_volume_ml=probability.grid.voxel_volume_ml,
        maximum=card.candidates.maximum,
        minimum_voxels=card.candidates.minimum_voxels,
    )


def card_likelihood(card: Card, detections: Float32Array, probability: Float32Array) -> float:
    """Likelihood that the study shows a lesion: the detection map's maximum.

    Without any candidate (or with the empty one of ``dynamic``) the card decides: 0, or the probability's maximum, so
    that such studies still rank among themselves.
    """
    highest = float(detections.max())
    if highest > 0 or card.candidates.case_likelihood_without_candidate == "zero":
        return highest
    return float(max(probability.max(), 0.0))


@dataclass(frozen=True)
class _Components:
    """The connected components of an image at or above a threshold."""

    box: tuple[slice, ...]  # smallest box around them
    labelled: npt.NDArray[np.integer]  # within the box; from 1, in the order of their first voxels
    voxels: npt.NDArray[np.integer]  # by label, 0 for the background
    peaks: Probability  # by label, 0 for the background


def _at_threshold(
    probability: Probability, *, threshold: float | np.floating, minimum_voxels: int, voxel_volume_ml: float
) -> Extraction:
    """All components of at least the minimum size at one threshold."""
    components = np.zeros(probability.shape, dtype=np.int32)
    found = _components(probability, threshold)
    if found is None:
        return Extraction((), components)
    large = found.voxels >= minimum_voxels
    components[found.box] = np.where(large[found.labelled], found.labelled, 0)
    candidates = tuple(
        Candidate(int(label), float(found.peaks[label]), float(found.voxels[label]) * voxel_volume_ml)
        for label in np.flatnonzero(large)
    )
    return Extraction(candidates, components)


def _search(
    probability: Probability, *, maximum: int, minimum_voxels: int, skip_small: bool, voxel_volume_ml: float
) -> Extraction:
    """The dynamic rules: one candidate after the other, by falling peak."""
    components = np.zeros(probability.shape, dtype=np.int32)
    box = _bounding_box(probability >= LOWEST_PEAK / PEAK_FRACTION * 0.99)  # nothing below is ever looked at
    if box is None:
        return Extraction((), components)
    remaining = probability[box].copy()
    accepted = components[box]
    grown = np.zeros(remaining.shape, dtype=bool)
    candidates: list[Candidate] = []
    while len(candidates) < maximum:
        highest = remaining.max()
        if highest < LOWEST_PEAK:
            break
        threshold = highest / remaining.dtype.type(PEAK_FRACTION)
        found = _components(remaining, threshold)
        assert found is not None  # the highest voxel is there
        peaks = np.where(found.voxels >= minimum_voxels, found.peaks, 0)
        label = int(np.argmax(peaks))  # ties: the first in the order of voxels
        if label == 0:  # all are too small
            if skip_small:
                remaining[remaining > threshold] = 0
                continue
            if not candidates:
                components[...] = 1
                return Extraction((Candidate(1, 0.0, components.size * voxel_volume_ml),), components)
            break
        component = found.labelled == label
        if not grown[found.box][component].any():
            volume_ml = float(found.voxels[label]) * voxel_volume_ml
            candidates.append(Candidate(1 + len(candidates), float(peaks[label]), volume_ml))
            accepted[found.box][component] = len(candidates)
            _add_grown(grown, found.box, component)
        remaining[found.box][component] = 0
    return Extraction(tuple(candidates), components)


def _components(image: Probability, threshold: float | np.floating) -> _Components | None:
    """Label the positive voxels at or above a threshold; None where there is none."""
    least = image.dtype.type(threshold)
    mask = image >= least if least > 0 else image > 0
    box = _bounding_box(mask)
    if box is None:
        return None
    mask = mask[box]
    labelled, count = ndimage.label(mask, structure=_TOUCHING)
    labels = labelled[mask]
    peaks = np.zeros(count + 1, dtype=image.dtype)
    np.maximum.at(peaks, labels, image[box][mask])
    return _Components(box, labelled, np.bincount(labels), peaks)


def _add_grown(grown: npt.NDArray[np.bool_], box: tuple[slice, ...], component: npt.NDArray[np.bool_]) -> None:
    """Add a component (given within a box) and all voxels that touch it to a mask."""
    wider = np.pad(component, 1)
    for axis in range(wider.ndim):  # a cube of 3 x 3 x 3 is a line of 3 along one axis after the other
        line = np.moveaxis(wider, axis, 0)
        before = line.copy()
        line[1:] |= before[:-1]
        line[:-1] |= before[1:]
    inside = tuple(
        slice(1 if each.start == 0 else 0, size + (2 if each.stop < whole else 1))
        for each, size, whole in zip(box, component.shape, grown.shape, strict=True)
    )
    place = tuple(
        slice(max(each.start - 1, 0), min(each.stop + 1, whole)) for each, whole in zip(box, grown.shape, strict=True)
    )
    grown[place] |= wider[inside]


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Smallest box around the true voxels, or None where there is none."""
    plane = np.any(mask, axis=0)
    sides = [np.any(mask.reshape(len(mask), -1), axis=1), np.any(plane, axis=1), np.any(plane, axis=0)]
    true = [np.flatnonzero(side) for side in sides]
    if not true[0].size:
        return None
    return tuple(slice(int(each[0]), int(each[-1]) + 1) for each in true)
