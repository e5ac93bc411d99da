"""nnU-Net's resampling, a slab at a time: the same numbers in a fraction of the memory.

nnU-Net converts a whole channel to float64, pads and filters it, and, where slices are thick, builds an index of three
64-bit coordinates per voxel: 40 to 140 bytes per voxel, 6 to 20 GB for a long CT. Here the same splines are evaluated
for a few output slices from the input slices around them, and thick slices are resized one by one.

A spline's coefficients depend on all samples, but the influence of a sample shrinks by 0.27 per voxel: 20 slices away
it is 4e-12, far below the last digit of float32.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.images.volume import Float32Array

Order = Literal[1, 2, 3, 4, 5]

_HALO = 20
_SLICES = 32
"""Output slices per slab."""


def resample_by_slabs(
    data: Float32Array,
    size_zyx: Sequence[int],
    *,
    order: Order,
    thick_axis: int | None,
) -> Float32Array:
    """Resample to another size of the same field of view, edges to edges.

    Parameters
    ----------
    data
        Shape (channel, z, y, x).
    size_zyx
        Size to come.
    order
        Of the spline.
    thick_axis
        Axis of (z, y, x) along which the nearest slice is taken, and slices are resampled in their plane; None: all
        three are resampled together.

    Returns
    -------
    Shape (channel, z, y, x), float32, within the range of the channel (of the slice, where slices are thick). ``data``
    itself if it has the size already.
    """
    if data.shape[1:] == tuple(size_zyx):
        return data
    result = np.empty((len(data), *size_zyx), dtype=np.float32)
    for source, target in zip(data, result, strict=True):
        if thick_axis is None:
            _resample_channel(source, target, order=order)
        else:
            _resample_slices(np.moveaxis(source, thick_axis, 0), np.moveaxis(target, thick_axis, 0), order=order)
    return result


def _resample_channel(source: Float32Array, target: Float32Array, *, order: Order) -> None:
    from scipy import ndimage  # noqa: PLC0415

    ratio = np.divide(source.shape, target.shape)
    halo = _HALO if order > 1 else 1
    for first in range(0, len(target), _SLICES):
        last = min(first + _SLICES, len(target))
        # Voxel centres: output index i is at input index (i + 0.5) * ratio - 0.5.
        low = max(0, math.floor((first + 0.5) * ratio[0] - 0.5) - halo)
        high = min(len(source), math.ceil((last - 0.5) * ratio[0] - 0.5) + halo + 1)
        offset = 0.5 * ratio - 0.5
        offset[0] += first * ratio[0] - low
        slab = ndimage.affine_transform(
            source[low:high].astype(np.float64),
            ratio,
            offset,
            (last - first, *target.shape[1:]),
            order=order,
            mode="nearest",
        )
        np.clip(slab, source.min(), source.max(), out=target[first:last], casting="same_kind")


def _resample_slices(source: npt.NDArray[np.float32], target: npt.NDArray[np.float32], *, order: Order) -> None:
    """Fill ``target`` slice by slice along the first axis."""
    from skimage import transform  # noqa: PLC0415

    resize: Callable[..., npt.NDArray[np.float64]] = transform.resize

    # A centre halfway between two slices belongs to the upper one.
    nearest = np.floor((len(source) / len(target)) * (np.arange(len(target)) + 0.5)).astype(int)
    nearest = np.clip(nearest, 0, len(source) - 1)
    for index in np.unique(nearest):
        resized = resize(source[index].astype(np.float64), target.shape[1:], order, mode="edge", anti_aliasing=False)
        target[nearest == index] = resized
