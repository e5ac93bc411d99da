"""Rules of candidates, by hand; ``test_candidates_oracle.py`` compares them with the reference."""

import numpy as np
import pytest

from algorithm.outputs.candidates import Rule, card_likelihood, extract_candidates, paint_candidates
from contract.card import load_card

RULES: list[Rule] = ["dynamic", "dynamic-fast", "dynamic-v2", 0.1, 0.5]


def test_voxels_that_touch_by_a_corner_are_one_candidate():
    probability = np.zeros((6, 12, 12), np.float32)
    probability[0:3, 0:3, 0:3] = probability[3:6, 3:6, 3:6] = 0.5
    found = extract_candidates(probability, rule=0.4, voxel_volume_ml=1.0)
    assert [each.volume_ml for each in found.candidates] == [54.0]


@pytest.mark.parametrize(("voxels", "kept"), [(10, 0), (11, 1)])
@pytest.mark.parametrize("rule", ["dynamic", "dynamic-fast", "dynamic-v2", 0.3])
def test_ten_voxels_are_too_small_and_eleven_are_not(voxels, kept, rule):
    probability = np.zeros((3, 5, 20), np.float32)
    probability[1, 2, 2 : 2 + voxels] = 0.4
    found = extract_candidates(probability, rule=rule, voxel_volume_ml=1.0)
    assert sum(each.confidence > 0 for each in found.candidates) == kept


@pytest.mark.parametrize(("rule", "count"), [("dynamic", 3), ("dynamic-v2", 3), ("dynamic-fast", 7), (0.1, 7)])
def test_only_the_searches_stop_at_the_maximum(rule, count):
    probability = np.zeros((3, 8, 70), np.float32)
    for number in range(7):
        probability[:, 2:6, 10 * number : 10 * number + 4] = 0.9 - 0.05 * number
    found = extract_candidates(probability, rule=rule, voxel_volume_ml=1.0, maximum=3)
    assert len(found.candidates) == count
    assert found.candidates[0].confidence == pytest.approx(0.9)


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_map_has_no_candidate(rule):
    found = extract_candidates(np.full((4, 5, 6), -0.01, np.float32), rule=rule, voxel_volume_ml=1.0)
    assert found.candidates == ()
    assert not paint_candidates(found).any()


def test_the_likelihood_is_the_maximum_of_the_detection_map():
    probability = np.full((4, 5, 6), 0.2, np.float32)
    detections = np.zeros_like(probability)
    detections[1:3] = 0.15
    for name in ("cspca-picai", "cspca-rsna2022"):
        assert card_likelihood(load_card(name), detections, probability) == pytest.approx(0.15)


def test_without_a_candidate_the_card_says_zero_or_the_probability():
    probability = np.full((4, 5, 6), 0.002, np.float32)
    nothing = np.zeros_like(probability)
    assert card_likelihood(load_card("cspca-rsna2022"), nothing, probability) == 0
    assert card_likelihood(load_card("cspca-picai"), nothing, probability) == pytest.approx(0.002)
    assert card_likelihood(load_card("cspca-picai"), nothing, -probability) == 0
