import copy

import pytest
import torch
from tiny import three_level_plans
from torch import nn

from network.model.architecture import build_network, normalise_by_groups
from network.model.channels_last_unet import quick_on_cpu


def network_of(plans, dataset, **arguments):
    """Seeded, with biases, gains and shifts that matter."""
    plans["configurations"]["3d_fullres"]["patch_size"] = [12, 24, 24]  # of any stride here
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= arguments
    torch.manual_seed(1)
    network = build_network(plans, dataset).eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.5 * torch.randn_like(parameter)
    return network


def three_levels(features, kernels, strides):
    return {"features_per_stage": features, "kernel_sizes": kernels, "strides": strides}


FLAT, CUBE, WHOLE = [1, 3, 3], [3, 3, 3], [1, 1, 1]
SHAPES = {
    "eight features, which are computed in pairs": (
        three_levels([8, 16, 24], [FLAT, CUBE, CUBE], [WHOLE, [1, 2, 2], [2, 2, 2]]),
        (6, 12, 20),
    ),
    "rows of odd length": (three_levels([8, 8, 6], [CUBE] * 3, [WHOLE, [2, 2, 1], [1, 2, 1]]), (4, 8, 7)),
    "kernels of one voxel": (
        three_levels([5, 8, 6], [[1, 1, 3], [3, 1, 1], CUBE], [WHOLE, [2, 3, 2], [1, 2, 2]]),
        (4, 12, 8),
    ),
    "a single slice": (three_levels([4, 6, 8], [CUBE] * 3, [WHOLE, [1, 2, 2], [1, 2, 2]]), (1, 8, 12)),
    "two slices, and one voxel below": (three_levels([8, 6, 4], [CUBE] * 3, [WHOLE, [2, 2, 2], [1, 2, 2]]), (2, 4, 4)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"nonlin": "torch.nn.ReLU", "nonlin_kwargs": {}}, {"conv_bias": False, "norm_op_kwargs": {"affine": False}}],
    ids=["nnU-Net's", "ReLU", "without biases, gains and shifts"],
)
def test_logits_are_the_modules_but_for_rounding(tiny_dataset, shape, settings):
    arguments, size = SHAPES[shape]
    network = network_of(three_level_plans(), tiny_dataset, **arguments, **settings)
    patches = 2 + torch.randn(2, 3, *size)
    expected = normalise_by_groups(copy.deepcopy(network)).double()(
        patches.double()
    )  # an instance norm refuses one voxel
    quick = quick_on_cpu(network)
    assert quick is not network
    with torch.inference_mode():
        found = quick(patches)
    assert found.shape == expected.shape and expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4


def test_one_channel_and_one_feature_are_no_other_order(single_channel):
    plans, dataset = single_channel
    network = network_of(plans, dataset, features_per_stage=[1, 2])
    patch = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        assert (quick_on_cpu(network)(patch) - network.double()(patch.double())).abs().max() < 1e-4


def test_a_windows_bits_do_not_depend_on_the_others_of_its_pass(tiny_plans, tiny_dataset):
    quick = quick_on_cpu(network_of(tiny_plans, tiny_dataset))
    patches = torch.randn(3, 3, 8, 16, 16)
    assert torch.equal(quick(patches)[1:2], quick(patches[1:2]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"nonlin": "torch.nn.ELU", "nonlin_kwargs": {}},
        {"norm_op": "torch.nn.BatchNorm3d", "norm_op_kwargs": {}},
        {"kernel_sizes": [[1, 5, 5], [3, 3, 3]]},
        {"strides": [[1, 1, 1], [1, 3, 3]]},
        {"norm_op_kwargs": {"track_running_stats": True}},
    ],
    ids=str,
)
def test_a_network_with_an_unknown_part_is_left_as_it_is(tiny_plans, tiny_dataset, arguments):
    network = network_of(tiny_plans, tiny_dataset, **arguments)
    assert quick_on_cpu(network) is network


def test_another_network_is_left_as_it_is(tiny_plans, tiny_dataset):
    network = network_of(tiny_plans, tiny_dataset)
    inherited = copy.deepcopy(network)
    inherited.__class__ = type("Changed", (type(network),), {})
    assert quick_on_cpu(inherited) is inherited
    network.decoder.deep_supervision = True
    assert quick_on_cpu(network) is network
    assert isinstance(quick_on_cpu(nn.Identity()), nn.Identity)
