"""Where in a study a patch is cut: anywhere, or about a voxel of the foreground, by nnU-Net's rules."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.augmentation.patches import Size
from training.augmentation.random_parameters import Uniform

COLUMNS = 5
"""Uniform numbers per box: class, voxel, and a position along each axis."""

Voxels = Mapping[int, npt.NDArray[np.integer]]
"""For each class that a study has, some or all of its voxels, shape (n, 3), (z, y, x)."""


@dataclass(frozen=True)
class PatchSampler:
    """How boxes are placed. Sizes are (z, y, x) in voxels."""

    box: Size
    """Size of what is cut; larger than the patch where it is rotated afterwards."""
    patch: Size
    """Size of the network's input. A box may extend beyond the study by half of its excess over the patch."""
    focus: int | None = None
    """Class that a box is centred on in studies that have it; in others, each class of the study has the same
    chance."""

    def lower_corner(self, shape: Size, voxels: Voxels, *, forced: bool, uniform: Uniform) -> Size:
        """Lowest voxel of a box, negative where it begins before the study.

        Parameters
        ----------
        shape
            The study's size.
        forced
            Whether the box is centred on a voxel of the foreground, if there is any. It is moved into the permitted
            range at its lower end alone.
        uniform
            ``COLUMNS`` numbers.
        """
        lowest, highest = self.limits(shape)
        classes = [self.focus] if self.focus is not None and self.focus in voxels else list(voxels)
        if forced and classes:
            of_class = voxels[classes[int(uniform[0] * len(classes))]]
            voxel = of_class[int(uniform[1] * len(of_class))]
            corner = [max(low, int(at) - size // 2) for low, at, size in zip(lowest, voxel, self.box, strict=True)]
        else:
            corner = [
                low + int(number * (high - low + 1))
                for low, high, number in zip(lowest, highest, uniform[2:], strict=True)
            ]
        return corner[0], corner[1], corner[2]

    def limits(self, shape: Size) -> tuple[list[int], list[int]]:
        """Least and greatest lower corner of boxes that are placed anywhere."""
        lowest, highest = [], []
        for length, box, patch in zip(shape, self.box, self.patch, strict=True):
            margin = max(box - patch, box - length)
            lowest.append(-margin // 2)
            highest.append(length + margin // 2 + margin % 2 - box)
        return lowest, highest
