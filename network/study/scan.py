"""From a study's files to one array on the study grid, and from a label map to classes on it.

A scan is read once, along the card's axes, and stacked as often as a network needs it on another grid: see
:mod:`network.study.placement`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.archive.studies import check_geometry
from contract.card import Card
from contract.images.grid import Grid, along_axes, require_same_grid
from contract.images.volume import Float32Array, LabelArray, Volume, read_grid, read_label, read_volume, resample
from network.study.placement import Placement, card_axes
from network.study.plausibility import compare_channels, require_plausible, require_plausible_truth


@dataclass(frozen=True)
class Scan:
    """A study's images as read, along the card's axes."""

    name: str
    channels: Mapping[str, Volume]
    """Images by channel name, in the card's order, each on its own grid."""
    native: Grid
    """Grid of the reference channel as in its file."""
    content_sha256: str
    """Hash of the reference channel's voxels; see :func:`content_sha256`."""
    channel_sha256: Mapping[str, str]
    """Hash of every channel's voxels, by name."""


def read_scan(card: Card, channels: Mapping[str, Path], *, name: str) -> Scan:
    """Read all channels of a study.

    Raises ``OncoduetError``: an image is unreadable, not 3D, has a single slice, NaN or infinite voxels, no contrast,
    or many empty slices; its intensities are those of another modality or unit; it covers too little of the reference
    channel.

    Parameters
    ----------
    channels
        Image of every channel of the card.
    name
        The study's name, for messages.
    """
    check_geometry(name, channels, card.geometry)
    native = read_grid(channels[card.geometry.reference])
    volumes, contents = {}, {}
    for channel in card.channels:
        volume = read_volume(channels[channel.name])
        require_plausible(channel, volume, channels[channel.name])
        contents[channel.name] = content_sha256(volume)
        axes = card_axes(card, volume.grid)
        volumes[channel.name] = Volume(axes.apply(volume.array), along_axes(volume.grid, axes))
    compare_channels(card, volumes, channels)
    return Scan(name, volumes, native, contents[card.geometry.reference], contents)


def content_sha256(volume: Volume) -> str:
    """Hash of an image's voxels, by which a study is recognised: as float32, in the file's order, and their number.

    Names, compression, format and the last digits of a header do not count; resampled or rescaled voxels are others.
    """
    total = hashlib.sha256(str(volume.array.shape).encode())
    total.update(np.ascontiguousarray(volume.array, "<f4").tobytes())
    return total.hexdigest()


def stack(scan: Scan, placement: Placement) -> Float32Array:
    """Bring all channels of a scan onto the study grid, by B-spline.

    Returns
    -------
    Shape (channel, z, y, x), channels in the card's order, intensities as in the files.
    """
    card = placement.card
    channels = [
        resample(
            scan.channels[channel.name],
            placement.grid,
            interpolation="b-spline",
            outside=channel.outside,
            tolerance_mm=card.geometry.tolerance_mm,
        ).array
        for channel in card.channels
    ]
    return np.stack(channels).astype(np.float32, copy=False)


def read_truth(path: Path, placement: Placement) -> Volume:
    """Read a label map, with the archive's values, onto the reference image along the card's axes.

    Raises ``OncoduetError``: the map is unreadable, on another grid than the reference image, holds a value that no
    class names, or is mostly lesion.
    """
    card = placement.card
    label = read_label(path, card.label_values)
    require_same_grid(label.grid, placement.native, found_name=str(path), expected_name="the reference channel")
    require_plausible_truth(card, label, path)
    # The map is on the reference grid within tolerance; taking that grid itself makes image and label move together.
    return Volume(placement.axes.apply(label.array), placement.reference)


def classes_on_study_grid(truth: Volume, placement: Placement) -> LabelArray:
    """A truth as class indices on the study grid: 0 background, then the card's classes from 1; nearest neighbour."""
    classes = np.zeros(truth.array.shape, dtype=np.int32)
    for index, each in enumerate(placement.card.classes, start=1):
        classes[np.isin(truth.array, each.values)] = index
    on_grid = resample(Volume(classes, truth.grid), placement.grid, interpolation="nearest", outside=0.0)
    return on_grid.array.astype(np.int32, copy=False)
