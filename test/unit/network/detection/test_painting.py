"""Painting against upstream's rule in plain loops, and likelihoods worked by hand."""

import numpy as np
import pytest
from scipy import ndimage

from network.detection.clustering import ScoredBoxes
from network.detection.painting import combine_scores, paint_boxes

SHAPE = (12, 20, 26)


def scored(boxes, scores):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 6)
    return ScoredBoxes(boxes, np.asarray(scores, np.float64), np.ones(len(boxes)))


def as_upstream_paints(found):
    """The PI-CAI algorithm's rule, number by number, on boxes that begin one voxel earlier, as nnDetection's do."""
    painted = np.zeros(SHAPE)
    for score, box in sorted(zip(found.scores, found.boxes.tolist(), strict=True), key=lambda pair: -pair[0]):
        lower, upper = [edge - 1 for edge in box[:3]], box[3:]
        ranges = [range(int(np.floor(lo)) + 1, int(hi)) for lo, hi in zip(lower, upper, strict=True)]
        if np.prod([len(each) for each in ranges]) <= 10:
            continue
        near = [
            painted[z, y, x]
            for z in range(max(0, ranges[0].start - 1), min(SHAPE[0], ranges[0].stop + 1))
            for y in range(max(0, ranges[1].start - 1), min(SHAPE[1], ranges[1].stop + 1))
            for x in range(max(0, ranges[2].start - 1), min(SHAPE[2], ranges[2].stop + 1))
        ]
        if not any(near):
            painted[tuple(slice(each.start, each.stop) for each in ranges)] = score
    return painted


def some_boxes(count=40, *, seed):
    random = np.random.default_rng(seed)
    lower = random.uniform(0, np.array(SHAPE) - 2, (count, 3))
    upper = np.minimum(lower + random.uniform(1, 7, (count, 3)), SHAPE)
    return scored(np.concatenate([lower, upper], axis=1), random.uniform(0.05, 1, count))


@pytest.mark.parametrize("seed", range(4))
def test_cuboids_are_those_that_upstream_paints(seed):
    found = some_boxes(seed=seed)
    painted = paint_boxes(found, SHAPE)
    np.testing.assert_allclose(painted, as_upstream_paints(found), rtol=1e-6)
    assert 3 < len(np.unique(painted)) - 1 < len(found)


def test_a_box_around_a_lesion_paints_exactly_its_voxels():
    painted = paint_boxes(scored([[3, 4, 5, 6, 9, 11]], [0.7]), SHAPE)
    expected = np.zeros(SHAPE, np.float32)
    expected[3:6, 4:9, 5:11] = 0.7
    np.testing.assert_array_equal(painted, expected)


@pytest.mark.parametrize("fill", ["cuboid", "ellipsoid", "segmentation"])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_of_a_map_are_apart_and_have_one_score_each(fill, seed):
    segmentation = ndimage.gaussian_filter(np.random.default_rng(seed).random(SHAPE), 0.8).astype(np.float32)
    painted = paint_boxes(some_boxes(seed=seed), SHAPE, fill=fill, segmentation=segmentation)
    labelled, count = ndimage.label(painted, structure=np.ones((3, 3, 3)))
    assert count > 2
    assert all(len(np.unique(painted[labelled == label])) == 1 for label in range(1, count + 1))


def test_the_higher_score_wins_where_boxes_touch_at_a_corner():
    boxes = scored([[0, 0, 0, 3, 3, 3], [3, 3, 3, 6, 6, 6], [4, 4, 4, 8, 8, 8]], [0.5, 0.9, 0.3])
    assert sorted(np.unique(paint_boxes(boxes, SHAPE))) == pytest.approx([0, 0.9])
    apart = scored([[0, 0, 0, 3, 3, 3], [4, 4, 4, 8, 8, 8]], [0.5, 0.3])
    assert sorted(np.unique(paint_boxes(apart, SHAPE))) == pytest.approx([0, 0.3, 0.5])


def test_boxes_of_ten_voxels_are_left_out():
    boxes = scored([[0, 0, 0, 1, 2, 5], [6, 6, 6, 7, 7, 17]], [0.9, 0.4])  # 10 and 11 voxels
    assert np.unique(paint_boxes(boxes, SHAPE)).tolist() == pytest.approx([0, 0.4])


def test_boxes_outside_or_without_extent_are_left_out():
    boxes = scored([[-5, -5, -5, 0, -1, -1], [15, 2, 2, 30, 9, 9], [3, 3, 3, 3, 9, 9]], [0.9, 0.8, 0.7])
    assert not paint_boxes(boxes, SHAPE).any()


def test_an_ellipsoid_has_the_volume_of_one():
    # pi / 6 of the box; 10 x 16 x 20 voxels are fine enough for 3 %
    painted = paint_boxes(scored([[1, 2, 3, 11, 18, 23]], [0.6]), SHAPE, fill="ellipsoid")
    assert (painted > 0).sum() == pytest.approx(np.pi / 6 * 10 * 16 * 20, rel=0.03)
    assert painted[6, 10, 13] == np.float32(0.6) and painted[1, 2, 3] == 0
    np.testing.assert_array_equal(painted[1:11, 2:18, 3:23], painted[1:11, 2:18, 3:23][::-1, ::-1, ::-1])


def test_the_segmentation_inside_the_box_gives_the_shape():
    segmentation = np.zeros(SHAPE, np.float32)
    segmentation[4:9, 5:8, 6:9] = 0.5
    segmentation[4, 5, 6] = 0.49
    painted = paint_boxes(scored([[3, 4, 5, 7, 12, 12]], [0.8]), SHAPE, fill="segmentation", segmentation=segmentation)
    expected = np.zeros(SHAPE, np.float32)
    expected[4:7, 5:8, 6:9] = 0.8
    expected[4, 5, 6] = 0
    np.testing.assert_array_equal(painted, expected)


def test_a_box_with_two_segmented_parts_paints_the_larger_one():
    segmentation = np.zeros(SHAPE, np.float32)
    segmentation[3:6, 4:6, 5:8] = segmentation[3:6, 8:12, 5:8] = 1  # 18 and 36 voxels
    painted = paint_boxes(scored([[3, 4, 5, 7, 12, 12]], [0.8]), SHAPE, fill="segmentation", segmentation=segmentation)
    assert (painted[:, 8:12] > 0).sum() == (painted > 0).sum() == 36


def test_where_nothing_is_segmented_the_ellipsoid_is_painted():
    box = scored([[3, 4, 5, 7, 12, 12]], [0.8])
    painted = paint_boxes(box, SHAPE, fill="segmentation", segmentation=np.zeros(SHAPE, np.float32))
    np.testing.assert_array_equal(painted, paint_boxes(box, SHAPE, fill="ellipsoid"))


@pytest.mark.parametrize("fill", ["ellipsoid", "segmentation"])
def test_a_small_box_whose_ellipsoid_is_too_small_stays_a_cuboid(fill):
    box = scored([[3, 4, 5, 5, 7, 8]], [0.8])  # 18 voxels; the ellipsoid: two crosses of 5
    painted = paint_boxes(box, SHAPE, fill=fill, segmentation=np.zeros(SHAPE, np.float32))
    np.testing.assert_array_equal(painted, paint_boxes(box, SHAPE))


def test_the_segmentation_is_asked_for_where_it_is_to_be_painted():
    with pytest.raises(ValueError, match="needs the segmentation"):
        paint_boxes(scored([], []), SHAPE, fill="segmentation")


def test_case_likelihoods_by_hand():
    scores = np.array([0.5, 0.9, 0.2])
    assert combine_scores(scores) == 0.9
    assert combine_scores(scores, "noisy-or") == pytest.approx(1 - 0.5 * 0.1 * 0.8)
    assert combine_scores(scores, "top-k-mean", k=2) == pytest.approx(0.7)
    assert combine_scores(scores[:1], "top-k-mean", k=2) == pytest.approx(0.25)


def test_noisy_or_holds_at_the_ends_of_its_range():
    assert combine_scores(np.array([1.0, 0.3]), "noisy-or") == 1
    assert combine_scores(np.array([1e-18, 1e-18]), "noisy-or") == pytest.approx(2e-18)


@pytest.mark.parametrize("rule", ["maximum", "noisy-or", "top-k-mean"])
def test_likelihood_is_0_without_boxes_and_never_falls_with_more(rule):
    random = np.random.default_rng(3)
    scores = np.empty(0)
    likelihoods = [combine_scores(scores, rule)]
    for _ in range(8):
        scores = np.append(scores, random.random())
        likelihoods.append(combine_scores(scores, rule))
    assert likelihoods[0] == 0
    assert (np.diff(likelihoods) >= 0).all() and likelihoods[-1] <= 1
