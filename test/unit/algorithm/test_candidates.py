"""The oracle is report_guided_annotation 0.3.4 as installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from report_guided_annotation import extract_lesion_candidates
from scipy import ndimage

from algorithm.candidates import Candidate, Rule, case_likelihood, detection_map, extract_candidates
from contract.cards import load_card
from contract.volume import read_volume

RULES: list[Rule] = ["dynamic", "dynamic-fast", "dynamic-v2", 0.1, 0.5]


def blobs(seed: int, *, shape: tuple[int, int, int] = (11, 40, 37), peak: float = 0.9) -> np.ndarray:
    """Smooth random hills of different heights, some small, with negative valleys as cubic resampling makes them."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma=rng.uniform(0.5, 2.5))
    field += rng.uniform(0.2, 2) * np.abs(field).max() * (rng.random(shape) < 0.002)
    return (field / field.max() * peak * rng.uniform(0.02, 1) - 0.01 * rng.random(shape)).astype(np.float32)


def assert_equal_to_reference(probability: np.ndarray, rule: Rule) -> None:
    expected_map, expected_confidences, expected_components = extract_lesion_candidates(
        np.maximum(probability, 0), threshold=rule
    )
    found = extract_candidates(probability, rule=rule, voxel_volume_ml=0.00075)
    np.testing.assert_array_equal(found.components, expected_components)
    assert [(each.label, each.confidence) for each in found.candidates] == [
        (label, float(confidence)) for label, confidence in expected_confidences
    ]
    painted = detection_map(found)
    assert painted.dtype == np.float32
    np.testing.assert_array_equal(painted, expected_map.astype(np.float32))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(12))
def test_random_phantoms_give_the_references_candidates_bit_for_bit(seed: int, rule: Rule) -> None:
    assert_equal_to_reference(blobs(seed), rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("peak", [0.02, 0.0101, 0.01, 0.0099, 0.0])
def test_faint_maps_give_the_references_candidates_bit_for_bit(rule: Rule, peak: float) -> None:
    probability = blobs(3)
    assert_equal_to_reference(np.maximum(probability, 0) / probability.max() * np.float32(peak), rule)


@pytest.mark.parametrize("rule", RULES)
def test_double_precision_gives_the_references_candidates(rule: Rule) -> None:
    for seed in (5, 6):
        assert_equal_to_reference(np.abs(blobs(seed).astype(np.float64)) ** 1.01, rule)


@pytest.mark.parametrize("rule", RULES)
def test_equal_peaks_give_the_references_candidates(rule: Rule) -> None:
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
def test_real_softmax_maps_give_the_references_candidates_bit_for_bit(real_data: Path, rule: Rule) -> None:
    paths = sorted((real_data / "rga" / "softmax").glob("*.nii.gz"))
    assert len(paths) == 6
    for path in paths:
        assert_equal_to_reference(np.asarray(read_volume(path).array, np.float32), rule)


@pytest.mark.data
def test_real_softmax_maps_give_the_recorded_confidences(real_data: Path) -> None:
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
def test_the_references_edge_case_has_five_candidates_with_dynamic_v2(real_data: Path, rule: Rule) -> None:
    array = np.asarray(read_volume(real_data / "rga" / "dynamic_extraction_edge_case.mha").array, np.float32)
    assert_equal_to_reference(array, rule)
    if rule == "dynamic-v2":
        assert len(extract_candidates(array, rule=rule, voxel_volume_ml=1.0).candidates) == 5


def lesion_and_spike() -> np.ndarray:
    """A lesion of 144 voxels at 0.30 and, apart from it, a single voxel at 0.90."""
    probability = np.zeros((8, 24, 26), np.float32)
    probability[2:6, 4:10, 5:11] = 0.30
    probability[6, 20, 22] = 0.90
    return probability


def test_the_defect_of_dynamic_loses_a_lesion_beside_a_small_spike() -> None:
    found = extract_candidates(lesion_and_spike(), rule="dynamic", voxel_volume_ml=0.001)
    assert [(each.label, each.confidence) for each in found.candidates] == [(1, 0.0)]
    assert detection_map(found).max() == 0
    assert_equal_to_reference(lesion_and_spike(), "dynamic")


def test_dynamic_fast_finds_nothing_beside_a_small_spike() -> None:
    assert extract_candidates(lesion_and_spike(), rule="dynamic-fast", voxel_volume_ml=0.001).candidates == ()


def test_dynamic_v2_keeps_a_lesion_beside_a_small_spike() -> None:
    found = extract_candidates(lesion_and_spike(), rule="dynamic-v2", voxel_volume_ml=0.001)
    assert found.candidates == (Candidate(label=1, confidence=pytest.approx(0.30), volume_ml=pytest.approx(0.144)),)


def test_voxels_that_touch_by_a_corner_are_one_candidate() -> None:
    probability = np.zeros((6, 12, 12), np.float32)
    probability[0:3, 0:3, 0:3] = probability[3:6, 3:6, 3:6] = 0.5
    found = extract_candidates(probability, rule=0.4, voxel_volume_ml=1.0)
    assert [each.volume_ml for each in found.candidates] == [54.0]


@pytest.mark.parametrize(("voxels", "kept"), [(10, 0), (11, 1)])
@pytest.mark.parametrize("rule", ["dynamic", "dynamic-fast", "dynamic-v2", 0.3])
def test_ten_voxels_are_too_small_and_eleven_are_not(voxels: int, kept: int, rule: Rule) -> None:
    probability = np.zeros((3, 5, 20), np.float32)
    probability[1, 2, 2 : 2 + voxels] = 0.4
    found = extract_candidates(probability, rule=rule, voxel_volume_ml=1.0)
    assert sum(each.confidence > 0 for each in found.candidates) == kept


@pytest.mark.parametrize(("rule", "count"), [("dynamic", 3), ("dynamic-v2", 3), ("dynamic-fast", 7), (0.1, 7)])
def test_only_the_searches_stop_at_the_maximum(rule: Rule, count: int) -> None:
    probability = np.zeros((3, 8, 70), np.float32)
    for number in range(7):
        probability[:, 2:6, 10 * number : 10 * number + 4] = 0.9 - 0.05 * number
    found = extract_candidates(probability, rule=rule, voxel_volume_ml=1.0, maximum=3)
    assert len(found.candidates) == count
    assert found.candidates[0].confidence == pytest.approx(0.9)


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_map_has_no_candidate(rule: Rule) -> None:
    found = extract_candidates(np.full((4, 5, 6), -0.01, np.float32), rule=rule, voxel_volume_ml=1.0)
    assert found.candidates == ()
    assert not detection_map(found).any()


def test_the_likelihood_is_the_maximum_of_the_detection_map() -> None:
    probability = np.full((4, 5, 6), 0.2, np.float32)
    detections = np.zeros_like(probability)
    detections[1:3] = 0.15
    for name in ("cspca-picai", "cspca-rsna2022"):
        assert case_likelihood(load_card(name), detections, probability) == pytest.approx(0.15)


def test_without_a_candidate_the_card_says_zero_or_the_probability() -> None:
    probability = np.full((4, 5, 6), 0.002, np.float32)
    nothing = np.zeros_like(probability)
    assert case_likelihood(load_card("cspca-rsna2022"), nothing, probability) == 0
    assert case_likelihood(load_card("cspca-picai"), nothing, probability) == pytest.approx(0.002)
    assert case_likelihood(load_card("cspca-picai"), nothing, -probability) == 0
