"""Weighted box clustering against the formula in plain loops, and cases worked by hand."""

import math

import numpy as np
import pytest
from refusals import refused_with

from contract.schema import parse
from network.detection.clustering import (
    BoxPostprocessing,
    ScoredBoxes,
    cluster,
    expected_predictions,
    joined,
    suppress,
    tile_weights,
)


def scored(boxes, scores, weights=None):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 6)
    weights = np.ones(len(boxes)) if weights is None else weights
    return ScoredBoxes(boxes, np.asarray(scores, np.float64), np.asarray(weights, np.float64))


def overlap(a, b):
    sides = [max(0.0, min(a[i + 3], b[i + 3]) - max(a[i], b[i])) for i in range(3)]
    volume_a, volume_b = (math.prod(box[i + 3] - box[i] for i in range(3)) for box in (a, b))
    return math.prod(sides) / (volume_a + volume_b - math.prod(sides))


def in_plain_loops(found, expected, threshold):
    """One number after the other, as Jaeger et al. describe it."""
    left = sorted(range(len(found)), key=lambda i: -found.scores[i])
    result = []
    while left:
        head = left[0]
        members = [i for i in left if i == head or overlap(found.boxes[head], found.boxes[i]) > threshold]
        left = [i for i in left if i not in members]
        factors = [overlap(found.boxes[head], found.boxes[i]) * found.weights[i] for i in members]
        evidence = [factor * found.scores[i] for factor, i in zip(factors, members, strict=True)]
        missing = max(0.0, sum(expected[i] for i in members) / len(members) - len(members))
        score = sum(evidence) / (sum(factors) + missing * sum(factors) / len(factors))
        box = [sum(e * found.boxes[i][c] for e, i in zip(evidence, members, strict=True)) for c in range(6)]
        result.append([*(coordinate / sum(evidence) for coordinate in box), score])
    return np.array(sorted(result, key=lambda row: -row[6]))


def cloud(seed, count=120):
    """Predictions scattered about a few lesions."""
    random = np.random.default_rng(seed)
    middles = random.uniform(10, 50, (5, 3))[random.integers(0, 5, count)] + random.normal(0, 1.5, (count, 3))
    half = random.uniform(2, 6, (count, 3))
    boxes = np.concatenate([middles - half, middles + half], axis=1)
    return scored(boxes, random.uniform(0.01, 1, count), random.uniform(0.3, 1, count)), random.uniform(1, 60, count)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5])
def test_clusters_are_those_of_plain_loops(threshold):
    found, expected = cloud(seed=int(10 * threshold))
    merged = cluster(found, BoxPostprocessing(cluster_iou=threshold), expected=expected)
    plain = in_plain_loops(found, expected, threshold)
    assert 1 < len(plain) < len(found)
    np.testing.assert_allclose(np.column_stack([merged.boxes, merged.scores]), plain, rtol=1e-12)


def test_two_of_four_expected_predictions_halve_the_mean_score():
    # by hand: IoU and weights 1, so (0.8 + 0.6) / (2 + 2 missing) = 0.35
    found = scored([[0, 0, 0, 4, 4, 4]] * 2, [0.8, 0.6])
    merged = cluster(found, BoxPostprocessing(), expected=np.array([4.0, 4.0]))
    assert merged.scores.tolist() == pytest.approx([0.35])
    assert merged.boxes.tolist() == [[0, 0, 0, 4, 4, 4]]
    assert merged.weights.tolist() == [2]


def test_more_predictions_than_expected_do_not_raise_the_score():
    found = scored([[0, 0, 0, 4, 4, 4]] * 2, [0.8, 0.6])
    assert cluster(found, BoxPostprocessing(), expected=np.array([1.0, 1.0])).scores.tolist() == pytest.approx([0.7])


def test_a_weak_neighbour_moves_the_box_a_little():
    # IoU 48/80 = 0.6; evidence 0.9 and 0.6 * 0.3 = 0.18: x from 0 and 1 at weights 0.9 : 0.18, so 1/6
    found = scored([[0, 0, 0, 4, 4, 4], [0, 0, 1, 4, 4, 5]], [0.9, 0.3])
    merged = cluster(found, BoxPostprocessing(), expected=np.ones(2))
    assert merged.boxes[0, 2] == pytest.approx(1 / 6)
    assert merged.scores[0] == pytest.approx(1.08 / 1.6)


def test_order_of_the_predictions_does_not_matter():
    found, expected = cloud(seed=4)
    shuffled = np.random.default_rng(1).permutation(len(found))
    one = cluster(found, BoxPostprocessing(), expected=expected)
    other = cluster(found.only(shuffled), BoxPostprocessing(), expected=expected[shuffled])
    np.testing.assert_allclose(other.boxes, one.boxes, rtol=1e-12)
    np.testing.assert_allclose(other.scores, one.scores, rtol=1e-12)


def test_the_rule_leaves_out_weak_and_small_predictions():
    found = scored([[0, 0, 0, 4, 4, 4], [10, 0, 0, 14, 4, 4], [20, 0, 0, 21, 4, 4]], [0.5, 0.2, 0.9])
    merged = cluster(found, BoxPostprocessing(score_threshold=0.2, minimum_size_voxels=1), expected=np.ones(3))
    assert merged.boxes.tolist() == [[0, 0, 0, 4, 4, 4]]


def test_only_the_strongest_take_part():
    found = scored([[5 * i, 0, 0, 5 * i + 2, 2, 2] for i in range(4)], [0.1, 0.4, 0.3, 0.2])
    merged = cluster(found, BoxPostprocessing(), expected=np.ones(4), strongest=2)
    assert merged.scores.tolist() == pytest.approx([0.4, 0.3])


def test_no_predictions_give_no_boxes():
    nothing = joined([])
    assert cluster(nothing, BoxPostprocessing(), expected=np.empty(0)).boxes.shape == (0, 6)
    assert len(suppress(nothing, 0.1)) == 0


def test_suppression_keeps_the_strongest_of_overlapping_boxes():
    # the second overlaps the first by 0.6, the third the second by 0.6 and the first by 1/3
    boxes = [[0, 0, 0, 4, 4, 4], [0, 0, 1, 4, 4, 5], [0, 0, 2, 4, 4, 6]]
    assert suppress(scored(boxes, [0.7, 0.6, 0.5]), 0.5).scores.tolist() == [0.7, 0.5]
    assert suppress(scored(boxes, [0.5, 0.6, 0.7]), 0.5).scores.tolist() == [0.7, 0.5]


def test_expected_predictions_are_the_mean_number_of_tiles_per_voxel():
    tiles = [
        (slice(z, z + 6), slice(y, y + 8), slice(x, x + 10)) for z in (0, 3, 5) for y in (0, 4, 9) for x in (0, 5, 10)
    ]
    coverage = np.zeros((11, 17, 20))
    for tile in tiles:
        coverage[tile] += 1
    boxes = np.array([[0, 0, 0, 2, 3, 4], [2, 3, 4, 9, 12, 14], [5, 9, 10, 6, 10, 11]], np.float64)
    means = [coverage[z0:z1, y0:y1, x0:x1].mean() for z0, y0, x0, z1, y1, x1 in boxes.astype(int)]
    np.testing.assert_allclose(expected_predictions(boxes, tiles, copies=8), 8 * np.array(means), rtol=1e-12)


def test_boxes_count_less_towards_their_tiles_edges():
    # by hand: at an edge of one axis exp(-0.5 / 0.8^2) = 0.4578, the two other axes in the middle: (2 + 0.4578) / 3
    boxes = np.array([[4, 6, 8, 6, 10, 12], [-1, 6, 8, 1, 10, 12]], np.float64)
    assert tile_weights(boxes, (10, 16, 20)).tolist() == pytest.approx([1, (2 + math.exp(-0.5 / 0.64)) / 3])


def test_a_rule_comes_back_from_its_file_and_its_faults_are_named():
    rule = BoxPostprocessing(score_threshold=0.2, cluster_iou=0.1, minimum_size_voxels=2)
    assert parse(rule.model_dump(mode="json"), BoxPostprocessing, "bundle.json") == rule
    with refused_with(r"bundle\.json", "2 faults: score_threshold: .* less than 1; iou: Extra inputs"):
        parse({"score_threshold": 1.0, "iou": 0.1}, BoxPostprocessing, "bundle.json")


@pytest.mark.parametrize("name", ["k", "minimum_size_voxels"])
def test_no_number_of_a_rule_is_beyond_arithmetic(name):
    with refused_with(problem=f"1 fault: {name}: .* less than or equal to 10000"):
        parse({name: 10**300}, BoxPostprocessing, "box_rule.json")
