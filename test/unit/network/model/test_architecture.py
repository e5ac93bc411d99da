import pytest
import torch
from programs import python
from tiny import three_level_plans

from contract.errors import OncoduetError
from network.model.architecture import build_network, normalise_by_groups


def test_channels_and_classes_are_those_of_the_dataset(single_channel):
    network = build_network(*single_channel, deep_supervision=False)
    assert network(torch.zeros(2, 1, 8, 16, 16)).shape == (2, 4, 8, 16, 16)


def test_deep_supervision_returns_the_coarser_outputs_too(tiny_dataset):
    outputs = build_network(three_level_plans(), tiny_dataset, deep_supervision=True)(torch.zeros(1, 3, 8, 16, 16))
    assert [tuple(each.shape) for each in outputs] == [(1, 2, 8, 16, 16), (1, 2, 8, 8, 8)]


@pytest.mark.parametrize(
    ("key", "name", "known"),
    [("network_class_name", "subprocess.Popen", "dynamic_network_"), ("norm_op", "os.system", "torch.nn.Inst")],
)
def test_a_network_class_or_an_operator_from_elsewhere_is_refused(tiny_plans, tiny_dataset, key, name, known):
    architecture = tiny_plans["configurations"]["3d_fullres"]["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = name
    with pytest.raises(OncoduetError, match=f"{key}: expected one of {known}.*, found '{name}'$"):
        build_network(tiny_plans, tiny_dataset, deep_supervision=False)


def test_inference_imports_no_trainer_and_nothing_that_writes_caches():
    program = """
import sys, json, pathlib, numpy, torch
import network.study.scan, network.inference.sliding_window, network.model.weights
from network.model.architecture import build_network, normalise_by_groups
from network.preprocessing.nnunet_preprocessing import preprocess
plans = json.loads(pathlib.Path("test/unit/network/tiny_plans.json").read_text())
dataset = {"channel_names": {"0": "a", "1": "b", "2": "c"}, "labels": {"background": 0, "lesion": 1}}
preprocess(numpy.ones((3, 8, 16, 16), "f"), (3.0, 1.0, 1.0), plans=plans, dataset=dataset)
build_network(plans, dataset)
print([m for m in sys.modules if m in ("matplotlib", "numba", "torchvision", "timm") or "nnUNetTrainer" in m])
"""
    result = python("-c", program)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_group_norms_give_what_instance_norms_give(tiny_plans, tiny_dataset):
    torch.manual_seed(0)
    network = build_network(tiny_plans, tiny_dataset).eval()
    for name, parameter in network.named_parameters():
        if ".norm." in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    data = 3 + 50 * torch.randn(2, 3, 8, 16, 16)
    with torch.inference_mode():
        expected = network(data)
        found = normalise_by_groups(network)(data)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert not any(isinstance(module, torch.nn.InstanceNorm3d) for module in network.modules())
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
