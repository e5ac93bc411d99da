"""Spatial transforms: rotation and scaling about the patch's centre, and mirroring, as nnU-Net's transforms do them.

Where nnU-Net augments slice by slice (its "dummy 2D", for patches of few slices), rotation and scaling are those of the
slices' plane only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import grid_sample

from training.augmentation.patches import Patches, Size, on_device
from training.augmentation.random_parameters import PER_VALUE, Range, Rows, Uniform

OUTSIDE = -1
"""Label of voxels beyond the study."""
SCORE = 1000
"""Scale at which the classes' interpolated indicators are compared, in half precision as by nnU-Net; ties are decided
by the nearest voxel."""


@dataclass(frozen=True)
class Spatial:
    """Rotation and scaling; larger scales make smaller objects."""

    rotation_probability: float
    rotation: Range
    """Angle about each axis in radians."""
    scaling_probability: float
    scaling: Range
    same_scale_probability: float
    """Probability that all axes have the same scale."""
    in_plane: bool
    """Whether each slice is deformed by itself, in its plane."""

    def columns(self) -> int:
        """How many uniform numbers a patch takes."""
        return 3 + 6 * PER_VALUE

    def draw(self, uniform: Uniform) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Which patches are changed, and the matrices that take places in the patch to places in the image.

        Returns
        -------
        tuple
            Indices of patches, shape (n,), and matrices on vectors (z, y, x), or (y, x) in plane, shape (n, 3, 3) or
            (n, 2, 2).
        """
        rotated, scaled = uniform[:, 0] < self.rotation_probability, uniform[:, 1] < self.scaling_probability
        numbers = uniform[:, 3:].reshape(len(uniform), 2, 3, PER_VALUE)
        angles = np.where(rotated[:, None], self.rotation.of(numbers[:, 0]), 0.0)
        scales = self.scaling.of(numbers[:, 1])
        scales = np.where((uniform[:, 2] <= self.same_scale_probability)[:, None], scales[:, :1], scales)
        scales = np.where(scaled[:, None], scales, 1.0)
        rows = np.flatnonzero(rotated | scaled)
        angles, scales = angles[rows], scales[rows]
        if self.in_plane:
            return rows, _turns(angles[:, 2]) * scales[:, None, :2]
        matrices = np.tile(np.eye(3), (len(rows), 1, 1))
        # About z first in the product, x first in effect. In (z, y, x) the axis numbered i keeps its coordinate; about
        # the middle one the sense is the opposite, as in nnU-Net.
        for axis, sense in ((2, 1), (1, -1), (0, 1)):
            turn = np.tile(np.eye(3), (len(rows), 1, 1))
            others = [other for other in range(3) if other != axis]
            turn[np.ix_(range(len(rows)), others, others)] = _turns(sense * angles[:, axis])
            matrices = matrices @ turn
        return rows, matrices * scales[:, None]

    def grid(self, matrices: npt.NDArray[np.float64], *, source: Size, patch: Size, like: torch.Tensor) -> torch.Tensor:
        """Where each voxel of a patch comes from, for ``grid_sample``.

        Parameters
        ----------
        source, patch
            Sizes (z, y, x) of what is sampled and of the patch; their centres coincide.
        """
        dimensions = matrices.shape[1]
        inner_source, inner_patch = source[-dimensions:], patch[-dimensions:]
        scaled = on_device(matrices[:, ::-1] / np.array(inner_source)[::-1, None], like)  # it names the last axis first
        grid: torch.Tensor | None = None
        for axis, length in enumerate(inner_patch):
            steps = torch.arange(1 - length, length, 2, device=like.device, dtype=torch.float32)
            shape = [1] * dimensions
            shape[axis] = length
            along = steps.view(1, *shape, 1) * scaled[:, :, axis].view(-1, *[1] * dimensions, dimensions)
            grid = along if grid is None else grid + along
        assert grid is not None
        return grid

    def sample_image(self, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Interpolate linearly; 0 beyond the border.

        Parameters
        ----------
        image
            Shape (n, channels, z, y, x).
        """
        return self._sampled(image, grid, "bilinear")

    def sample(
        self, image: torch.Tensor, label: torch.Tensor, grid: torch.Tensor, *, classes: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Interpolate images, and give each voxel the class whose interpolated indicator is largest.

        Where several classes share the largest, the nearest voxel decides if its class is one of them, otherwise the
        lowest.

        Parameters
        ----------
        image, label
            Shapes (n, channels, z, y, x) and (n, z, y, x); 0 and ``OUTSIDE`` beyond the border.
        classes
            The foreground classes that may occur, in ascending order.

        Returns
        -------
        tuple
            Image, float32, and label, type as it came; it has no class that ``label`` does not have.
        """
        channels = image.shape[1]
        values = (OUTSIDE, *classes)
        stack = torch.empty((len(image), channels + len(values), *image.shape[2:]), device=image.device)
        stack[:, :channels] = image
        for number, value in enumerate(values):
            torch.eq(label, value, out=stack[:, channels + number])
        stack[:, channels:] *= SCORE
        stack[:, channels] -= SCORE  # beyond the border is 0, which has to mean certainly outside
        sampled = self._sampled(stack, grid, "bilinear")
        scores = sampled[:, channels:]
        scores[:, 0] += SCORE
        background = SCORE - scores.sum(1, keepdim=True)
        scores = torch.cat([scores[:, :1], background, scores[:, 1:]], 1).half()
        best = scores.amax(1)
        names = [OUTSIDE, 0, *classes]
        result = torch.empty_like(best, dtype=label.dtype)
        ties = torch.zeros_like(result)
        for number, value in reversed(list(enumerate(names))):  # the lowest is the last to write
            is_best = scores[:, number] == best
            result.masked_fill_(is_best, value)
            ties += is_best
        if ties.is_cuda or (ties > 1).any():  # on a GPU asking would make the host wait
            places = self._sampled((label - OUTSIDE)[:, None].float(), grid, "nearest")[:, 0].to(label.dtype) + OUTSIDE
            for number, value in enumerate(names):
                result = torch.where((places == value) & (scores[:, number] == best), value, result)
        return sampled[:, :channels], result

    def sample_nearest(
        self, image: torch.Tensor, label: torch.Tensor, grid: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Interpolate images linearly, and give each voxel the label of the nearest one.

        For numbered lesions (``training.dataloading.instance_studies``): their numbers have no order, there may be
        many, and neighbours have to stay apart.

        Parameters
        ----------
        image, label
            As for :meth:`sample`.
        """
        places = self._sampled((label - OUTSIDE)[:, None].float(), grid, "nearest")[:, 0]
        return self.sample_image(image, grid), places.to(label.dtype) + OUTSIDE

    def _sampled(self, stack: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
        if not self.in_plane:
            return grid_sample(stack, grid, mode=mode, padding_mode="zeros", align_corners=False)
        slices = grid_sample(stack.flatten(1, 2), grid, mode=mode, padding_mode="zeros", align_corners=False)
        return slices.view(*stack.shape[:3], *slices.shape[2:])


@dataclass(frozen=True)
class Mirror:
    """Mirrors each of some axes (0 is z) with probability one half."""

    axes: tuple[int, ...]

    def columns(self, channels: int) -> int:
        """How many uniform numbers a patch takes."""
        return len(self.axes)

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Mirror image and label."""
        for patch, coins in enumerate(uniform < 0.5):
            axes = [axis + 1 for axis, coin in zip(self.axes, coins, strict=True) if coin]
            if axes:
                patches.image[patch] = patches.image[patch].flip(axes)
                patches.label[patch] = patches.label[patch].flip([axis - 1 for axis in axes])


def _turns(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotations of the plane, shape (n, 2, 2)."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
