"""Noise of the scanners: Rician in magnitude MR images, smoothed Gaussian in reconstructed CT."""

import numpy as np

from contract.images.grid import Grid
from contract.images.volume import Float32Array
from phantom.study import blurred


def with_rician_noise(rng: np.random.Generator, signal: Float32Array, sd: float) -> Float32Array:
    """The magnitude of a signal with Gaussian noise of this standard deviation in both of its parts."""
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(sd)
    measured: Float32Array = np.hypot(signal + real, imaginary)
    return measured


def with_ct_noise(
    rng: np.random.Generator, image: Float32Array, grid: Grid, *, sd_hu: float, kernel_mm: float
) -> Float32Array:
    """The image with Gaussian noise, smoothed in its plane by a reconstruction kernel of this standard deviation."""
    noise = blurred(rng.standard_normal(grid.shape_zyx, dtype=np.float32), grid, kernel_mm)
    return image + np.float32(sd_hu / noise.std()) * noise
