"""Boxes of a study from tiles, with a detector that finds what is bright by formula; and what heads segment there."""

import numpy as np
import pytest
import torch
from clustered_boxes import encode, predict_boxes

from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.clustering import BoxPostprocessing
from network.detection.retina_unet import DetectorOutput, build_retina_unet
from network.detection.whole_study import Detector, RawDetections, find_boxes
from network.inference.sliding_window import NotFiniteError, ensemble_probabilities, window_slices

PATCH = (4, 16, 24)
PLAN = AnchorPlan(levels=(0,), sizes_voxels_zyx=((2, 6, 6),))
ANCHORS = anchors_of_patch(PLAN, ((2, 4, 4),), PATCH)
SHAPE = (9, 37, 50)
LESION = [3, 11, 20, 5, 17, 29]
RULE = BoxPostprocessing(score_threshold=0.05)


class BrightBox(torch.nn.Module):
    """Finds the box of the bright voxels of a tile, at its first anchor, if it does not touch the tile's edges."""

    def __init__(self, score):
        super().__init__()
        self.logit = float(np.log(score / (1 - score)))

    def forward(self, patches):
        flat = ANCHORS[0].flatten(0, 1)
        logits = torch.full((len(patches), len(flat)), -30.0)
        deltas = torch.zeros(len(patches), len(flat), 6)
        for tile, patch in enumerate(patches[:, 0]):
            places = (patch > 0.5).nonzero()
            if len(places) and places.min() > 0 and (places.max(dim=0).values < torch.tensor(PATCH) - 1).all():
                box = torch.cat([places.min(dim=0).values, places.max(dim=0).values + 1]).float()
                logits[tile, 0], deltas[tile, 0] = self.logit, encode(box, flat[0])
        return DetectorOutput(logits, deltas, torch.empty(0))


def study(shape=SHAPE, lesion=LESION):
    data = torch.zeros(1, *shape)
    z0, y0, x0, z1, y1, x1 = lesion
    data[0, z0:z1, y0:y1, x0:x1] = 1
    return data


def seen(tiles):
    """In how many tiles the lesion is whole, and how many cover each of its voxels on the mean."""
    whole = sum(
        all(tile[axis].start < LESION[axis] and LESION[axis + 3] < tile[axis].stop for axis in range(3))
        for tile in tiles
    )
    coverage = np.zeros(SHAPE)
    for tile in tiles:
        coverage[tile] += 1
    z0, y0, x0, z1, y1, x1 = LESION
    return whole, coverage[z0:z1, y0:y1, x0:x1].mean()


@pytest.mark.parametrize("mirror_axes", [(), (1,), (0, 1, 2)])
@pytest.mark.parametrize("step", [0.5, 0.25])
def test_a_lesion_in_several_tiles_is_one_box_scored_over_all_of_them(mirror_axes, step):
    """All predictions agree, so by the formula the score is theirs times found over expected, at most theirs."""
    found = predict_boxes(
        [Detector(BrightBox(0.8), ANCHORS)], study(), patch_size=PATCH, rule=RULE, mirror_axes=mirror_axes, step=step
    )
    whole, expected = seen(window_slices(SHAPE, PATCH, step))
    assert whole > 0
    assert len(found) == 1
    np.testing.assert_allclose(found.boxes[0], LESION, atol=1e-4)
    assert found.scores[0] == pytest.approx(0.8 * min(1, whole / expected), rel=1e-5)


def test_a_member_without_a_finding_halves_the_averaged_score():
    def score(*members):
        detectors = [Detector(BrightBox(member), ANCHORS) for member in members]
        return predict_boxes(detectors, study(), patch_size=PATCH, rule=RULE).scores.tolist()

    assert score(0.8, 0.6) == pytest.approx([(score(0.8)[0] + score(0.6)[0]) / 2], rel=1e-5)
    assert score(0.8, 0.01) == pytest.approx([score(0.8)[0] / 2], rel=1e-5)  # 0.01 is below the rule's threshold


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_number_of_tiles_per_pass_does_not_matter(batch):
    detectors = [Detector(BrightBox(0.8), ANCHORS)]
    one = predict_boxes(detectors, study(), patch_size=PATCH, rule=RULE, batch=2)
    other = predict_boxes(detectors, study(), patch_size=PATCH, rule=RULE, batch=batch)
    np.testing.assert_array_equal(other.boxes, one.boxes)
    np.testing.assert_array_equal(other.scores, one.scores)


def test_a_study_smaller_than_the_patch_is_padded_for_boxes():
    found = predict_boxes(
        [Detector(BrightBox(0.8), ANCHORS)], study((3, 10, 20), [1, 3, 10, 3, 8, 18]), patch_size=PATCH, rule=RULE
    )
    np.testing.assert_allclose(found.boxes, [[1, 3, 10, 3, 8, 18]], atol=1e-4)
    assert found.weights[0] <= 1  # of the single tile, which fills a pass of two but counts once


def test_a_study_without_findings_has_no_boxes():
    found = predict_boxes([Detector(BrightBox(0.8), ANCHORS)], torch.zeros(1, *SHAPE), patch_size=PATCH, rule=RULE)
    assert found.boxes.shape == (0, 6)


def test_a_real_network_predicts_a_study_the_same_way_mirrored(three_levels):
    """A mirrored study has the mirrored boxes, since all mirrored copies and mirror-symmetric tiles take part."""
    torch.manual_seed(0)
    plan = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 4, 4), (3, 6, 6)))
    network = build_retina_unet(*three_levels, plan).eval()
    with torch.no_grad():
        for head in (network.classifier, network.regressor):
            head[-1].weight.normal_(std=0.1)
    anchors = anchors_of_patch(plan, level_strides(three_levels[0]), PATCH)
    data = torch.randn(3, 6, 24, 36)

    def boxes(data):
        rule = BoxPostprocessing(score_threshold=0.02)
        found = predict_boxes([Detector(network, anchors)], data, patch_size=PATCH, rule=rule, mirror_axes=(0, 1, 2))
        return found.boxes, found.scores

    one, scores = boxes(data)
    other, other_scores = boxes(torch.flip(data, (3,)))
    mirrored = other.copy()
    mirrored[:, 2], mirrored[:, 5] = 36 - other[:, 5], 36 - other[:, 2]
    assert len(scores) > 3
    np.testing.assert_allclose(other_scores[:3], scores[:3], rtol=1e-3)
    np.testing.assert_allclose(mirrored[:3], one[:3], atol=1e-2)


def test_a_member_that_gives_no_numbers_is_named():
    class Broken(BrightBox):
        def forward(self, patches):
            output = super().forward(patches)
            return DetectorOutput(output.logits * torch.nan, output.deltas, output.segmentation)

    detectors = [Detector(BrightBox(0.8), ANCHORS), Detector(Broken(0.8), ANCHORS)]
    with pytest.raises(NotFiniteError, match="member 1"):
        predict_boxes(detectors, study(), patch_size=PATCH, rule=RULE)


class HeadAlone(torch.nn.Module):
    """A detector as a network that segments."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, patches):
        return self.network(patches).segmentation


class Segmenting(BrightBox):
    """Says with a given logit that everything is lesion."""

    def __init__(self, logit):
        super().__init__(0.8)
        self.lesion = logit

    def forward(self, patches):
        output = super().forward(patches)
        logits = torch.stack([torch.zeros_like(patches[:, 0]), torch.full_like(patches[:, 0], self.lesion)], dim=1)
        return DetectorOutput(output.logits, output.deltas, logits)


@pytest.mark.parametrize("mirror_axes", [(), (0, 1, 2)])
def test_heads_are_averaged_over_tiles_and_mirrored_copies(three_levels, mirror_axes):
    """By the sliding window, which sees the heads as networks of their own."""
    torch.manual_seed(0)
    plan = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 4, 4), (3, 6, 6)))
    networks = [build_retina_unet(*three_levels, plan).eval() for _ in range(2)]
    anchors = anchors_of_patch(plan, level_strides(three_levels[0]), PATCH)
    data = torch.randn(3, 7, 25, 36)
    found = find_boxes(
        [Detector(network, anchors) for network in networks],
        data,
        patch_size=PATCH,
        mirror_axes=mirror_axes,
        lesion_class=1,
    )
    expected = ensemble_probabilities(
        [HeadAlone(network) for network in networks],
        data,
        ensembles=[[0], [1], [0, 1]],
        groups=[(1,)],
        patch_size=PATCH,
        mirror_axes=mirror_axes,
    )[:, 0].numpy()
    assert expected[0].std() > 0.01
    np.testing.assert_allclose(found.segmentations, expected[:2], atol=1e-6)
    np.testing.assert_allclose(found.segmented([0, 1]), expected[2], atol=1e-6)
    alone = find_boxes(
        [Detector(network, anchors) for network in networks], data, patch_size=PATCH, mirror_axes=mirror_axes
    )
    for one, other in zip(found.by_member, alone.by_member, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_the_segmentation_of_a_small_study_has_the_studys_size():
    data = study((3, 10, 20), [1, 3, 10, 3, 8, 18])
    found = find_boxes([Detector(Segmenting(1.5), ANCHORS)], data, patch_size=PATCH, lesion_class=1)
    np.testing.assert_allclose(found.segmentations, np.full((1, 3, 10, 20), 1 / (1 + np.exp(-1.5))), rtol=1e-6)


def test_segmentations_are_made_only_where_asked_for():
    found = find_boxes([Detector(BrightBox(0.8), ANCHORS)], study(), patch_size=PATCH)  # its segmentation is empty
    assert found.segmentations == ()
    with pytest.raises(ValueError, match="the segmentations were not asked for"):
        found.segmented([0])


def test_members_segmentations_are_averaged_as_probabilities():
    found = RawDetections((), [], 1, tuple(np.full((1, 2, 3), value, np.float32) for value in (0.1, 0.2, 0.6)))
    np.testing.assert_allclose(found.segmented([0, 2]), np.full((1, 2, 3), 0.35))
    assert found.segmentations[0][0, 0, 0] == np.float32(0.1)


def test_a_member_that_segments_no_numbers_is_named():
    detectors = [Detector(Segmenting(logit), ANCHORS) for logit in (1.0, float("nan"))]
    with pytest.raises(NotFiniteError, match="member 1"):
        find_boxes(detectors, study(), patch_size=PATCH, lesion_class=1)
