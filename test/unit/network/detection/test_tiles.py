"""Boxes of tiles: where they are in the study, also of mirrored copies, and how they are thinned."""

import numpy as np
import pytest
import torch
from clustered_boxes import encode

from network.detection.anchors import AnchorPlan, anchors_of_patch
from network.detection.retina_unet import DetectorOutput
from network.detection.tiles import boxes_of_tiles
from network.inference.sliding_window import NotFiniteError

TILE = (4, 8, 12)
ANCHORS = anchors_of_patch(
    AnchorPlan(levels=(1,), sizes_voxels_zyx=((2, 4, 4), (3, 3, 6))), ((1, 1, 1), (1, 2, 2)), TILE
)
FLAT = ANCHORS[0].flatten(0, 1)


def saying(*boxes_and_scores):
    """Output of a network that finds one box (with its score) in each tile, at an anchor of its own."""
    logits = torch.full((len(boxes_and_scores), len(FLAT)), -20.0)
    deltas = torch.zeros(len(boxes_and_scores), len(FLAT), 6)
    for tile, (box, score) in enumerate(boxes_and_scores):
        anchor = 17 * tile + 5
        logits[tile, anchor] = torch.logit(torch.tensor(score))
        deltas[tile, anchor] = encode(torch.tensor(box), FLAT[anchor])
    return DetectorOutput(logits, deltas, torch.empty(0))


def test_boxes_move_to_their_tiles_places():
    output = saying(([1.0, 2, 3, 3, 5, 8], 0.9), ([0.0, 0, 4, 2, 3, 9], 0.6))
    first, second = boxes_of_tiles(output, ANCHORS, TILE, origins_zyx=[(0, 0, 0), (10, 20, 30)], score_threshold=0.1)
    np.testing.assert_allclose(first.boxes, [[1, 2, 3, 3, 5, 8]], rtol=1e-5)
    np.testing.assert_allclose(second.boxes, [[10, 20, 34, 12, 23, 39]], rtol=1e-5)
    assert [*first.scores, *second.scores] == pytest.approx([0.9, 0.6])


def test_boxes_of_a_mirrored_copy_are_mirrored_back():
    output = saying(([1.0, 2, 3, 3, 5, 8], 0.9))
    (found,) = boxes_of_tiles(output, ANCHORS, TILE, origins_zyx=[(0, 0, 0)], mirror_axes=(0, 2), score_threshold=0.1)
    np.testing.assert_allclose(found.boxes, [[1, 2, 4, 3, 5, 9]], rtol=1e-5)


def test_boxes_are_cut_at_their_tiles_edges():
    output = saying(([-2.0, 2, 3, 3, 5, 20], 0.9))
    (found,) = boxes_of_tiles(output, ANCHORS, TILE, origins_zyx=[(5, 0, 0)], score_threshold=0.1)
    np.testing.assert_allclose(found.boxes, [[5, 2, 3, 8, 5, 12]], rtol=1e-5)


def test_boxes_that_overlap_are_thinned_to_the_strongest():
    torch.manual_seed(0)
    output = DetectorOutput(torch.randn(1, len(FLAT)), torch.zeros(1, len(FLAT), 6), torch.empty(0))
    (found,) = boxes_of_tiles(output, ANCHORS, TILE, origins_zyx=[(0, 0, 0)])
    assert found.scores[0] == pytest.approx(output.logits.sigmoid().max().item())
    assert (np.diff(found.scores) <= 0).all()
    for a in range(len(found)):
        for b in range(a):
            sides = np.minimum(found.boxes[a, 3:], found.boxes[b, 3:]) - np.maximum(
                found.boxes[a, :3], found.boxes[b, :3]
            )
            shared = np.prod(np.clip(sides, 0, None))
            own = [np.prod(found.boxes[i, 3:] - found.boxes[i, :3]) for i in (a, b)]
            assert shared / (sum(own) - shared) <= 0.1


@pytest.mark.parametrize("part", ["logits", "deltas"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_a_number_is_refused_not_dropped(part, value):
    output = saying(([1.0, 2, 3, 3, 5, 8], 0.9))
    getattr(output, part).view(-1)[7] = value
    with pytest.raises(NotFiniteError, match="member 3"):
        boxes_of_tiles(output, ANCHORS, TILE, origins_zyx=[(0, 0, 0)], member=3)


def test_saturated_scores_keep_the_order_of_their_logits():
    logits = torch.full((1, len(FLAT)), 40.0)  # the sigmoid of all is 1
    logits[0, 21] = 50
    (found,) = boxes_of_tiles(
        DetectorOutput(logits, torch.zeros(1, len(FLAT), 6), torch.empty(0)), ANCHORS, TILE, origins_zyx=[(0, 0, 0)]
    )
    inside = torch.minimum(FLAT[21].clamp_min(0), torch.tensor([*TILE, *TILE]))
    assert found.boxes[0].tolist() == inside.tolist()
