"""Candidates against the reference as installed, report_guided_annotation 0.3.4: bit for bit, its defect included."""

import json
from collections import Counter

import numpy as np
import pytest
from report_guided_annotation import extract_lesion_candidates
from scipy import ndimage

from algorithm.outputs.candidates import Candidate, Rule, extract_candidates, paint_candidates
from contract.images.volume import read_volume

RULES: list[Rule] = ["dynamic", "dynamic-fast", "dynamic-v2", 0.1, 0.5]


def assert_equal_to_reference(probability, rule):
    """The same component map, confidences in the same order, and detection map; returns (label, confidence) each."""
    expected_map, expected_confidences, expected_components = extract_lesion_candidates(
        np.maximum(probability, 0), threshold=rule
    )
    found = extract_candidates(probability, rule=rule, voxel_volume_ml=0.00075)
    np.testing.assert_array_equal(found.components, expected_components)
    candidates = [(each.label, each.confidence) for each in found.candidates]
    assert candidates == [(label, float(confidence)) for label, confidence in expected_confidences]
    for each in found.candidates:
        assert each.volume_ml == np.count_nonzero(expected_components == each.label) * 0.00075
    painted = paint_candidates(found)
    assert painted.dtype == np.float32
    np.testing.assert_array_equal(painted, expected_map.astype(np.float32))
    return candidates


def blobs(seed, *, shape=(11, 40, 37), peak=0.9):
    """Smooth random hills of different heights, some small, with negative valleys as cubic resampling makes them."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma=rng.uniform(0.5, 2.5))
    field += rng.uniform(0.2, 2) * np.abs(field).max() * (rng.random(shape) < 0.002)
    return (field / field.max() * peak * rng.uniform(0.02, 1) - 0.01 * rng.random(shape)).astype(np.float32)


def random_map(seed):
    """A small map unlike the others in size, hills, spikes, plateaus, height, precision, and steps (hence ties)."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(rng.integers(*sides)) for sides in ((3, 9), (10, 25), (11, 28)))
    height = ndimage.gaussian_filter(
        rng.normal(size=shape), sigma=rng.uniform(0.4, 2.5), mode=str(rng.choice(["wrap", "nearest"]))
    )
    height /= np.abs(height).max()
    if rng.random() < 0.3:  # an organ, outside of which nothing is
        height[ndimage.gaussian_filter(rng.normal(size=shape), sigma=3) < 0] = -0.05
    if rng.random() < 0.5:  # single voxels
        height[rng.random(shape) < rng.uniform(0.0005, 0.02)] = rng.uniform(0.5, 3)
    if rng.random() < 0.3:  # plateaus of one height, some of ten or eleven voxels
        for _ in range(int(rng.integers(1, 5))):
            corner = [int(rng.integers(0, size)) for size in shape]
            sides = [(1, 1, 10), (1, 1, 11), (2, 3, 2), (2, 4, 5)][rng.integers(4)]
            height[tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))] = 0.95
    height *= rng.choice([1, 1, rng.uniform(0.02, 1), 0.02 * rng.random(), 1.3 / height.max()])
    if rng.random() < 0.4:  # few different values: ties among peaks, and voxels on a threshold
        height = np.round(height * (steps := int(rng.integers(4, 60)))) / steps
    return height.astype(np.float32 if rng.random() < 0.8 else np.float64)


def test_500_random_maps_give_the_references_candidates_bit_for_bit():
    seen: Counter[str] = Counter()
    for seed in range(500):
        probability = random_map(seed)
        found = {
            rule: assert_equal_to_reference(probability, rule)
            for rule in ("dynamic", "dynamic-v2", "dynamic-fast", 0.1, float(np.random.default_rng(seed).random()))
        }
        seen["v1 loses the patient"] += found["dynamic"] == [(1, 0.0)] and found["dynamic-v2"] != []
        seen["v1 loses later ones"] += 0 < len(found["dynamic"]) < len(found["dynamic-v2"])
        seen["five"] += len(found["dynamic"]) == 5
        seen["none"] += found["dynamic-v2"] == []
        confidences = [confidence for _, confidence in found["dynamic-v2"]]
        seen["ties"] += len(set(confidences)) < len(confidences)
    assert min(seen.values()) >= 20, seen  # what the rules differ in, and where a search could go wrong, does occur
    assert len(seen) == 5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(12))
def test_random_phantoms_give_the_references_candidates_bit_for_bit(seed, rule):
    assert_equal_to_reference(blobs(seed), rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("peak", [0.02, 0.0101, 0.01, 0.0099, 0.0])
def test_faint_maps_give_the_references_candidates_bit_for_bit(rule, peak):
    probability = blobs(3)
    assert_equal_to_reference(np.maximum(probability, 0) / probability.max() * np.float32(peak), rule)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", ["dynamic", "dynamic-v2"])
def test_the_faintest_candidate_reaches_down_to_its_threshold(rule, dtype):
    probability = np.full((3, 8, 9), dtype(0.01) / dtype(2.5))
    probability[0] = np.nextafter(probability[0], dtype(0))
    probability[1, 4, 4] = 0.01
    found = assert_equal_to_reference(probability, rule)
    assert found == [(1, float(dtype(0.01)))]
    assert extract_candidates(probability, rule=rule, voxel_volume_ml=1.0).candidates[0].volume_ml == 2 * 8 * 9


@pytest.mark.parametrize("rule", RULES)
def test_double_precision_gives_the_references_candidates(rule):
    for seed in (5, 6):
        assert_equal_to_reference(np.abs(blobs(seed).astype(np.float64)) ** 1.01, rule)


@pytest.mark.parametrize("rule", RULES)
def test_equal_peaks_give_the_references_candidates(rule):
    probability = np.zeros((9, 30, 33), np.float32)
    probability[1:4, 2:6, 2:6] = 0.7
    probability[1:4, 2:6, 20:24] = 0.7
    probability[5:8, 15:20, 8:12] = 0.7
    probability[5:8, 21:24, 8:12] = 0.6  # touches nothing: one empty row between
    probability[5:8, 24:26, 12:16] = 0.2  # touches the one above by a corner once that is removed
    assert_equal_to_reference(probability, rule)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_real_softmax_maps_give_the_references_candidates_bit_for_bit(real_data, rule):
    paths = sorted((real_data / "rga" / "softmax").glob("*.nii.gz"))
    assert len(paths) == 6
    for path in paths:
        assert_equal_to_reference(np.asarray(read_volume(path).array, np.float32), rule)


@pytest.mark.data
def test_real_softmax_maps_give_the_recorded_confidences(real_data):
    recorded = json.loads((real_data / "rga" / "reference_results.json").read_text())["per_case"]
    for case, expected in recorded.items():
        volume = read_volume(real_data / "rga" / "softmax" / f"{case}.nii.gz")
        for rule in ("dynamic", "dynamic-fast", 0.1):
            found = extract_candidates(
                np.asarray(volume.array, np.float32), rule=rule, voxel_volume_ml=volume.grid.voxel_volume_ml
            )
            confidences = sorted((round(each.confidence, 6) for each in found.candidates), reverse=True)
            assert confidences == expected[str(rule)]["conf"], (case, rule)


@pytest.mark.data
@pytest.mark.parametrize("rule", ["dynamic", "dynamic-fast", "dynamic-v2"])
def test_the_references_edge_case_has_five_candidates_with_dynamic_v2(real_data, rule):
    array = np.asarray(read_volume(real_data / "rga" / "dynamic_extraction_edge_case.mha").array, np.float32)
    assert_equal_to_reference(array, rule)
    if rule == "dynamic-v2":
        assert len(extract_candidates(array, rule=rule, voxel_volume_ml=1.0).candidates) == 5


def lesion_and_spike():
    """A lesion of 144 voxels at 0.30 and, apart from it, a single voxel at 0.90."""
    probability = np.zeros((8, 24, 26), np.float32)
    probability[2:6, 4:10, 5:11] = 0.30
    probability[6, 20, 22] = 0.90
    return probability


def test_the_defect_of_dynamic_loses_a_lesion_to_a_small_spike():
    found = extract_candidates(lesion_and_spike(), rule="dynamic", voxel_volume_ml=0.001)
    assert [(each.label, each.confidence) for each in found.candidates] == [(1, 0.0)]
    assert paint_candidates(found).max() == 0
    assert_equal_to_reference(lesion_and_spike(), "dynamic")


def test_dynamic_fast_finds_nothing_next_to_a_small_spike():
    assert extract_candidates(lesion_and_spike(), rule="dynamic-fast", voxel_volume_ml=0.001).candidates == ()


def test_dynamic_v2_keeps_a_lesion_next_to_a_small_spike():
    found = extract_candidates(lesion_and_spike(), rule="dynamic-v2", voxel_volume_ml=0.001)
    assert found.candidates == (Candidate(label=1, confidence=pytest.approx(0.30), volume_ml=pytest.approx(0.144)),)
