import time
from pathlib import Path

import pytest
import torch
from refusals import refused_with
from safetensors.torch import save

from contract.errors import OncoduetError
from network.model.architecture import build_network
from network.model.weights import fill, load_weights, save_weights, tensors_sha256

Weights = dict[str, torch.Tensor]


@pytest.fixture
def weights(tiny_plans, tiny_dataset):
    torch.manual_seed(5)
    return build_network(tiny_plans, tiny_dataset, deep_supervision=True).state_dict()


def test_weights_come_back_by_all_their_names(tmp_path, weights):
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert tensors_sha256(loaded) == tensors_sha256(weights)


def test_a_tensor_with_several_names_is_stored_once(tmp_path, weights):
    unique = {tensor.data_ptr(): tensor for tensor in weights.values()}
    assert len(unique) < len(weights)  # nnU-Net's decoder holds the encoder too
    save_weights(tmp_path / "w.safetensors", weights)
    stored_bytes = sum(tensor.numel() * tensor.element_size() for tensor in unique.values())
    all_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    assert stored_bytes < all_bytes
    header = int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "w.safetensors").stat().st_size - 8 - header <= stored_bytes


def test_weights_may_be_read_by_whoever_may_read_other_files(tmp_path, weights):
    save_weights(tmp_path / "w.safetensors", weights)
    (tmp_path / "other").write_text("")
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_equal_weights_give_equal_bytes(tmp_path, weights):
    save_weights(tmp_path / "a.safetensors", weights)
    save_weights(tmp_path / "b.safetensors", {name: weights[name].clone() for name in reversed(list(weights))})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_hash_depends_on_names_types_shapes_and_values():
    tensor = torch.arange(6, dtype=torch.float32)
    variants: list[Weights] = [
        {"a": tensor},
        {"b": tensor},
        {"a": tensor.reshape(2, 3)},
        {"a": tensor.view(torch.int32)},
        {"a": tensor + 1},
        {"a": tensor, "b": tensor},
        {},
    ]
    assert len({tensors_sha256(each) for each in variants}) == len(variants)
    assert tensors_sha256({"a": tensor, "b": -tensor}) == tensors_sha256({"b": -tensor, "a": tensor})


def test_a_tensor_that_is_a_view_is_stored_as_it_reads(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    save_weights(tmp_path / "w.safetensors", {"t": whole.T, "scalar": torch.tensor(3)})
    loaded = load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded["t"], whole.T)
    assert loaded["scalar"] == 3


def test_missing_weights_are_an_error(tmp_path):
    with refused_with(r"w\.safetensors", "weights not found"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_an_error(tmp_path, weights, keep):
    path = tmp_path / "w.safetensors"
    save_weights(path, weights)
    path.write_bytes(path.read_bytes()[:keep])
    with refused_with(r"w\.safetensors", expected="safetensors weights"):
        load_weights(path)


def test_a_pickle_is_not_loaded(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.safetensors")
    with refused_with(expected="safetensors weights"):
        load_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("aliases", "found"),
    [
        ("[]", "aliases that are no names by name"),
        ('{"b": ["a"]}', "aliases that are no names by name"),
        ('{"b": "nowhere"}', "'nowhere'"),
        ("[" * 100_000, "recursion"),
        ("{", "Expecting property name"),
    ],
)
def test_aliases_that_are_no_names_are_refused(tmp_path, aliases, found):
    (tmp_path / "w.safetensors").write_bytes(save({"a": torch.zeros(2)}, metadata={"aliases": aliases}))
    with pytest.raises(OncoduetError) as caught:
        load_weights(tmp_path / "w.safetensors")
    assert caught.value.expected == "safetensors weights"
    assert found in caught.value.found


def test_many_names_of_one_tensor_are_hashed_as_quickly_as_one():
    tensor = torch.zeros(250_000)
    began = time.process_time()
    tensors_sha256({str(number): tensor for number in range(100_000)})
    assert time.process_time() - began < 10  # 100 GB otherwise
    assert tensors_sha256({"a": tensor, "b": tensor}) == tensors_sha256({"a": tensor, "b": tensor.clone()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": torch.zeros(3, 2)},
            r"^1 tensors differ .*; weight: expected float32 \[2, 3\], found float32 \[3, 2\]",
        ),
        (
            {"weight": torch.zeros(2, 3).double()},
            r"^1 tensors differ .*; weight: expected float32 \[2, 3\], found float64 \[2, 3\]",
        ),
        (
            {"more": torch.zeros(1)},
            r"^1 tensors differ .*; more: expected none, found float32 \[1\]",
        ),
    ],
)
def test_a_network_without_memory_takes_only_weights_that_are_its_own(change, message):
    weights = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    with torch.device("meta"):
        network = torch.nn.Linear(3, 2)
    with refused_with("w", problem=message):
        fill(network, weights | change, Path("w"))
    assert network.weight.is_meta
    fill(network, weights, Path("w"))
    assert torch.equal(network.weight, weights["weight"])
    assert torch.equal(network.bias, weights["bias"])
