"""Intensity transforms: noise, brightness, contrast, gamma, blur and lower resolution, as nnU-Net's transforms do them.

Each gathers the channels that it changes, changes them together, and puts them back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch.nn.functional import interpolate

from training.augmentation.patches import Patches, on_device
from training.augmentation.random_parameters import PerChannel, Rows, Uniform

EPSILON = 1e-7
"""Smallest range and standard deviation that gamma divides by."""
TRUNCATE = 6.0
"""Width of a blur's kernel in standard deviations."""


@dataclass(frozen=True)
class ChannelStep:
    """A change of channels that are drawn, by values that are drawn."""

    parameters: PerChannel

    def columns(self, channels: int) -> int:
        """How many uniform numbers a patch takes."""
        return self.parameters.columns(channels)


@dataclass(frozen=True)
class Noise(ChannelStep):
    """Gaussian noise; the value is its standard deviation."""

    def columns(self, channels: int) -> int:
        """Columns of the parameters, and one for the noise's seed."""
        return self.parameters.columns(channels) + 1

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Add noise. Each patch's comes from a generator that its own row seeds."""
        rows, sigmas = self.parameters.draw(uniform[:, :-1], patches.channels)
        for patch in np.unique(rows // patches.channels):
            generator = torch.Generator(patches.image.device).manual_seed(int(uniform[patch, -1] * 2**53))
            noise = torch.empty_like(patches.image[patch]).normal_(generator=generator)
            for row, sigma in zip(rows, sigmas[:, 0], strict=True):
                if row // patches.channels == patch:
                    patches.rows[row].add_(noise[row % patches.channels], alpha=float(sigma))


@dataclass(frozen=True)
class Brightness(ChannelStep):
    """Multiplies by the value."""

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Multiply."""
        for row, factor in zip(*self.parameters.draw(uniform, patches.channels), strict=True):
            patches.rows[row].mul_(float(factor[0]))


@dataclass(frozen=True)
class Contrast(ChannelStep):
    """Stretches about the mean by the value."""

    preserve_range: bool
    """Whether values that leave the range of the input are clipped to it."""

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Stretch, and clip where asked to."""
        rows, factors = self.parameters.draw(uniform, patches.channels)
        if not len(rows):
            return
        index = on_device(rows, patches.image, torch.int64)
        x = patches.rows[index]
        mean, low, high = _mean(x), x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x.sub_(mean).mul_(_column(factors, x)).add_(mean)
        if self.preserve_range:
            x.clamp_(low, high)
        patches.rows[index] = x


@dataclass(frozen=True)
class Gamma(ChannelStep):
    """Raises intensities, scaled to their range, to the power of the value."""

    invert: float
    """Probability that gamma is applied to the inverted channel."""
    retain: float
    """Probability that mean and standard deviation of the channel are restored."""

    def columns(self, channels: int) -> int:
        """Columns of the parameters, and two per channel for inversion and restoration."""
        return self.parameters.columns(channels) + 2 * channels

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Apply the curve."""
        coins = 2 * patches.channels
        rows, powers = self.parameters.draw(uniform[:, :-coins], patches.channels)
        if not len(rows):
            return
        inverted, retained = (uniform[:, -coins:].reshape(-1, 2)[rows] < (self.invert, self.retain)).T
        index = on_device(rows, patches.image, torch.int64)
        x = patches.rows[index]
        if inverted.any():
            sign = _column(np.where(inverted, -1.0, 1.0), x)
            x.mul_(sign)
        mean, std = _mean(x), _std(x)
        low = x.amin((1, 2, 3), keepdim=True)
        width = x.amax((1, 2, 3), keepdim=True).sub_(low)
        x.sub_(low).div_(width.clamp(min=EPSILON)).pow_(_column(powers, x)).mul_(width).add_(low)
        if retained.any():
            factor = std / _std(x).clamp(min=EPSILON)
            restored = (x - _mean(x)).mul_(factor).add_(mean)
            x = restored if retained.all() else torch.where(_column(retained, x) > 0, restored, x)
        if inverted.any():
            x.mul_(sign)
        patches.rows[index] = x


@dataclass(frozen=True)
class Blur(ChannelStep):
    """Convolves with a Gaussian; the values are its standard deviations along z, y, x in voxels."""

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Blur along each axis; beyond the border the image is mirrored."""
        rows, sigmas = self.parameters.draw(uniform, patches.channels)
        if not len(rows):
            return
        sigmas = np.broadcast_to(sigmas, (len(rows), 3))
        size, device = patches.image.shape[2:], patches.image.device
        weights = [gaussian(sigmas[:, axis]) for axis in range(3)]
        _along_axes(patches, rows, [
            torch.einsum("nt,tij->nij", on_device(each, patches.image), _shifts(length, each.shape[1], device))
            for each, length in zip(weights, size, strict=True)
        ])  # fmt: skip


@dataclass(frozen=True)
class LowResolution(ChannelStep):
    """Goes to a grid coarser by the value, the nearest voxel counting, and back by linear interpolation."""

    ignored_axes: tuple[int, ...]
    """Axes that keep their resolution."""

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Lower the resolution along each axis."""
        rows, scales = self.parameters.draw(uniform, patches.channels)
        if not len(rows):
            return
        scales = np.broadcast_to(scales, (len(rows), 3)).astype(np.float32)
        matrices: list[torch.Tensor | None] = []
        for axis, length in enumerate(patches.image.shape[2:]):
            coarse = [round(length * float(scale)) for scale in scales[:, axis]]
            if axis in self.ignored_axes or all(each == length for each in coarse):
                matrices.append(None)
            else:
                device = patches.image.device
                matrices.append(torch.stack([_there_and_back(length, each, device) for each in coarse]))
        _along_axes(patches, rows, matrices)


def gaussian(sigmas: Uniform) -> Uniform:
    """Kernels as nnU-Net's blur has them, shape (n, taps), centred; shorter ones end in zeros.

    A kernel has an odd number of taps next to ``TRUNCATE`` standard deviations and is normalised.
    """
    wanted = sigmas * TRUNCATE + 0.5
    nearest = np.rint(wanted)
    taps = np.where(nearest % 2 == 1, nearest, np.where(wanted >= nearest, nearest + 1, nearest - 1))
    half = int(taps.max() - 1) // 2
    offset = np.arange(-half, half + 1)
    kernels = np.exp(-0.5 * (offset / sigmas[:, None]) ** 2)
    kernels[np.abs(offset) > (taps[:, None] - 1) / 2] = 0
    return kernels / kernels.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _along_axes(patches: Patches, rows: Rows, matrices: Sequence[torch.Tensor | None]) -> None:
    """Multiply the channels ``rows`` along z, y, x by matrices of shape (n, length, length); None leaves an axis."""
    index = on_device(rows, patches.image, torch.int64)
    x = patches.rows[index]
    along_z, along_y, along_x = matrices
    if along_z is not None:
        x = torch.bmm(along_z, x.flatten(2)).view_as(x)
    if along_y is not None:
        x = torch.matmul(along_y[:, None], x)
    if along_x is not None:
        x = torch.bmm(x.flatten(1, 2), along_x.transpose(1, 2)).view_as(x)
    patches.rows[index] = x


@cache
def _shifts(length: int, taps: int, device: torch.device) -> torch.Tensor:
    """For each tap of a kernel the matrix that moves an axis by it, mirrored at the border; (taps, length, length)."""
    half = taps // 2
    place = np.abs(np.arange(length) + np.arange(-half, half + 1)[:, None])
    place = (length - 1) - np.abs((length - 1) - place)
    shifts = np.zeros((taps, length, length), np.float32)
    shifts[np.arange(taps)[:, None], np.arange(length), place] = 1
    return _kept(torch.from_numpy(shifts), device)


@cache
def _there_and_back(length: int, coarse: int, device: torch.device) -> torch.Tensor:
    """What going to a coarse grid and back does along an axis, as a matrix."""
    units = torch.eye(length)[:, None]  # interpolated by torch itself
    back = interpolate(interpolate(units, coarse, mode="nearest-exact"), length, mode="linear")
    return _kept(back[:, 0].T.contiguous(), device)


def _kept(matrix: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring what all runs of the process share to the device, and wait: their streams do not wait for each other."""
    kept = matrix.to(device, non_blocking=True)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return kept


def _column(values: Uniform, like: torch.Tensor) -> torch.Tensor:
    """One number per channel, to be combined with them."""
    return on_device(values, like).view(-1, 1, 1, 1)


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((1, 2, 3), keepdim=True)


def _std(x: torch.Tensor) -> torch.Tensor:
    """Standard deviation over each channel; torch's own reduction over several axes is several times slower."""
    deviation = (x - _mean(x)).flatten(1)
    norm: torch.Tensor = torch.linalg.vector_norm(deviation, dim=1)
    return norm.div_(math.sqrt(deviation.shape[1] - 1)).view(-1, 1, 1, 1)
