"""Boxes that a network puts outside of its tile or of the study: cut, or no finding where nothing is left."""

import numpy as np
import pytest
import torch
from clustered_boxes import encode, predict_boxes

from network.detection.anchors import AnchorPlan, anchors_of_patch
from network.detection.clustering import BoxPostprocessing
from network.detection.retina_unet import DetectorOutput
from network.detection.whole_study import Detector

PATCH = (4, 8, 12)
ANCHORS = anchors_of_patch(AnchorPlan(levels=(0,), sizes_voxels_zyx=((2, 4, 4),)), ((1, 2, 2),), PATCH)
FLAT = ANCHORS[0].flatten(0, 1)


class Saying(torch.nn.Module):
    """Finds the same box in every tile."""

    def __init__(self, *box):
        super().__init__()
        self.box = torch.tensor(box, dtype=torch.float32)

    def forward(self, patches):
        logits = torch.full((len(patches), len(FLAT)), -20.0)
        deltas = torch.zeros(len(patches), len(FLAT), 6)
        logits[:, 0], deltas[:, 0] = 3.0, encode(self.box, FLAT[0])
        return DetectorOutput(logits, deltas, torch.empty(0))


def found_in(shape, box):
    rule = BoxPostprocessing(score_threshold=0.1)
    return predict_boxes([Detector(Saying(*box), ANCHORS)], torch.zeros(1, *shape), patch_size=PATCH, rule=rule)


@pytest.mark.parametrize("box", [(-5, 1, 1, -1, 5, 5), (4, 1, 1, 7, 5, 5), (1, 1, 12, 3, 5, 20), (1, -9, 1, 3, 0, 5)])
def test_a_box_beyond_its_tile_is_no_finding(box):
    assert len(found_in(PATCH, box)) == 0


def test_a_box_that_leaves_its_tile_is_cut_there():
    np.testing.assert_allclose(found_in(PATCH, (-3, 2, 5, 3, 6, 40)).boxes, [[0, 2, 5, 3, 6, 12]], atol=1e-4)


def test_in_the_padding_of_a_small_study_there_is_no_finding():
    shape = (3, 5, 7)  # padded at the upper ends to 4 x 8 x 12
    assert len(found_in(shape, (1, 5, 1, 3, 8, 6))) == 0
    np.testing.assert_allclose(found_in(shape, (1, 2, 1, 4, 8, 11)).boxes, [[1, 2, 1, 3, 5, 7]], atol=1e-4)
