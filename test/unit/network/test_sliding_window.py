import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference import predict_from_raw_data as stock
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from network.architecture import build_network
from network.sliding_window import gaussian_weight, member_probabilities, predict_probability, window_slices

Json = dict[str, Any]
PATCH = (8, 16, 16)


class Pointwise(torch.nn.Module):
    """Logits that depend on the voxel alone, so that no window can matter."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-self.scale * x[:, :1], self.scale * x[:, :1]], dim=1)


@pytest.fixture
def make_network(tiny_plans: Json, tiny_dataset: Json) -> Callable[[int], torch.nn.Module]:
    def make(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return build_network(tiny_plans, tiny_dataset, deep_supervision=False).eval()

    return make


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(8, 16, 16), (9, 24, 30), (5, 40, 17), (3, 4, 5)])
def test_windows_do_not_matter_to_a_network_that_sees_single_voxels(size: tuple[int, int, int]) -> None:
    data = noise(1, *size)
    probability = predict_probability([Pointwise(0.7)], data, patch_size=PATCH, mirror_axes=(0, 1, 2), batch=3)
    assert probability.shape == (2, *size)
    np.testing.assert_allclose(probability[1], torch.sigmoid(1.4 * data[0]).numpy(), atol=1e-6)


def test_members_are_averaged_as_probabilities() -> None:
    data = noise(1, 9, 20, 20)
    members = [Pointwise(0.5), Pointwise(3.0)]
    probability = predict_probability(members, data, patch_size=PATCH)[1]
    expected = (torch.sigmoid(1.0 * data[0]) + torch.sigmoid(6.0 * data[0])) / 2
    np.testing.assert_allclose(probability, expected.numpy(), atol=1e-6)
    assert np.abs(probability - torch.sigmoid(3.5 * data[0]).numpy()).max() > 0.05  # the mean of the logits


def test_each_member_is_predicted_as_if_it_were_alone(make_network: Callable[[int], torch.nn.Module]) -> None:
    data, networks = noise(3, 9, 24, 30), [make_network(seed) for seed in (1, 2, 3)]
    together = member_probabilities(networks, data, patch_size=PATCH, mirror_axes=(0, 1, 2))
    assert together.shape == (3, 2, 9, 24, 30)
    for member, network in zip(together, networks, strict=True):
        alone = member_probabilities([network], data, patch_size=PATCH, mirror_axes=(0, 1, 2))[0]
        torch.testing.assert_close(member, alone, rtol=0, atol=0)
    torch.testing.assert_close(together.sum(dim=1), torch.ones(3, 9, 24, 30))


def test_the_number_of_windows_per_pass_does_not_matter(make_network: Callable[[int], torch.nn.Module]) -> None:
    data, network = noise(3, 9, 24, 30), make_network(1)
    one, five = (predict_probability([network], data, patch_size=PATCH, batch=batch) for batch in (1, 5))
    np.testing.assert_allclose(one, five, atol=1e-5)


def test_mirroring_averages_all_combinations_of_the_axes(make_network: Callable[[int], torch.nn.Module]) -> None:
    data, network = noise(3, *PATCH), make_network(1)
    found = member_probabilities([network], data, patch_size=PATCH, mirror_axes=(0, 2))[0]
    with torch.inference_mode():
        flips: list[tuple[int, ...]] = [(), (1,), (3,), (1, 3)]
        logits = sum(torch.flip(network(torch.flip(data, each)[None])[0], each) for each in flips) / 4
    torch.testing.assert_close(found, torch.softmax(logits, dim=0), rtol=0, atol=1e-5)
    plain = member_probabilities([network], data, patch_size=PATCH)[0]
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("size", "step"), [((8, 16, 16), 0.5), ((20, 33, 50), 0.5), ((9, 17, 31), 1.0), ((30, 40, 41), 0.3)]
)
def test_windows_cover_the_volume_and_lie_as_close_as_asked(size: tuple[int, int, int], step: float) -> None:
    covered = np.zeros(size, int)
    windows = window_slices(size, PATCH, step)
    for window in windows:
        assert all(each.stop - each.start == patch for each, patch in zip(window, PATCH, strict=True))
        covered[window] += 1
    assert covered.min() >= 1
    for axis, patch in enumerate(PATCH):
        starts = sorted({window[axis].start for window in windows})
        assert np.diff(starts).max(initial=0) <= int(np.ceil(patch * step))


@pytest.mark.parametrize("step", [0.0, 1.5, -0.5])
def test_a_step_outside_of_0_to_1_is_a_bug(step: float) -> None:
    with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
        window_slices((9, 20, 20), PATCH, step)


def test_no_network_is_a_bug() -> None:
    with pytest.raises(ValueError, match="no networks"):
        predict_probability([], noise(1, 8, 16, 16), patch_size=PATCH)


@pytest.mark.parametrize("patch", [(8, 16, 16), (7, 20, 33), (1, 4, 160)])
def test_the_weight_is_nnunets_gaussian(patch: tuple[int, int, int]) -> None:
    expected = compute_gaussian(patch, dtype=torch.float32, device=torch.device("cpu"))
    torch.testing.assert_close(gaussian_weight(patch), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("size", [(9, 24, 30), (20, 33, 21), (5, 40, 12)])
@pytest.mark.parametrize("mirror_axes", [(), (0, 1, 2)])
def test_logits_are_those_of_nnunets_predictor_with_float32_accumulators(
    make_network: Callable[[int], torch.nn.Module],
    tiny_plans: Json,
    tiny_dataset: Json,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int, int],
    mirror_axes: tuple[int, ...],
) -> None:
    class Float32Torch(types.ModuleType):
        """torch, but what nnU-Net asks for as half is float32."""

        half = torch.float32

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    monkeypatch.setattr(stock, "torch", Float32Torch("torch"))
    monkeypatch.setattr(stock, "compute_gaussian", functools.partial(stock.compute_gaussian, dtype=torch.float32))
    network, data = make_network(4), noise(3, *size)
    plans = PlansManager(tiny_plans)
    predictor = stock.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=bool(mirror_axes))
    predictor.manual_initialization(
        network, plans, plans.get_configuration("3d_fullres"), [network.state_dict()], tiny_dataset, "none", mirror_axes
    )
    expected = torch.softmax(predictor.predict_logits_from_preprocessed_data(data), dim=0)
    found = predict_probability([network], data, patch_size=PATCH, mirror_axes=mirror_axes)
    assert expected.dtype == torch.float32
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
