"""Each intensity transform against nnU-Net's own, given the same parameters."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import (
    MultiplicativeBrightnessTransform,
)
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

from training.augmentation.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise, gaussian
from training.augmentation.patches import Patches
from training.augmentation.random_parameters import PerChannel, Range

PATCHES, CHANNELS = 3, 2


def always(values, *, per_channel=1):
    return PerChannel(1.0, 1.0, values, synchronised=False, per_channel=per_channel)


def check(step, patches, random, stock):
    """Apply our step, and ``stock(image of one patch, its values per channel)`` beside it."""
    before, uniform = patches.image.clone(), random.random((PATCHES, step.columns(CHANNELS)))
    width = step.parameters.columns(CHANNELS)
    rows, values = step.parameters.draw(uniform[:, :width], CHANNELS)
    assert rows.tolist() == list(range(PATCHES * CHANNELS))
    step.apply(patches, uniform)
    for patch in range(PATCHES):
        expected = stock(before[patch].clone(), values.reshape(PATCHES, CHANNELS, -1)[patch])
        torch.testing.assert_close(patches.image[patch], expected, rtol=1e-4, atol=2e-5)
        assert not torch.allclose(patches.image[patch], before[patch], atol=1e-3)


def test_brightness_is_nnunets(patches, random):
    transform = MultiplicativeBrightnessTransform((0.5, 2), False)
    check(Brightness(always(Range(0.5, 2))), patches, random, lambda image, values: transform._apply_to_image(
        image, apply_to_channel=range(CHANNELS), multipliers=torch.from_numpy(values[:, 0]).float()
    ))  # fmt: skip


@pytest.mark.parametrize("preserve_range", [True, False])
def test_contrast_is_nnunets(patches, random, preserve_range):
    transform = ContrastTransform((0.5, 2), preserve_range, False)
    check(Contrast(always(Range(0.5, 2)), preserve_range), patches, random, lambda image, values: (
        transform._apply_to_image(
            image, apply_to_channel=torch.arange(CHANNELS), multipliers=torch.from_numpy(values[:, 0]).float()
        )
    ))  # fmt: skip


@pytest.mark.parametrize("inverted", [0, 1])
@pytest.mark.parametrize("retained", [0, 1])
def test_gamma_is_nnunets(patches, random, inverted, retained):
    transform = GammaTransform((0.7, 1.5), inverted, False, 1, retained)
    check(Gamma(always(Range(0.7, 1.5)), inverted, retained), patches, random, lambda image, values: (
        transform._apply_to_image(
            image,
            apply_to_channel=torch.arange(CHANNELS),
            retain_stats=torch.full((CHANNELS,), bool(retained)),
            invert_image=torch.full((CHANNELS,), bool(inverted)),
            gamma=torch.from_numpy(values[:, 0]).float(),
        )
    ))  # fmt: skip


def test_gamma_retains_and_inverts_each_channel_by_its_own_coin(patches, random):
    step = Gamma(always(Range(1.4, 1.4)), 0.5, 0.5)
    transform = GammaTransform(1.4, 0.5, False, 1, 0.5)
    uniform = random.random((PATCHES, step.columns(CHANNELS)))
    coins = (uniform[:, -2 * CHANNELS :] < 0.5).reshape(PATCHES, CHANNELS, 2)
    assert len({tuple(pair) for pair in coins.reshape(-1, 2).tolist()}) > 2
    expected = [
        transform._apply_to_image(
            image.clone(),
            apply_to_channel=torch.arange(CHANNELS),
            invert_image=torch.from_numpy(coin[:, 0]),
            retain_stats=torch.from_numpy(coin[:, 1]),
            gamma=torch.full((CHANNELS,), 1.4),
        )
        for image, coin in zip(patches.image, coins, strict=True)
    ]
    step.apply(patches, uniform)
    torch.testing.assert_close(patches.image, torch.stack(expected), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sigma", [(0.5, 1.0), (0.3, 1.2)])
def test_blur_is_nnunets(patches, random, sigma):
    transform = GaussianBlurTransform(sigma, p_per_channel=1)
    check(Blur(always(Range(*sigma), per_channel=3)), patches, random, lambda image, values: (
        transform._apply_to_image(image, apply_to_channel=np.ones(CHANNELS, bool), sigmas=values.tolist())
    ))  # fmt: skip


def test_kernels_of_different_length_are_combined():
    kernels = gaussian(np.array([0.4, 1.0]))  # 0.4 * 6 + 0.5 = 2.9: 3 taps; 6.5: 6, next odd number above 7
    assert kernels.shape == (2, 7)
    assert kernels[0, [0, 1, 5, 6]].tolist() == [0, 0, 0, 0]
    assert kernels.sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize("ignored", [(), (0,)])
def test_low_resolution_is_nnunets(patches, random, ignored):
    transform = SimulateLowResolutionTransform((0.3, 0.8), False, True, ignored)

    def stock(image, values):
        scales = torch.from_numpy(np.broadcast_to(values, (CHANNELS, 3)).copy()).float()
        scales[:, list(ignored)] = 1
        return transform._apply_to_image(image, apply_to_channel=range(CHANNELS), scales=scales)

    check(LowResolution(always(Range(0.3, 0.8)), ignored), patches, random, stock)


def test_noise_has_the_drawn_standard_deviation(random):
    patches = Patches(torch.zeros(4, CHANNELS, 20, 40, 40), torch.zeros(4, 20, 40, 40, dtype=torch.int16))
    step = Noise(PerChannel(0.5, 1.0, Range(0, 0.1), synchronised=True))
    uniform = random.random((4, step.columns(CHANNELS)))
    uniform[:, 0] = [0.2, 0.7, 0.2, 0.2]
    step.apply(patches, uniform)
    _, sigmas = step.parameters.draw(uniform[:, :-1], CHANNELS)
    found = patches.image.flatten(2).std(2)
    assert found[1].tolist() == [0, 0]
    assert found[[0, 2, 3]].flatten().numpy() == pytest.approx(sigmas[:, 0], rel=0.02)
    assert float(found[0, 0]) == pytest.approx(float(found[0, 1]), rel=0.02)  # synchronised
    values = patches.image[[0, 2, 3]].flatten(2).flatten(0, 1)
    assert np.abs(np.corrcoef(values) - np.eye(6)).max() < 0.03  # 5 standard errors
