"""Noise of the scanners against its known moments."""

import numpy as np
import pytest

from contract.images.grid import Grid
from phantom.noise import with_ct_noise, with_rician_noise


def test_rician_noise_has_its_known_moments():
    # no signal: Rayleigh, mean sigma sqrt(pi/2); strong signal: Gaussian with the same sigma
    silence = with_rician_noise(np.random.default_rng(1), np.zeros((40, 50, 60), dtype=np.float32), 0.1)
    assert silence.mean() == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.01)
    strong = with_rician_noise(np.random.default_rng(1), np.full((40, 50, 60), 5.0, dtype=np.float32), 0.1)
    assert strong.std() == pytest.approx(0.1, rel=0.02)


def test_ct_noise_has_its_deviation_and_is_smooth_in_the_plane_only():
    grid = Grid((60, 50, 40), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    silent = np.full(grid.shape_zyx, 50.0, dtype=np.float32)
    noise = with_ct_noise(np.random.default_rng(1), silent, grid, sd_hu=8.0, kernel_mm=1.5) - silent
    assert noise.std() == pytest.approx(8.0, rel=1e-3)
    between = [
        np.corrcoef(noise.take(range(1, size), axis).ravel(), noise.take(range(size - 1), axis).ravel())[0, 1]
        for axis, size in enumerate(noise.shape)
    ]
    # neighbours after a Gaussian kernel of standard deviation s at distance d: exp(-d^2 / 4 s^2)
    assert between == pytest.approx([0.0, np.exp(-1 / 9), np.exp(-1 / 9)], abs=0.03)
