"""From a study's files to one array on the study grid, and from a probability on that grid back to the reference image.

A scan is read once and its axes are exchanged and flipped as the card says; no voxel changes by that. The study grid
then follows from the card, the reference channel and, for a card that first locates an organ, the region around it.
Along each axis one of two things holds:

* the reference's voxels are **kept**: the card names no spacing, or the same one, or allows native slices. A central
  crop then takes whole voxels (an odd remainder leaves the extra one at the end), and nothing is interpolated;
* the axis is **resampled** to the card's spacing, centred on the middle of the reference image or region.

Slices that are kept although the card's spacing is another one (``native_slices_between_mm``) still lie where they lie
in the patient: the study grid has their true spacing, so the way back is exact. Only the network is told the card's
spacing (``StudyImage.spacing_mm_zyx``), as the reference preprocessing labels such images; give that one, never the
grid's, to ``network.preprocessing``.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contract.archive import check_geometry
from contract.cards import Card
from contract.volume import (
    NATIVE,
    Axes,
    Box,
    Float32Array,
    Grid,
    LabelArray,
    Volume,
    along_axes,
    axes_to_lps,
    part_of,
    read_grid,
    read_label,
    read_volume,
    require_same_grid,
    resample,
)
from network.plausibility import require_plausible, warn_of_exchanged


@dataclass(frozen=True)
class Scan:
    """A study's images as read, along the card's axes."""

    name: str
    channels: Mapping[str, Volume]
    """By channel name, in the card's order, each on its own grid."""
    native: Grid
    """Grid of the reference channel as in its file."""
    axes: Axes
    """From the file's axes to the card's."""
    content_sha256: str
    """Of the reference channel's voxels; see :func:`content_sha256`."""

    @property
    def reference(self) -> Grid:
        """Grid of the reference channel along the card's axes."""
        return along_axes(self.native, self.axes)


@dataclass(frozen=True)
class StudyImage:
    """All channels of one study, stacked on the study grid."""

    array: Float32Array
    """Shape (channel, z, y, x), channels in the card's order, intensities as in the files."""
    grid: Grid
    """The study grid."""
    reference: Grid
    """Grid of the reference channel as in its file, which the detection map gets."""
    spacing_mm_zyx: tuple[float, float, float]
    """Spacing as the network is told: the grid's, or the card's where slices are kept natively."""
    content_sha256: str = ""
    """Of the scan that it comes from; empty where it comes from none."""


def read_study(card: Card, channels: Mapping[str, Path], *, name: str) -> StudyImage:
    """Read all channels of a study and bring them onto the study grid; see :func:`read_scan` and :func:`stack`."""
    return stack(card, read_scan(card, channels, name=name))


def read_scan(card: Card, channels: Mapping[str, Path], *, name: str) -> Scan:
    """Read all channels of a study.

    Parameters
    ----------
    channels
        Image of every channel of the card.
    name
        The study's name, for messages.

    Raises
    ------
    OncoduetError
        An image is unreadable, not 3D, has a single slice, has NaN or infinite voxels, or no contrast; its intensities
        are those of another modality or unit; the fields of view are disjoint.
    """
    check_geometry(name, channels, card.geometry)
    native = read_grid(channels[card.geometry.reference])
    volumes = {}
    for channel in card.channels:
        volume = read_volume(channels[channel.name])
        require_plausible(channel, volume, channels[channel.name])
        if channel.name == card.geometry.reference:
            content = content_sha256(volume)
        axes = _axes(card, volume.grid)
        volumes[channel.name] = Volume(axes.apply(volume.array), along_axes(volume.grid, axes))
    warn_of_exchanged(card, volumes, channels)
    return Scan(name, volumes, native, _axes(card, native), content)


def content_sha256(volume: Volume) -> str:
    """Hash of an image's voxels, by which a study is known again: as float32, in the file's order, and their number.

    Names, compression, format and the last digits of a header do not count; resampled or rescaled voxels are others.
    """
    total = hashlib.sha256(str(volume.array.shape).encode())
    total.update(np.ascontiguousarray(volume.array, "<f4").tobytes())
    return total.hexdigest()


def stack(card: Card, scan: Scan, *, region: Box | None = None) -> StudyImage:
    """Bring all channels of a scan onto the study grid, by B-spline.

    Parameters
    ----------
    region
        Part of the reference image (along the card's axes) that the study grid covers; absent: all of it.
    """
    grid = study_grid(card, scan.reference if region is None else part(scan.reference, region))
    channels = [
        resample(
            scan.channels[channel.name],
            grid,
            interpolation="b-spline",
            outside=channel.outside,
            tolerance_mm=card.geometry.tolerance_mm,
        ).array
        for channel in card.channels
    ]
    array = np.stack(channels).astype(np.float32, copy=False)
    return StudyImage(array, grid, scan.native, network_spacing_mm_zyx(card, grid), scan.content_sha256)


def read_study_label(card: Card, path: Path, study: StudyImage) -> LabelArray:
    """Read a label map as class indices on the study grid: 0 background, then the card's classes from 1.

    Raises
    ------
    OncoduetError
        As :func:`read_truth`.
    """
    return classes_on(card, read_truth(card, path, study.reference), study.grid)


def read_truth(card: Card, path: Path, native: Grid) -> Volume:
    """Read a label map, with the archive's values, onto the reference image along the card's axes.

    Raises
    ------
    OncoduetError
        The map is unreadable, on another grid than the reference image, or holds a value that no class names.
    """
    label = read_label(path, card.label_values)
    require_same_grid(label.grid, native, found_name=str(path), expected_name="the reference channel")
    # The map lies on the reference grid within tolerance; taking that grid itself makes image and label move together.
    axes = _axes(card, native)
    return Volume(axes.apply(label.array), along_axes(native, axes))


def classes_on(card: Card, truth: Volume, grid: Grid) -> LabelArray:
    """A truth as class indices on a study grid: 0 background, then the card's classes from 1; nearest neighbour."""
    classes = np.zeros(truth.array.shape, dtype=np.int32)
    for index, each in enumerate(card.classes, start=1):
        classes[np.isin(truth.array, each.values)] = index
    on_grid = resample(Volume(classes, truth.grid), grid, interpolation="nearest", outside=0.0)
    return on_grid.array.astype(np.int32, copy=False)


def to_reference(card: Card, probability: Float32Array, study: StudyImage) -> Volume:
    """Bring a probability, shape (z, y, x), from the study grid to the reference image as in its file.

    See :func:`along_reference`; 0 outside the card's central box.
    """
    return as_in_file(card, along_reference(card, probability, study), study)


def along_reference(card: Card, probability: Float32Array, study: StudyImage) -> Float32Array:
    """Bring a probability, shape (z, y, x), from the study grid to the reference image along the card's axes.

    Where the study grid has the reference's voxels they are taken as they are, elsewhere linearly; 0 beyond the grid.
    """
    clipped = np.clip(probability, 0.0, 1.0).astype(np.float32, copy=False)
    reference = along_card(card, study.reference)
    inside = part_of(study.grid, reference)
    if inside is None:
        resampled = resample(Volume(clipped, study.grid), reference, interpolation="linear", outside=0.0)
        return np.asarray(resampled.array, np.float32)
    whole = np.zeros(reference.shape_zyx, dtype=np.float32)
    whole[inside] = clipped
    return whole


def as_in_file(card: Card, along: Float32Array, study: StudyImage) -> Volume:
    """A prediction on the reference image along the card's axes, as in its file; 0 outside the card's central box."""
    axes = _axes(card, study.reference)
    kept = _keep_central(card, along, along_axes(study.reference, axes))
    return Volume(np.ascontiguousarray(axes.undo(kept)), study.reference)


def boxes_to_reference(card: Card, boxes: npt.NDArray[np.float64], study: StudyImage) -> npt.NDArray[np.float64]:
    """Bring boxes from the study grid to the reference image along the card's axes.

    Parameters
    ----------
    boxes
        Shape (count, 6), in voxels of the study grid; see :mod:`network.detection.boxes`.

    Returns
    -------
    Shape (count, 6), in voxels of the reference image. They may reach beyond it. Rounded to a millionth of a voxel, so
    that an edge that lies on a voxel's stays there.
    """
    reference = along_card(card, study.reference)
    to_index = np.linalg.inv(_steps(reference))
    offset_xyz = to_index @ (np.array(study.grid.origin_mm_xyz) - np.array(reference.origin_mm_xyz))
    scale_zyx = np.diag(to_index @ _steps(study.grid))[::-1]  # both grids have the same axes
    # A voxel's index is its centre, half a voxel beyond its edge.
    edges: npt.NDArray[np.float64] = np.tile(scale_zyx, 2) * (boxes - 0.5) + np.tile(offset_xyz[::-1], 2) + 0.5
    return edges.round(6)


def along_card(card: Card, grid: Grid) -> Grid:
    """An image's grid along the card's axes."""
    return along_axes(grid, _axes(card, grid))


def part(grid: Grid, box: Box) -> Grid:
    """The grid of ``array[box]`` for an array on ``grid``."""
    return _placed(
        grid,
        size_zyx=[each.stop - each.start for each in box],
        spacing_mm_zyx=grid.spacing_mm_zyx,
        first_index_zyx=[float(each.start) for each in box],
    )


def predicted_region(card: Card, reference: Grid) -> npt.NDArray[np.bool_]:
    """Where on the reference grid a prediction can be other than zero: in the crop and in the card's central box."""
    grid = study_grid(card, along_card(card, reference))
    everywhere = Volume(np.ones(grid.shape_zyx, dtype=np.float32), grid)
    inside = resample(everywhere, reference, interpolation="nearest", outside=0.0)
    return _keep_central(card, np.asarray(inside.array, np.float32), reference) > 0


def kept_box(card: Card, study: StudyImage) -> Box | None:
    """Box of the study grid on which the prediction within the card's central box depends; None: all of it.

    A reference voxel is interpolated from the study's voxels around it, so the box is one voxel larger on every side.
    """
    reference, grid = along_card(card, study.reference), study.grid
    box = _central_box(card, reference)
    if box is None:
        return None
    corners = np.array([[each.start, each.stop - 1] for each in reversed(box)], dtype=np.float64)  # x, y, z
    x, y, z = (index.ravel() for index in np.meshgrid(*corners, indexing="ij"))
    centres_mm = np.array(reference.origin_mm_xyz)[:, None] + _steps(reference) @ np.stack([x, y, z])
    index_xyz = np.linalg.solve(_steps(grid), centres_mm - np.array(grid.origin_mm_xyz)[:, None])
    kept = []
    for index, count in zip(index_xyz, grid.size_xyz, strict=True):
        low, high = math.floor(index.min()) - 1, math.ceil(index.max()) + 2
        kept.append(slice(min(max(low, 0), count), min(max(high, 0), count)))
    on_x, on_y, on_z = kept
    return on_z, on_y, on_x


def _steps(grid: Grid) -> npt.NDArray[np.float64]:
    """Steps of one voxel along x, y and z in mm, as columns."""
    return np.asarray(np.array(grid.direction).reshape(3, 3) @ np.diag(grid.spacing_mm_xyz))


def _central_box(card: Card, reference: Grid) -> Box | None:
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
    """Grid on which the channels of a study are stacked, given the reference channel's, or the region's, grid."""
    geometry = card.geometry
    target = target_spacing_mm_zyx(card, reference)
    crop: Sequence[int | None] = geometry.crop_size_zyx or (None, None, None)
    kept = _axes_kept(card, reference.spacing_mm_zyx, target)
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


def target_spacing_mm_zyx(card: Card, reference: Grid) -> tuple[float, float, float]:
    """Spacing that the card wants for a study with this reference grid."""
    geometry = card.geometry
    if geometry.spacing_mm_zyx is not None:
        return geometry.spacing_mm_zyx
    columns = reference.size_xyz[0]
    coarser = max(1.0, columns / geometry.at_most_columns) if geometry.at_most_columns else 1.0
    z, y, x = (each * coarser for each in reference.spacing_mm_zyx)
    return z, y, x


def _axes(card: Card, grid: Grid) -> Axes:
    return NATIVE if card.geometry.orientation == "native" else axes_to_lps(grid)


def _axes_kept(card: Card, own_mm_zyx: Sequence[float], target: Sequence[float]) -> list[bool]:
    """Along which axes the reference's own voxels are kept."""
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
