"""Patches on their way through the augmentation, and how parameters get to the device without the host waiting."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from training.augmentation.random_parameters import Uniform

Size = tuple[int, int, int]


@dataclass
class Patches:
    """A batch in the making; steps change it in place."""

    image: torch.Tensor
    """Shape (patches, channels, z, y, x), float32."""
    label: torch.Tensor
    """Class indices, -1 outside the study; shape (patches, z, y, x), int16."""

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self.image.shape[1]

    @property
    def rows(self) -> torch.Tensor:
        """All channels of all patches, one after the other: a view of shape (patches * channels, z, y, x)."""
        return self.image.view(-1, *self.image.shape[2:])


class Step(Protocol):
    """One step of the augmentation."""

    def columns(self, channels: int) -> int:
        """How many uniform numbers a patch takes."""

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Change the patches; ``uniform`` has shape (patches, columns)."""


def on_device(values: npt.ArrayLike, like: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Bring numbers to a tensor's device; on CUDA the host does not wait for the kernels that run there."""
    array: npt.NDArray[Any] = np.ascontiguousarray(values)
    return torch.from_numpy(array).to(dtype).to(like.device, non_blocking=True)
