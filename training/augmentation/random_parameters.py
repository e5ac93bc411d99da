"""Random parameters: each patch has a row of uniform numbers, and every step reads its own columns of it.

A row is always equally long. Hence patch number n of an epoch does not depend on the batch size, on the other patches,
or on trainings that share the process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast

from contract.errors import OncoduetError

Uniform = npt.NDArray[np.float64]
"""Numbers in [0, 1)."""
Rows = npt.NDArray[np.intp]

PER_VALUE = 2
"""Columns that one value of a :class:`Range` takes."""


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high``, evenly distributed.

    Where ``about_one``, half of the values are below 1 and half above, each half uniform (nnU-Net's ``BGContrast``).
    """

    low: float
    high: float
    about_one: bool = False

    def of(self, uniform: Uniform) -> Uniform:
        """Values for uniform numbers of shape (..., 2); the answer has shape (...)."""
        coin, where = uniform[..., 0], uniform[..., 1]
        if not self.about_one:
            return self.low + (self.high - self.low) * where
        middle = max(self.low, 1.0)
        below, above = self.low + (1 - self.low) * where, middle + (self.high - middle) * where
        return np.where((coin < 0.5) & (self.low < 1), below, above)


def range_of(scalar: Any, *, what: str) -> Range:
    """What nnU-Net's transforms take for a random scalar: a number, a pair, or a ``BGContrast``.

    Raises ``OncoduetError``: it is anything else.

    Parameters
    ----------
    what
        The parameter's name, for the message.
    """
    owner = getattr(scalar, "__self__", scalar)  # of a bound method
    if isinstance(owner, BGContrast) and not isinstance(owner.contrast_range, Callable):  # type: ignore[arg-type]
        low, high = owner.contrast_range
        return Range(float(low), float(high), about_one=True)
    if isinstance(scalar, int | float):
        return Range(float(scalar), float(scalar))
    if isinstance(scalar, tuple | list) and len(scalar) == 2:
        return Range(float(scalar[0]), float(scalar[1]))
    raise OncoduetError("nnU-Net's augmentation", expected=f"{what} to be a number or a range", found=f"{scalar!r}")


@dataclass(frozen=True)
class PerChannel:
    """Whether a patch is changed, which of its channels, and by which values."""

    probability: float
    """Probability that the patch is changed."""
    channel_probability: float
    """Probability that a channel of such a patch is changed."""
    values: Range
    synchronised: bool
    """Whether all channels of a patch get the same values."""
    per_channel: int = 1
    """Values that a channel needs."""

    def columns(self, channels: int) -> int:
        """How many uniform numbers a patch takes."""
        return 1 + channels + channels * self.per_channel * PER_VALUE

    def draw(self, uniform: Uniform, channels: int) -> tuple[Rows, Uniform]:
        """Which channels are changed and the values for it.

        Parameters
        ----------
        uniform
            Shape (patches, columns).

        Returns
        -------
        tuple
            Indices among all patches' channels, shape (n,), and the values, shape (n, per_channel).
        """
        hit = (uniform[:, :1] < self.probability) & (uniform[:, 1 : 1 + channels] < self.channel_probability)
        numbers = uniform[:, 1 + channels :].reshape(len(uniform), channels, self.per_channel, PER_VALUE)
        values = self.values.of(numbers)
        if self.synchronised:
            values = np.broadcast_to(values[:, :1], values.shape)
        rows = np.flatnonzero(hit)
        return rows, values.reshape(-1, self.per_channel)[rows]
