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

Thresholds are computed in the map's own precision, as the reference does: float32 maps stay float32. A threshold
looks only at the bounding box of the voxels above it, and the searches only around each peak, so the cost does not grow
with the image, nor with the number of components: noise takes seconds, and what would take longer is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.card import CandidateRule, Card
from contract.errors import OncoduetError
from contract.images.volume import Float32Array, LabelArray, Volume

PEAK_FRACTION = 2.5
"""Divisor of a candidate's peak that gives the threshold of its extent."""
LOWEST_PEAK = 0.01
"""Peak below which the dynamic rules stop."""

_TOUCHING = np.ones((3, 3, 3), dtype=bool)
_REACH = 6
"""Distance in voxels to each side of a peak within which its component is searched first."""
_TIES = 32
"""Most components of equal peak that are searched one by one."""
_STRIDE = 4096
MOST_VISITS = 100
"""Visits of a dynamic search per voxel of the box that it searches; noise needs fewer than 10."""
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
    for part in _parts(remaining, minimum_voxels=minimum_voxels, skip_small=skip_small):
        if grown[part.box][part.inside].any():
            continue
        candidates.append(Candidate(1 + len(candidates), part.peak, float(part.voxels) * voxel_volume_ml))
        accepted[part.box][part.inside] = len(candidates)
        if len(candidates) == maximum:
            break
        _add_grown(grown, part.box, part.inside)
    if not candidates and not skip_small and remaining.max() >= LOWEST_PEAK:  # all are too small
        components[...] = 1
        return Extraction((Candidate(1, 0.0, components.size * voxel_volume_ml),), components)
    return Extraction(tuple(candidates), components)


@dataclass(frozen=True)
class _Part:
    """A connected component of enough voxels."""

    box: tuple[slice, ...]
    inside: npt.NDArray[np.bool_]  # within the box
    peak: float
    visited: int = 0  # voxels that were looked at to find it

    @property
    def voxels(self) -> int:
        return int(np.count_nonzero(self.inside))

    @property
    def first_voxel(self) -> tuple[int, ...]:
        inside = np.unravel_index(int(self.inside.argmax()), self.inside.shape)
        return tuple(int(place) + each.start for place, each in zip(inside, self.box, strict=True))


def _parts(remaining: Probability, *, minimum_voxels: int, skip_small: bool) -> Iterator[_Part]:
    """The components that the dynamic rules come to, in their order; each is removed from ``remaining``.

    A component is removed whole, and with it, mostly, the highest voxel, which lowers the threshold. So only the
    highest voxel's component is looked for, in a box around it. One that is too small stays, and with it the threshold:
    all others follow at once. Then ``dynamic`` ends, and ``dynamic-v2`` continues below the threshold, so that this
    happens once per factor of ``PEAK_FRACTION``. All in all a voxel is visited a few times, also in noise.

    Raises ``OncoduetError`` after ``MOST_VISITS`` per voxel, as of thousands of long components that wind around each
    other, which no network predicts.
    """
    visited = 0
    values = remaining.ravel()
    order = np.flatnonzero(values >= LOWEST_PEAK)
    falling = -values[order]
    order, falling = order[rank := np.argsort(falling, kind="stable")], falling[rank]
    place = 0
    while (place := _next(values, order, place)) < order.size:
        highest = values[order[place]]
        threshold = highest / remaining.dtype.type(PEAK_FRACTION)
        ties = order[place : np.searchsorted(falling, falling[place], side="right")]
        if visited > MOST_VISITS * remaining.size:
            raise OncoduetError("probability map", "too scattered to extract candidates")
        parts = _around(remaining, ties, threshold, minimum_voxels)
        if parts is not None:
            yield from parts
            visited += sum(part.visited for part in parts)
            continue
        found = _components(remaining, threshold)
        assert found is not None  # the highest voxel is there
        visited += remaining.size
        large = np.flatnonzero(found.voxels >= minimum_voxels)
        boxes = ndimage.find_objects(found.labelled)
        for label in large[np.argsort(-found.peaks[large], kind="stable")]:
            if found.peaks[label] < highest and not values[ties].any():
                break  # none was too small
            inner = boxes[label - 1]
            part = _Part(_within(found.box, inner), found.labelled[inner] == label, float(found.peaks[label]))
            remaining[part.box][part.inside] = 0
            yield part
        if values[ties].any():  # all that are left are too small
            if not skip_small:
                return
            remaining[remaining > threshold] = 0


def _next(values: Probability, order: npt.NDArray[np.integer], place: int) -> int:
    """The next place in the order whose voxel was not removed; its end where there is none."""
    for start in range(place, order.size, _STRIDE):
        left = np.flatnonzero(values[order[start : start + _STRIDE]])
        if left.size:
            return start + int(left[0])
    return int(order.size)


def _around(
    remaining: Probability, voxels: npt.NDArray[np.integer], threshold: np.floating, minimum_voxels: int
) -> list[_Part] | None:
    """Remove the components of equally high voxels, in the order of their first voxels.

    None, and nothing is removed, if one is too small or there are more than ``_TIES``.
    """
    parts: list[_Part] = []
    removed: list[Probability] = []
    for voxel in voxels:
        seed = np.unravel_index(int(voxel), remaining.shape)
        if not remaining[seed]:  # in a component that was found
            continue
        part = _component_at(remaining, tuple(map(int, seed)), threshold)
        if part.voxels < minimum_voxels or len(parts) == _TIES:
            for each, values in zip(parts, removed, strict=True):
                remaining[each.box][each.inside] = values
            return None
        removed.append(remaining[part.box][part.inside])
        remaining[part.box][part.inside] = 0
        parts.append(part)
    return sorted(parts, key=lambda each: each.first_voxel)


def _component_at(image: Probability, seed: tuple[int, ...], threshold: np.floating) -> _Part:
    """The component of one voxel, which is its peak, in a box that grows where the component leaves it."""
    visited = 0
    low = [max(place - _REACH, 0) for place in seed]
    high = [min(place + _REACH + 1, size) for place, size in zip(seed, image.shape, strict=True)]
    while True:
        box = tuple(map(slice, low, high))
        labelled, _ = ndimage.label(image[box] >= threshold, structure=_TOUCHING)
        visited += labelled.size
        inside = labelled == labelled[tuple(place - start for place, start in zip(seed, low, strict=True))]
        tight = _bounding_box(inside)
        assert tight is not None  # the seed is there
        leaves = False
        for axis, each in enumerate(tight):
            size = high[axis] - low[axis]
            if each.start == 0 and low[axis] > 0:
                low[axis], leaves = max(low[axis] - size, 0), True
            if each.stop == size and high[axis] < image.shape[axis]:
                high[axis], leaves = min(high[axis] + size, image.shape[axis]), True
        if not leaves:
            return _Part(_within(box, tight), inside[tight], float(image[seed]), visited)


def _within(outer: tuple[slice, ...], inner: tuple[slice, ...]) -> tuple[slice, ...]:
    """A box given within another one."""
    return tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(outer, inner, strict=True))


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
