"""ATSS against the rule in plain loops over all anchors, and cases worked by hand."""

import statistics

import numpy as np
import pytest
import torch

from network.detection.anchors import AnchorPlan, anchors_of_patch
from network.detection.boxes import centres, iou
from training.retina_unet.atss import match_anchors

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 4, 4))
PATCH = (8, 16, 24)
ANCHORS = anchors_of_patch(
    AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 4, 4), (3, 5, 6), (4, 8, 5))), STRIDES, PATCH
)


def in_plain_loops(levels, boxes, nearest=4):
    """Every anchor with its distance and overlap, sorted and counted one by one."""
    flat = torch.cat([level.flatten(0, 1) for level in levels]).double()
    boxes = boxes.double()
    matched, best = [-1] * len(flat), [0.0] * len(flat)
    for lesion, box in enumerate(boxes):
        candidates, start = [], 0
        for level in levels:
            indices = range(start, start + level.shape[0] * level.shape[1])
            distances = {i: float((centres(flat[i]) - centres(box)).norm()) for i in indices}
            candidates += sorted(indices, key=lambda i: (distances[i], i))[: nearest * level.shape[1]]
            start = indices.stop
        overlaps = {i: float(iou(flat[i], box)) for i in candidates}
        threshold = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        for i, overlap in overlaps.items():
            if overlap >= threshold and overlap > best[i]:
                matched[i], best[i] = lesion, overlap
    return matched


def lesions(count, *, seed):
    random = np.random.default_rng(seed)
    middles = random.uniform(2, np.array(PATCH) - 2, (count, 3))
    half = random.uniform(0.7, 4, (count, 3))
    return torch.tensor(np.concatenate([middles - half, middles + half], axis=1), dtype=torch.float32)


@pytest.mark.parametrize("seed", range(5))
def test_anchors_are_matched_as_in_plain_loops(seed):
    boxes = lesions(3, seed=seed)
    found = match_anchors(ANCHORS, boxes).tolist()
    assert found == in_plain_loops(ANCHORS, boxes)
    assert set(found) > {-1}


def test_every_lesion_in_the_patch_finds_anchors_however_small():
    boxes = torch.tensor([[3.2, 7.1, 7.2, 3.4, 7.3, 7.4], [0.0, 0, 0, 8, 16, 24]])
    assert set(match_anchors(ANCHORS, boxes).tolist()) == {-1, 0, 1}


def test_an_anchor_that_two_lesions_want_goes_to_the_larger_overlap():
    # one position with one anchor 4 x 4 x 4, which both lesions are nearest to; IoU 48/64 and 16/64
    anchors = [torch.tensor([[[0.0, 0, 0, 4, 4, 4]]])]
    boxes = torch.tensor([[0.0, 0, 0, 4, 4, 1], [0.0, 0, 0, 4, 4, 3]])
    assert match_anchors(anchors, boxes).tolist() == [1]
    assert match_anchors(anchors, boxes[[1, 0]]).tolist() == [0]
    assert match_anchors(anchors, boxes[[1, 1]]).tolist() == [0]


def test_the_threshold_by_hand():
    # anchors 2, 4 and 8 voxels long at one position, lesion 4 long: IoU 1/2, 1, 1/2; mean 2/3, deviation 0.289
    anchors = [torch.tensor([[[0.0, 0, 4 - half, 1, 1, 4 + half] for half in (1, 2, 4)]])]
    assert match_anchors(anchors, torch.tensor([[0.0, 0, 2, 1, 1, 6]])).tolist() == [-1, 0, -1]


def test_anchors_that_do_not_overlap_a_lesion_are_never_positive():
    # all candidates have IoU 0, so mean and deviation are 0 and every candidate reaches the threshold
    anchors = [torch.tensor([[[0.0, 0, 0, 1, 1, 1]], [[0.0, 0, 1, 1, 1, 2]]])]
    assert match_anchors(anchors, torch.tensor([[5.0, 5, 5, 6, 6, 6]])).tolist() == [-1, -1]


def test_without_lesions_all_anchors_are_negative():
    found = match_anchors(ANCHORS, torch.empty(0, 6))
    assert found.shape == (3 * (8 * 8 * 12 + 4 * 4 * 6),)
    assert (found == -1).all()
