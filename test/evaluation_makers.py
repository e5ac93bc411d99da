"""What several tests of the evaluation make: random truths and outcomes, cases of arrays."""

from pathlib import Path

import numpy as np

from evaluation.masks.components import Components, connect
from evaluation.masks.sparse_image import read_label_map
from evaluation.matching.cases import Case, LesionTruth, MatchingRule, truth_of
from evaluation.metrics.outcomes import Outcome, TestSet

NO_CANDIDATES = (np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.bool_))
"""The last three fields of an outcome."""


def random_truth(cases: int = 40, patients: int | None = None) -> TestSet:
    """Every second case positive, with one or two lesions; as many patients as cases, or so many in turn."""
    lesions = np.array([(0, 1, 0, 2)[i % 4] for i in range(cases)])
    names = tuple(f"{i if patients is None else i % patients:03d}_{i:03d}" for i in range(cases))
    return TestSet(names, lesions > 0, lesions, tuple(name.partition("_")[0] for name in names))


def random_outcome(truth: TestSet, seed: int, shift: float = 1.0, decimals: int = 1) -> Outcome:
    """A run with ties, missed lesions and several candidates per case; ``shift`` lifts positive cases and hits."""
    rng = np.random.default_rng(seed)
    cases = len(truth.case_ids)
    likelihood = np.round(rng.normal(0, 1, cases) + shift * truth.positive, decimals)
    found = np.repeat(np.arange(cases), rng.binomial(truth.lesions, 0.8))
    case = np.concatenate([found, rng.integers(0, cases, cases)])
    hit = np.arange(case.size) < found.size
    return Outcome(likelihood, case, np.round(rng.uniform(0.1, 1, case.size) + 0.3 * shift * hit, decimals), hit)


def find_components(image: np.ndarray) -> Components:
    """The components of an array's (z, y, x) voxels that are not zero."""
    return connect(np.flatnonzero(image), image.shape)


def read_lesions(path: Path, rule: MatchingRule) -> LesionTruth:
    """The lesions of a label map."""
    return truth_of(path, read_label_map(path), rule)


def case_of(detection_map: np.ndarray, label: np.ndarray) -> Case:
    """A case of two arrays (z, y, x), its candidates as confident as their largest voxel."""
    candidates = find_components(detection_map)
    members = [candidates.voxels[candidates.owners == number] for number in range(len(candidates))]
    confidences = np.array([detection_map.ravel()[voxels].max() for voxels in members], dtype=np.float64)
    return Case(find_components(label != 0), candidates, confidences, detection_map.max(), float(detection_map.max()))


def scene(
    lesions: list[tuple[int, int]], candidates: list[tuple[int, int, float]]
) -> tuple[Case, np.ndarray, np.ndarray]:
    """A case, its map and label: lesions and candidates as stretches [start, end) along x, one voxel thick."""
    label, detection_map = np.zeros((3, 4, 100), dtype=np.int32), np.zeros((3, 4, 100), dtype=np.float32)
    for start, end in lesions:
        label[1, 2, start:end] = 1
    for start, end, confidence in candidates:
        detection_map[1, 2, start:end] = confidence
    return case_of(detection_map, label), detection_map, label


def resampled(truth: TestSet, count: int, seed: int = 3) -> np.ndarray:
    """How often each case counts in resamples of patients: (resamples, cases)."""
    patients = truth.patient_count
    drawn = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=count)
    return drawn[:, truth.patients].astype(float)
