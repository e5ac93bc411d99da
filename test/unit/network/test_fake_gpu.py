"""Prediction on CUDA tensors (``test/fake_cuda.py``): devices are not mixed, and the results are those of the CPU."""

import copy

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda, network_on_gpu, on_gpu
from tiny import three_level_plans

from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.retina_unet import build_retina_unet
from network.detection.whole_study import Detector, find_boxes
from network.inference.sliding_window import Streamed, ensemble_probabilities
from network.model.architecture import build_network

PATCH = (8, 16, 16)
PLAN = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 4, 4), (4, 8, 8)))


def noise():
    return torch.randn(3, 9, 24, 30, generator=torch.Generator().manual_seed(0))


class Counting(torch.nn.Module):
    """Remembers how many windows each pass had."""

    def __init__(self, network):
        super().__init__()
        self.network, self.windows = network, set()

    def forward(self, patches):
        self.windows.add(len(patches))
        return self.network(patches)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sliding_window_gives_the_probabilities_of_the_cpu(tiny_dataset, streamed):
    torch.manual_seed(1)
    networks = [build_network(three_level_plans(), tiny_dataset).eval() for _ in range(2)]
    options = {"ensembles": [(0, 1), (1,)], "groups": [(1,), (0, 1)], "patch_size": PATCH, "mirror_axes": (0, 2)}
    expected = ensemble_probabilities(networks, noise(), **options)
    moved = [Counting(network_on_gpu(copy.deepcopy(network))) for network in networks]
    with fake_cuda():
        given = Streamed(2, moved.__getitem__) if streamed else moved
        found = ensemble_probabilities(given, on_gpu(noise()), **options)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert moved[0].windows == {1}


@pytest.mark.parametrize("lesion_class", [None, 1])
def test_detectors_find_the_boxes_of_the_cpu(tiny_dataset, lesion_class):
    torch.manual_seed(1)
    plans = three_level_plans()
    network = build_retina_unet(plans, tiny_dataset, PLAN).eval()
    network.classifier[-1].weight.data.normal_(std=0.5)
    anchors = anchors_of_patch(PLAN, level_strides(plans), PATCH)
    options = {"patch_size": PATCH, "mirror_axes": (1,), "score_threshold": 0.02, "lesion_class": lesion_class}
    expected = find_boxes([Detector(network, anchors)], noise(), batch=1, **options)  # as there
    with fake_cuda():
        moved = Detector(network_on_gpu(copy.deepcopy(network)), [on_gpu(level) for level in anchors])
        found = find_boxes([moved], on_gpu(noise()), **options)
    assert len(expected.by_member[0].boxes) > 5
    np.testing.assert_allclose(found.by_member[0].boxes, expected.by_member[0].boxes, atol=1e-3)
    np.testing.assert_allclose(found.by_member[0].scores, expected.by_member[0].scores, atol=1e-5)
    for ours, theirs in zip(found.segmentations, expected.segmentations, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
