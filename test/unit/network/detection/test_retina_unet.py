"""The network's shapes, the order of its results, and its U-Net against the plan's own network."""

import pytest
import torch
from programs import python
from refusals import refused_with

from network.detection.anchors import AnchorPlan, anchors_of_patch, level_strides
from network.detection.retina_unet import PRIOR, RetinaUNet, build_retina_unet
from network.model.architecture import build_network

PATCH = (4, 16, 24)
PLAN = AnchorPlan(levels=(1, 2), sizes_voxels_zyx=((2, 4, 4), (3, 6, 6), (2, 5, 7)))


@pytest.fixture
def network(three_levels):
    torch.manual_seed(0)
    return build_retina_unet(*three_levels, PLAN)


def test_every_anchor_has_a_logit_and_six_deltas(network, three_levels):
    output = network(torch.randn(2, 3, *PATCH))
    count = sum(
        level.shape[0] * level.shape[1] for level in anchors_of_patch(PLAN, level_strides(three_levels[0]), PATCH)
    )
    assert count == 3 * (4 * 8 * 12 + 2 * 4 * 6)
    assert output.logits.shape == (2, count)
    assert output.deltas.shape == (2, count, 6)
    assert output.segmentation.shape == (2, 2, *PATCH)


def test_the_segmentation_is_that_of_the_plans_network_of_equal_weights(network, three_levels):
    own = build_network(*three_levels)
    own.load_state_dict(network.unet.state_dict())
    patches = torch.randn(2, 3, *PATCH)
    with torch.inference_mode():
        assert torch.equal(network(patches).segmentation, own(patches))


def test_untrained_scores_are_the_prior_and_boxes_the_anchors(network):
    output = network(torch.randn(1, 3, *PATCH))
    torch.testing.assert_close(output.logits.sigmoid().mean(), torch.tensor(PRIOR), rtol=0.1, atol=0)
    assert output.deltas.std() < 0.2


def test_results_are_in_the_order_of_the_anchors(network):
    """A head that answers with its place: position x fastest, then z; for each position its anchors."""

    class Places(torch.nn.Module):
        def forward(self, features):
            depth, height, width = features.shape[2:]
            place = torch.arange(depth * height * width, dtype=torch.float32).view(1, 1, depth, height, width)
            return torch.cat([10 * place + anchor for anchor in range(3)], dim=1)

    network.classifier = Places()
    logits = network(torch.zeros(1, 3, *PATCH)).logits[0]
    fine = 3 * 4 * 8 * 12
    assert logits[:fine].view(-1, 3).tolist() == [[10 * place + anchor for anchor in range(3)] for place in range(384)]
    assert logits[fine:].view(-1, 3).tolist() == [[10 * place + anchor for anchor in range(3)] for place in range(48)]


def test_deltas_of_one_anchor_are_contiguous(network):
    class Values(torch.nn.Module):
        def forward(self, features):
            values = torch.arange(18, dtype=torch.float32).view(1, 18, 1, 1, 1)
            return values.expand(len(features), 18, *features.shape[2:])

    network.regressor = Values()
    with torch.no_grad():
        network.scales[:] = torch.tensor([1.0, 2.0])
    deltas = network(torch.zeros(1, 3, *PATCH)).deltas[0]
    assert deltas[:3].tolist() == [list(range(6)), list(range(6, 12)), list(range(12, 18))]
    assert deltas[-1].tolist() == [2 * value for value in range(12, 18)]  # each level has its own scale


def test_all_levels_share_their_heads(network):
    """Weights of the heads do not grow with the levels; projections do."""
    names = [name for name, _ in network.named_parameters() if not name.startswith("unet.")]
    assert sum(name.startswith("projections.") and name.endswith("weight") for name in names) == 2
    assert sum(name.startswith("classifier.") and name.endswith("weight") for name in names) == 5  # 3 conv, 2 norm


def test_everything_but_the_unused_coarse_segmentations_learns(network):
    output = network(torch.randn(1, 3, *PATCH))
    (output.logits.square().sum() + output.deltas.square().sum() + output.segmentation.square().sum()).backward()
    still = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert still == {"unet.decoder.seg_layers.0.weight", "unet.decoder.seg_layers.0.bias"}


def test_head_channels_are_those_of_the_finest_detection_level(network):
    assert network.classifier[0].out_channels == network.unet.encoder.output_channels[PLAN.levels[0]]


def test_groups_of_a_head_have_at_least_sixteen_channels(network):
    wide = RetinaUNet(network.unet, PLAN, 40)
    assert (wide.classifier[0].out_channels, wide.classifier[1].num_groups) == (40, 2)


def test_a_network_without_a_decoder_is_refused(three_levels):
    plans, dataset = three_levels
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.vgg.VGG"
    with refused_with(problem="network_class_name: expected one of dynamic_.*UNet, found '.*VGG'"):
        build_retina_unet(plans, dataset, PLAN)


def test_anchors_of_another_network_are_refused(three_levels):
    with refused_with("anchors: levels", expected="rising levels among 0 to 2", found=r"\[2, 3\]"):
        build_retina_unet(*three_levels, AnchorPlan(levels=(2, 3), sizes_voxels_zyx=((2, 2, 2),)))


def test_detection_runs_where_torchvision_and_monai_are_blocked():
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchvision", "monai"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import json, pathlib, torch
import network.detection.painting, network.detection.whole_study
import training.retina_unet.anchor_planning, training.dataset.lesion_instances
import training.retina_unet.loss, training.retina_unet.atss
from network.detection.anchors import AnchorPlan
from network.detection.retina_unet import build_retina_unet
plans = json.loads(pathlib.Path("test/unit/network/tiny_plans.json").read_text())
dataset = {"channel_names": {"0": "a", "1": "b", "2": "c"}, "labels": {"background": 0, "lesion": 1}}
network = build_retina_unet(plans, dataset, AnchorPlan(levels=(1,), sizes_voxels_zyx=((3, 3, 3),)))
print(tuple(network(torch.zeros(1, 3, 4, 8, 8)).logits.shape))
"""
    result = python("-c", program)
    assert (result.stdout, result.stderr) == ("(1, 64)\n", "")
