"""Where a study is placed: from the reference image's file to the grid on which networks see it, and back.

Images are read along the card's axes: exchanged and flipped, without a change to any voxel. The study grid then follows
from the card, the reference channel and, for a card that first locates an organ, the region around it. Along each axis
one of two things holds:

* the reference's voxels are **kept**: the card names no spacing, or the same one, or allows native slices. A central
  crop then takes whole voxels (an odd remainder leaves the extra one at the end), and nothing is interpolated;
* the axis is **resampled** to the card's spacing, centred on the middle of the reference image or region.

Slices that are kept although the card's spacing is another one (``native_slices_between_mm``) stay where they are in
the patient: the study grid has their true spacing, so the way back is exact. Only the network is given the card's
spacing (``Placement.spacing_mm_zyx``), as the reference preprocessing labels such images; pass that one, never the
grid's, to ``network.preprocessing.nnunet_preprocessing``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contract.card import Card, Geometry
from contract.images.grid import NATIVE, Axes, Box, Grid, along_axes, axes_to_lps, part_of
from contract.images.volume import Float32Array, Volume, resample


@dataclass(frozen=True)
class Placement:
    """The grids of one study, worked out once from the card and the reference image."""

    card: Card
    native: Grid
    """Grid of the reference image as in its file, which the detection map gets."""
    axes: Axes
    """How the file's axes are exchanged and flipped into the card's."""
    reference: Grid
    """Grid of the reference image along the card's axes."""
    grid: Grid
    """Study grid, along the card's axes."""
    spacing_mm_zyx: tuple[float, float, float]
    """Spacing given to the network: the study grid's, or the card's where slices are kept natively."""
    central: Box | None
    """The card's central box, in voxels of ``reference``; None: there is none."""

    @classmethod
    def of(cls, card: Card, native: Grid, *, region: Box | None = None) -> "Placement":
        """Place a study by its card.

        Parameters
        ----------
        native
            The reference image's grid as in its file.
        region
            Part of the reference image (along the card's axes) that the study grid covers; None: all of it.
        """
        axes = card_axes(card, native)
        reference = along_axes(native, axes)
        grid = _study_grid(card.geometry, reference if region is None else part(reference, region))
        spacing = card.geometry.spacing_mm_zyx or grid.spacing_mm_zyx
        return cls(card, native, axes, reference, grid, spacing, _central_box(card.geometry, reference))

    def to_file(self, probability: Float32Array) -> Volume:
        """Bring a probability, shape (z, y, x), from the study grid to the reference image as in its file.

        See :meth:`to_reference`; 0 outside the central box.
        """
        return self.as_in_file(self.to_reference(probability))

    def to_reference(self, probability: Float32Array) -> Float32Array:
        """Bring a probability, shape (z, y, x), from the study grid to the reference image along the card's axes.

        Where the study grid has the reference's voxels they are taken as they are, elsewhere linearly; 0 beyond the
        grid.
        """
        clipped = np.clip(probability, 0.0, 1.0).astype(np.float32, copy=False)
        inside = part_of(self.grid, self.reference)
        if inside is None:
            resampled = resample(Volume(clipped, self.grid), self.reference, interpolation="linear", outside=0.0)
            return np.asarray(resampled.array, np.float32)
        whole = np.zeros(self.reference.shape_zyx, dtype=np.float32)
        whole[inside] = clipped
        return whole

    def as_in_file(self, along: Float32Array) -> Volume:
        """A map on the reference image along the card's axes, as in its file; 0 outside the central box."""
        kept = along
        if self.central is not None:
            kept = np.zeros_like(along)
            kept[self.central] = along[self.central]
        return Volume(np.ascontiguousarray(self.axes.undo(kept)), self.native)

    def boxes_to_reference(self, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Bring boxes from the study grid to the reference image along the card's axes.

        Parameters
        ----------
        boxes
            Shape (count, 6), in voxels of the study grid; see :mod:`network.detection.boxes`.

        Returns
        -------
        Shape (count, 6), in voxels of the reference image. They may reach beyond it. Rounded to a millionth of a voxel,
        so that an edge on a voxel's edge stays there.
        """
        to_index = np.linalg.inv(_steps(self.reference))
        offset_xyz = to_index @ (np.array(self.grid.origin_mm_xyz) - np.array(self.reference.origin_mm_xyz))
        scale_zyx = np.diag(to_index @ _steps(self.grid))[::-1]  # both grids have the same axes
        # A voxel's index is its centre, half a voxel beyond its edge.
        edges: npt.NDArray[np.float64] = np.tile(scale_zyx, 2) * (boxes - 0.5) + np.tile(offset_xyz[::-1], 2) + 0.5
        return edges.round(6)

    def kept_region(self) -> npt.NDArray[np.bool_]:
        """Voxels of the reference image, as in its file, where a prediction can differ from 0: crop and central box."""
        return self.to_file(np.ones(self.grid.shape_zyx, np.float32)).array.astype(bool)

    def kept_box(self) -> Box | None:
        """Box of the study grid on which the prediction within the central box depends; None: all of it.

        A reference voxel is interpolated from the study's voxels around it, so the box is one voxel larger on every
        side.
        """
        if self.central is None:
            return None
        corners = np.array(
            [[each.start, each.stop - 1] for each in reversed(self.central)], dtype=np.float64
        )  # x, y, z
        x, y, z = (index.ravel() for index in np.meshgrid(*corners, indexing="ij"))
        centres_mm = np.array(self.reference.origin_mm_xyz)[:, None] + _steps(self.reference) @ np.stack([x, y, z])
        index_xyz = np.linalg.solve(_steps(self.grid), centres_mm - np.array(self.grid.origin_mm_xyz)[:, None])
        kept = []
        for index, count in zip(index_xyz, self.grid.size_xyz, strict=True):
            low, high = math.floor(index.min()) - 1, math.ceil(index.max()) + 2
            kept.append(slice(min(max(low, 0), count), min(max(high, 0), count)))
        on_x, on_y, on_z = kept
        return on_z, on_y, on_x


def card_axes(card: Card, grid: Grid) -> Axes:
    """How an image's axes are exchanged and flipped into the card's."""
    return NATIVE if card.geometry.orientation == "native" else axes_to_lps(grid)


def part(grid: Grid, box: Box) -> Grid:
    """The grid of ``array[box]`` for an array on ``grid``."""
    return _placed(
        grid,
        size_zyx=[each.stop - each.start for each in box],
        spacing_mm_zyx=grid.spacing_mm_zyx,
        first_index_zyx=[float(each.start) for each in box],
    )


def target_spacing_mm_zyx(geometry: Geometry, reference: Grid) -> tuple[float, float, float]:
    """Spacing that the card wants for a study with this reference grid."""
    if geometry.spacing_mm_zyx is not None:
        return geometry.spacing_mm_zyx
    columns = reference.size_xyz[0]
    coarser = max(1.0, columns / geometry.at_most_columns) if geometry.at_most_columns else 1.0
    z, y, x = (each * coarser for each in reference.spacing_mm_zyx)
    return z, y, x


def _study_grid(geometry: Geometry, reference: Grid) -> Grid:
    """Grid on which the channels of a study are stacked, given the reference channel's, or the region's, grid."""
    target = target_spacing_mm_zyx(geometry, reference)
    crop: Sequence[int | None] = geometry.crop_size_zyx or (None, None, None)
    kept = _axes_kept(geometry, reference.spacing_mm_zyx, target)
    size, spacing, start = [], [], []
    for axis, count in enumerate(reference.shape_zyx):
        own_mm = reference.spacing_mm_zyx[axis]
        wanted = crop[axis]
        if kept[axis]:
            n, mm = wanted or count, own_mm
            first = float(math.trunc((count - n) / 2))
        else:
            mm = target[axis]
            n = wanted or max(1, round(count * own_mm / mm))
            first = (count - 1) / 2 - (n - 1) / 2 * mm / own_mm
        size.append(n)
        spacing.append(mm)
        start.append(first)
    return _placed(reference, size_zyx=size, spacing_mm_zyx=spacing, first_index_zyx=start)


def _axes_kept(geometry: Geometry, own_mm_zyx: Sequence[float], target: Sequence[float]) -> list[bool]:
    """Along which axes the reference's own voxels are kept."""
    kept = [math.isclose(own, wanted, rel_tol=1e-4) for own, wanted in zip(own_mm_zyx, target, strict=True)]
    native = geometry.native_slices_between_mm
    if native is not None and native[0] < own_mm_zyx[0] < native[1]:
        kept[0] = True
    return kept


def _placed(
    reference: Grid,
    *,
    size_zyx: Sequence[int],
    spacing_mm_zyx: Sequence[float],
    first_index_zyx: Sequence[float],
) -> Grid:
    """A grid along the reference's axes whose first voxel is at the given (fractional) index of the reference."""
    z, y, x = size_zyx
    spacing_z, spacing_y, spacing_x = spacing_mm_zyx
    if (x, y, z) == reference.size_xyz and not any(first_index_zyx):
        return reference
    offset_mm = np.array(first_index_zyx[::-1]) * np.array(reference.spacing_mm_xyz)
    origin = np.array(reference.origin_mm_xyz) + np.array(reference.direction).reshape(3, 3) @ offset_mm
    origin_x, origin_y, origin_z = origin.tolist()
    return replace(
        reference,
        size_xyz=(x, y, z),
        spacing_mm_xyz=(spacing_x, spacing_y, spacing_z),
        origin_mm_xyz=(origin_x, origin_y, origin_z),
    )


def _central_box(geometry: Geometry, reference: Grid) -> Box | None:
    """The card's central box on the reference grid; a voxel belongs to it when its centre does. None: no box."""
    extent_mm_zyx = geometry.keep_central_mm_zyx
    if extent_mm_zyx is None:
        return None
    z, y, x = (
        _central_indices(count, spacing, extent)
        for count, spacing, extent in zip(reference.shape_zyx, reference.spacing_mm_zyx, extent_mm_zyx, strict=True)
    )
    return z, y, x


def _central_indices(count: int, spacing_mm: float, extent_mm: float) -> slice:
    """Indices whose voxel centres are within the extent around the middle of an axis."""
    distance_mm = np.abs(np.arange(count) - (count - 1) / 2) * spacing_mm
    inside = np.flatnonzero(distance_mm <= extent_mm / 2 + 1e-6)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)


def _steps(grid: Grid) -> npt.NDArray[np.float64]:
    """Steps of one voxel along x, y and z in mm, as columns."""
    return np.asarray(np.array(grid.direction).reshape(3, 3) @ np.diag(grid.spacing_mm_xyz))
