"""Components as bits of whole numbers, in which an opening is a few shifts.

A component is the smallest box that holds it, in raster order, with an empty place after each row and an empty row
after each slice: a shift by a row or a slice then meets neighbours in the image or nothing.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BitBox:
    """One component, or all of an image."""

    members: Int64Array
    """Where its voxels are in the image's list of voxels."""
    places: Int64Array
    """The bit of each."""
    row: int
    """Places of a row along x."""
    slice: int
    """Places of a slice (y, x)."""
    bits: int

    def opened(self, side: int, slices: int) -> int:
        """The bits inside a box of ``slices`` squares (y, x) of ``side`` that consists of such bits only."""
        steps = [1] * (side - 1) + [self.row] * (side - 1) + [self.slice] * (slices - 1)
        bits = self.bits
        for step in steps:
            bits &= bits >> step
        for step in steps:
            bits |= bits << step
        return bits

    def is_surely_one(self, bits: int) -> bool:
        """Whether the bits are at most one 26-connected component, as is seen at once of the usual ones.

        In each slice only one run of bits along x touches none in the row before, and each slice touches the last.
        """
        reached = whole = (1 << self.slice) - 1
        for begin in range(0, bits.bit_length(), self.slice):
            layer = bits >> begin & whole
            if not layer and reached == whole:
                continue  # none yet
            near = layer | layer << 1 | layer >> 1
            alone = layer & ~(near << self.row)
            first = alone & ~(layer << 1)
            runs_alone = (alone + first) & ~layer  # the sum carries through each such run, to the place after its end
            if not layer & reached or runs_alone.bit_count() > 1:
                return False
            reached = near | near << self.row | near >> self.row
        return True

    def holds(self, bits: int) -> npt.NDArray[np.bool_]:
        """Whether each voxel is one of these bits."""
        packed = np.frombuffer(bits.to_bytes(int(self.places[-1]) // 8 + 1, "little"), np.uint8)
        return np.unpackbits(packed, bitorder="little").view(np.bool_)[self.places]


def bit_boxes(voxels: Int64Array, owners: Int64Array, shape_zyx: tuple[int, int, int]) -> list[BitBox]:
    """A box for each component, or one for all where the boxes would together be larger than the image."""
    if not voxels.size:
        return []
    _, height, width = shape_zyx
    row = voxels // width
    z = row // height
    position = np.stack([z, row - z * height, voxels - row * width])  # much faster than remainders
    if not owners.any():
        return [_box(np.arange(voxels.size), position)]
    order = np.argsort(owners, kind="stable")
    begins = np.flatnonzero(np.diff(owners[order], prepend=-1))
    low, high = (reduce.reduceat(position[:, order], begins, axis=1) for reduce in (np.minimum, np.maximum))
    if np.prod(high - low + 1, axis=0).sum() > math.prod(shape_zyx):
        return [_box(np.arange(voxels.size), position)]
    return [_box(members, position[:, members]) for members in np.split(order, begins[1:])]


def _box(members: Int64Array, position: Int64Array) -> BitBox:
    z, y, x = position - position.min(axis=1, keepdims=True)
    row = int(x.max()) + 2
    slice_ = row * (int(y.max()) + 2)
    places = (z * slice_) + y * row + x
    mask = np.zeros(int(places[-1]) + 1, dtype=np.bool_)
    mask[places] = True
    bits = int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")
    return BitBox(members, places, row, slice_, bits)
