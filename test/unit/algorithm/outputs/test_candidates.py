"""Rules of candidates, by hand; ``test_candidates_oracle.py`` compares them with the reference."""

import numpy as np
import pytest
from refusals import refused_with
from scipy import ndimage

from algorithm.outputs import candidates
from algorithm.outputs.candidates import (
    LOWEST_PEAK,
    PEAK_FRACTION,
    Rule,
    card_likelihood,
    extract_candidates,
    paint_candidates,
)
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


def whole_image_search(probability, *, maximum, minimum_voxels, skip_small):
    """The rule as it reads: label the whole image at each threshold, take the highest large component, remove it."""
    remaining, grown = probability.copy(), np.zeros(probability.shape, bool)
    accepted, confidences = np.zeros(probability.shape, np.int32), []
    while len(confidences) < maximum and (highest := remaining.max()) >= LOWEST_PEAK:
        threshold = highest / remaining.dtype.type(PEAK_FRACTION)
        labelled, count = ndimage.label(remaining >= threshold, structure=np.ones((3, 3, 3)))
        large = [k for k in range(1, count + 1) if np.count_nonzero(labelled == k) >= minimum_voxels]
        if not large:
            if skip_small:
                remaining[remaining > threshold] = 0
                continue
            return (accepted, confidences) if confidences else (np.ones_like(accepted), [0.0])
        part = labelled == max(large, key=lambda k: (remaining[labelled == k].max(), -k))
        if not grown[part].any():
            confidences.append(float(remaining[part].max()))
            accepted[part] = len(confidences)
            grown |= ndimage.binary_dilation(part, structure=np.ones((3, 3, 3)))
        remaining[part] = 0
    return accepted, confidences


def noise(seed):
    """Small maps of every roughness, level, precision, with or without ties and saturation."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers((1, 4, 5), (6, 14, 17)))
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma=rng.choice([0, 0.4, 0.7, 1.0, 1.5]))
    field = rng.uniform(0.3, 4) * field / max(field.std(), 1e-9) - rng.uniform(-1, 4)
    probability = 1 / (1 + np.exp(-field))
    if rng.random() < 0.5:
        steps = int(rng.integers(2, 30))
        probability = np.round(probability * steps) / steps
    return probability.astype(rng.choice(["float16", "float32", "float64"], p=[0.1, 0.6, 0.3]))


@pytest.mark.parametrize("skip_small", [False, True])
def test_400_noisy_maps_give_what_relabelling_the_whole_image_gives(skip_small, monkeypatch):
    dropped = filled = several = 0
    for seed in range(400):
        probability, rng = noise(seed), np.random.default_rng(seed)
        monkeypatch.setattr(candidates, "_TIES", int(rng.choice([0, 1, 32])))
        monkeypatch.setattr(candidates, "_REACH", int(rng.choice([0, 2, 6])))
        monkeypatch.setattr(candidates, "_STRIDE", int(rng.choice([1, 4096])))
        limits = {"maximum": int(rng.integers(1, 8)), "minimum_voxels": int(rng.choice([1, 2, 4, 11]))}
        expected, confidences = whole_image_search(probability, skip_small=skip_small, **limits)
        rule = "dynamic-v2" if skip_small else "dynamic"
        found = extract_candidates(probability, rule=rule, voxel_volume_ml=1.0, **limits)
        np.testing.assert_array_equal(found.components, expected)
        assert [each.confidence for each in found.candidates] == confidences
        sizes = np.bincount(expected.ravel(), minlength=len(confidences) + 1)[1:]
        assert [each.volume_ml for each in found.candidates] == sizes.tolist()
        several += len(confidences) > 1
        filled += confidences == [0.0]
        dropped += len(confidences) < limits["maximum"] and 0 not in confidences
    assert min(several, dropped) > 40 and (skip_small or filled > 20)


def comb(rows=60):
    """A plate with long teeth, each another threshold's component that touches it and is dropped."""
    probability = np.zeros((10, 2 * rows, 2 * rows), np.float32)
    probability[:, :, 0] = 0.9
    probability[::2, ::2, 1:] = np.linspace(0.31, 0.36, rows, dtype=np.float32)[None, :, None]
    return probability


@pytest.mark.parametrize("rule", ["dynamic", "dynamic-v2"])
@pytest.mark.parametrize("sigma", [(0, 0, 0), (0.5, 1, 1), (1, 3, 3)])
def test_noise_needs_ten_visits_per_voxel_at_most(sigma, rule, monkeypatch):
    monkeypatch.setattr(candidates, "MOST_VISITS", 10)
    field = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(20, 320, 320)), sigma)
    probability = (1 / (1 + np.exp(-field / field.std()))).astype(np.float32)
    assert extract_candidates(probability, rule=rule, voxel_volume_ml=1.0).candidates


@pytest.mark.parametrize("rule", ["dynamic", "dynamic-v2"])
def test_a_map_that_would_take_too_long_is_refused(rule, monkeypatch):
    assert len(extract_candidates(comb(), rule=rule, voxel_volume_ml=1.0).candidates) == 1
    monkeypatch.setattr(candidates, "MOST_VISITS", 2)
    with refused_with("probability map", "too scattered"):
        extract_candidates(comb(), rule=rule, voxel_volume_ml=1.0)
