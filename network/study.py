"""From a study's files to one array on the study grid, and from a probability on that grid back to the reference image.

The study grid follows from the card and the reference channel alone. Along each axis one of two things holds:

* the reference's voxels are **kept**: the card names no spacing, or the same one, or allows native slices. A central
  crop then takes whole voxels (an odd remainder leaves the extra one at the end), and nothing is interpolated;
* the axis is **resampled** to the card's spacing, centred on the middle of the reference image.

Slices that are kept although the card's spacing is another one (``native_slices_between_mm``) still lie where they lie
in the patient: the study grid has their true spacing, so the way back is exact. Only the network is told the card's
spacing (``StudyImage.spacing_mm_zyx``), as the reference preprocessing labels such images; give that one, never the
grid's, to ``network.preprocessing``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.archive import check_geometry
from contract.cards import Card
from contract.volume import (
    Float32Array,
    Grid,
    LabelArray,
    Volume,
    read_grid,
    read_label,
    read_volume,
    require_same_grid,
    resample,
)


@dataclass(frozen=True)
class StudyImage:
    """All channels of one study, stacked on the study grid."""

    array: Float32Array
    """Shape (channel, z, y, x), channels in the card's order, intensities as in the files."""
    grid: Grid
    """The study grid."""
    reference: Grid
    """Grid of the reference channel, which the detection map gets."""
    spacing_mm_zyx: tuple[float, float, float]
    """Spacing as the network is told: the grid's, or the card's where slices are kept natively."""


def read_study(card: Card, channels: Mapping[str, Path], *, name: str) -> StudyImage:
    """Read all channels of a study and bring them onto the study grid, by B-spline.

    Parameters
    ----------
    channels
        Image of every channel of the card.
    name
        The study's name, for messages.

    Raises
    ------
    OncoduetError
        An image is unreadable, not 3D, or has NaN or infinite voxels; the fields of view are disjoint.
    """
    check_geometry(name, channels, card.geometry.reference)
    reference = read_grid(channels[card.geometry.reference])
    grid = study_grid(card, reference)
    stack = [
        resample(read_volume(channels[channel.name]), grid, interpolation="b-spline", outside=channel.outside).array
        for channel in card.channels
    ]
    array = np.stack(stack).astype(np.float32, copy=False)
    return StudyImage(array, grid, reference, network_spacing_mm_zyx(card, grid))


def read_study_label(card: Card, path: Path, study: StudyImage) -> LabelArray:
    """Read a label map as class indices on the study grid: 0 background, then the card's classes from 1.

    Raises
    ------
    OncoduetError
        The map is unreadable, on another grid than the reference image, or holds a value that no class names.
    """
    label = read_label(path, card.label_values)
    require_same_grid(label.grid, study.reference, found_name=str(path), expected_name="the reference channel")
    classes = np.zeros(label.array.shape, dtype=np.int32)
    for index, each in enumerate(card.classes, start=1):
        classes[np.isin(label.array, each.values)] = index
    # The map lies on the reference grid within tolerance; taking that grid itself makes image and label move together.
    resampled = resample(Volume(classes, study.reference), study.grid, interpolation="nearest", outside=0.0)
    return resampled.array.astype(np.int32, copy=False)


def to_reference(card: Card, probability: Float32Array, study: StudyImage) -> Volume:
    """Bring a probability, shape (z, y, x), from the study grid to the reference image, linearly; 0 beyond the crop."""
    volume = Volume(np.clip(probability, 0.0, 1.0).astype(np.float32, copy=False), study.grid)
    on_reference = resample(volume, study.reference, interpolation="linear", outside=0.0)
    return Volume(_keep_central(card, np.asarray(on_reference.array, np.float32), study.reference), study.reference)


def predicted_region(card: Card, reference: Grid) -> npt.NDArray[np.bool_]:
    """Where on the reference grid a prediction can be other than zero: in the crop and in the card's central box."""
    grid = study_grid(card, reference)
    everywhere = Volume(np.ones(grid.shape_zyx, dtype=np.float32), grid)
    inside = resample(everywhere, reference, interpolation="nearest", outside=0.0)
    return _keep_central(card, np.asarray(inside.array, np.float32), reference) > 0


def kept_box(card: Card, study: StudyImage) -> tuple[slice, slice, slice] | None:
    """Box of the study grid on which the prediction within the card's central box depends; None: all of it.

    A reference voxel is interpolated from the study's voxels around it, so the box is one voxel larger on every side.
    """
    box = _central_box(card, study.reference)
    if box is None:
        return None
    reference, grid = study.reference, study.grid
    corners = np.array([[each.start, each.stop - 1] for each in reversed(box)], dtype=np.float64)  # x, y, z
    x, y, z = (index.ravel() for index in np.meshgrid(*corners, indexing="ij"))
    centres_mm = np.array(reference.origin_mm_xyz)[:, None] + _axes(reference) @ np.stack([x, y, z])
    index_xyz = np.linalg.solve(_axes(grid), centres_mm - np.array(grid.origin_mm_xyz)[:, None])
    kept = []
    for index, count in zip(index_xyz, grid.size_xyz, strict=True):
        low, high = math.floor(index.min()) - 1, math.ceil(index.max()) + 2
        kept.append(slice(min(max(low, 0), count), min(max(high, 0), count)))
    on_x, on_y, on_z = kept
    return on_z, on_y, on_x


def _axes(grid: Grid) -> npt.NDArray[np.float64]:
    """Steps of one voxel along x, y and z in mm, as columns."""
    return np.asarray(np.array(grid.direction).reshape(3, 3) @ np.diag(grid.spacing_mm_xyz))


def _central_box(card: Card, reference: Grid) -> tuple[slice, slice, slice] | None:
    """The card's central box on the reference grid; a voxel belongs to it when its centre does. None: no box."""
    extent_mm_zyx = card.geometry.keep_central_mm_zyx
    if extent_mm_zyx is None:
        return None
    z, y, x = (
        _central_indices(count, spacing, extent)
        for count, spacing, extent in zip(reference.shape_zyx, reference.spacing_mm_zyx, extent_mm_zyx, strict=True)
    )
    return z, y, x


def _keep_central(card: Card, probability: Float32Array, reference: Grid) -> Float32Array:
    """Set to zero what lies outside the card's central box."""
    box = _central_box(card, reference)
    if box is None:
        return probability
    kept = np.zeros_like(probability)
    kept[box] = probability[box]
    return kept


def study_grid(card: Card, reference: Grid) -> Grid:
    """Grid on which the channels of a study are stacked, given the grid of its reference channel."""
    geometry = card.geometry
    target = geometry.spacing_mm_zyx or reference.spacing_mm_zyx
    crop: Sequence[int | None] = geometry.crop_size_zyx or (None, None, None)
    kept = _axes_kept(card, reference.spacing_mm_zyx)
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


def network_spacing_mm_zyx(card: Card, grid: Grid) -> tuple[float, float, float]:
    """Spacing that the network is told for an image on this study grid."""
    return card.geometry.spacing_mm_zyx or grid.spacing_mm_zyx


def _axes_kept(card: Card, own_mm_zyx: Sequence[float]) -> list[bool]:
    """Along which axes the reference's own voxels are kept."""
    target = card.geometry.spacing_mm_zyx
    if target is None:
        return [True, True, True]
    kept = [math.isclose(own, wanted, rel_tol=1e-4) for own, wanted in zip(own_mm_zyx, target, strict=True)]
    native = card.geometry.native_slices_between_mm
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
    """A grid along the reference's axes whose first voxel lies at the given (fractional) index of the reference."""
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


def _central_indices(count: int, spacing_mm: float, extent_mm: float) -> slice:
    """Indices whose voxel centres lie within the extent around the middle of an axis."""
    distance_mm = np.abs(np.arange(count) - (count - 1) / 2) * spacing_mm
    inside = np.flatnonzero(distance_mm <= extent_mm / 2 + 1e-6)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)
