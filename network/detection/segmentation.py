"""Lesion probability of a whole study by the detectors' segmentation heads, from the tiles that are searched for boxes.

As in :mod:`network.inference.sliding_window`, a tile's logits count with a Gaussian weight around its centre and are
averaged over mirrored copies; only then do they become probabilities. Accumulators are float32 and as large as the
study, since boxes that are painted with a segmentation may be anywhere.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from contract.images.grid import Box
from contract.images.volume import Float32Array
from network.inference.sliding_window import NotFiniteError, gaussian_weight


class AveragedSegmentation:
    """Sums of the members' weighted logits, while tiles come in."""

    def __init__(self, padded: Tensor, patch_size: tuple[int, int, int], *, copies: int) -> None:
        """Begin with nothing.

        Parameters
        ----------
        padded
            The study that the tiles are cut from, shape (channel, z, y, x).
        copies
            Mirrored copies of each tile, the tile itself included.
        """
        self._padded = padded
        self._weight = gaussian_weight(patch_size).to(padded.device)
        self._copies = copies
        self._sums: dict[int, Tensor] = {}
        self._weights = padded.new_zeros(padded.shape[1:])

    def add(self, member: int, logits: Tensor, tiles: Sequence[Box], *, mirror_axes: Sequence[int]) -> None:
        """Add a member's logits of one mirrored copy of some tiles.

        Parameters
        ----------
        logits
            Shape (batch, class, z, y, x); those beyond the last tile are repetitions and do not count.
        mirror_axes
            Axes 0 (z), 1 (y), 2 (x) along which the tiles were mirrored before the network saw them.
        """
        back = torch.flip(logits.float(), [axis + 2 for axis in mirror_axes])
        if member not in self._sums:
            self._sums[member] = self._padded.new_zeros((back.shape[1], *self._padded.shape[1:]))
        for tile, each in zip(tiles, back, strict=False):
            self._sums[member][(slice(None), *tile)] += each * (self._weight / self._copies)

    def count(self, tiles: Sequence[Box]) -> None:
        """Say that every member has seen all copies of some tiles."""
        for tile in tiles:
            self._weights[tile] += self._weight

    def probabilities(self, lesion_class: int, shape_zyx: Sequence[int]) -> tuple[Float32Array, ...]:
        """Probability of a class by each member, shape (z, y, x), without padding at the upper ends.

        Raises
        ------
        NotFiniteError
            A member gave NaN or infinite logits; its index is named.
        """
        inside = tuple(slice(length) for length in shape_zyx)
        found = []
        for member in sorted(self._sums):
            mean = self._sums.pop(member)[(slice(None), *inside)] / self._weights[inside]
            if not mean.isfinite().all():
                raise NotFiniteError(member)
            found.append(torch.softmax(mean, dim=0)[lesion_class].cpu().numpy().copy())
        return tuple(found)
