"""The pieces fit together: network, anchors, matching and losses learn to find the one lesion of one patch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import three_level_plans

from network.detection.anchors import anchors_of_patch, level_strides
from network.detection.boxes import iou
from network.detection.retina_unet import build_retina_unet
from network.detection.tiles import boxes_of_tiles
from training.dataset.lesion_instances import labels_of, lesion_boxes, number_lesions
from training.retina_unet.anchor_planning import plan_anchors
from training.retina_unet.loss import DetectionLoss

PATCH = (12, 32, 32)
STEPS = 50


@pytest.mark.slow
def test_a_network_finds_the_lesion_of_the_patch_that_it_was_trained_on():
    """Two patches, for PyTorch takes its slow convolutions for a single one; the second has no lesion."""
    torch.manual_seed(0)
    label = np.zeros((2 * PATCH[0], *PATCH[1:]), np.int32)
    label[4:9, 9:20, 14:22] = 1
    instances = number_lesions(label, 1)
    patches = torch.from_numpy(instances.array).view(2, 1, *PATCH)
    lesions = [lesion_boxes(patch, instances) for patch in patches[:, 0]]
    images = torch.randn(2, 1, *PATCH) + 2 * (patches > 0)
    plans = three_level_plans((8, 16, 16))
    strides = level_strides(plans)
    plan = plan_anchors(np.array([[4, 8, 6]]), strides, source=Path("patch"), sizes_per_axis=1).plan
    network = build_retina_unet(plans, {"channel_names": {"0": "ct"}, "labels": {"background": 0, "lesion": 1}}, plan)
    loss, anchors = DetectionLoss(), anchors_of_patch(plan, strides, PATCH)
    others = [each for name, each in network.named_parameters() if not name.startswith(("classifier.6", "regressor.6"))]
    groups = [{"params": others}, {"params": network.last_layers.parameters(), "lr": 0.005}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(network(images), anchors, lesions, labels_of(patches, instances), generator).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        optimizer.step()
    with torch.inference_mode():
        output = network.eval()(images)
    found, false = boxes_of_tiles(output, anchors, PATCH, origins_zyx=[(0, 0, 0)] * 2)
    overlap = iou(torch.from_numpy(found.boxes[0]), lesions[0][0].double()).item()
    segmented = output.segmentation.argmax(dim=1, keepdim=True)
    assert overlap >= 0.5
    assert found.scores[0] > 0.9 > 0.2 > max(false.scores)
    assert (segmented == patches).float().mean() > 0.95
