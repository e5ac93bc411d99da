"""Whether a study's images can be those of its channels: the physical sense that a header does not have.

An image without contrast, or without much of its slices, is refused in every channel. For the rest the card says what
its channels hold: what no image of the channel can be (ADC in 1e-3 mm²/s, a CT without its offset) is refused; what
hardly any is (an HBV in the place of the ADC) is warned of by name, since a rare scanner must not be shut out.

Intensities are judged by percentiles: neither metal nor a stray voxel makes an image right, or wrong. The limits were
set by the real images of ``docs/data-flow.md``.
"""

import itertools
import logging
import math
import operator
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from contract.card import Card, Channel
from contract.errors import OncoduetError
from contract.images.grid import covered_share, same_grid
from contract.images.plausible_extent import doubt_of_lesions
from contract.images.volume import Float32Array, Volume

EXTREMES = (0.5, 99.5)
"""Percentiles that count as an image's lowest and highest value."""
MOST_EMPTY = 0.4
"""Fraction of a channel's slices that may be empty or copies; more is refused."""
MOSTLY_EMPTY_AT_MOST = 0.2
"""Fraction of such slices above which a warning is given, as for a single one between others. One or two at the ends
are padding."""
MOSTLY_COVERED = 0.75
"""Fraction of the reference's middle half that other channels nearly always cover."""
MOSTLY_CENTRED_MM = 30.0
"""Distance of a channel's centre from the reference's that is hardly ever exceeded."""
LEAST_STRUCTURE = 0.1
"""Lowest correlation of neighbouring voxels; noise has 0."""
_SAMPLED_VOXELS = 2_000_000

logger = logging.getLogger(__name__)


def require_plausible(channel: Channel, volume: Volume, path: Path) -> None:
    """Refuse an image that cannot be this channel's, and warn of one that hardly is.

    Raises ``OncoduetError``: nearly all its voxels, or nearly all in its middle, have one value; too many slices are
    empty or copies; or its intensities are beyond the card's bounds.

    Parameters
    ----------
    volume
        The channel's image, float32, its slices as in the file.
    path
        Its file, for messages.
    """
    array = _sampled(np.asarray(volume.array, np.float32))
    inner = middle(array)
    lowest, highest = np.percentile(array, EXTREMES)
    inner_lowest, inner_highest = np.percentile(inner, EXTREMES)
    if inner_lowest == inner_highest:
        share = "every" if np.ptp(inner) == 0 else "nearly every"
        where = "" if lowest == highest else " in its middle"
        raise OncoduetError(
            path,
            expected=f"an image of {channel.name!r} with contrast",
            found=f"{inner_lowest:g} in {share} voxel{where}",
        )
    _require_slices(channel, array, path)
    _require_intensities(channel, array, path)
    if _structure(middle(np.asarray(volume.array, np.float32))) < LEAST_STRUCTURE:
        logger.warning("%s: neighbouring voxels have nothing in common: is %r noise alone?", path, channel.name)


def compare_channels(card: Card, volumes: Mapping[str, Volume], paths: Mapping[str, Path]) -> None:
    """Warn of one image given for two channels, of channels that seem to be exchanged, and of one that was moved.

    Exchanged channels are on the grid of a third and not on that of the one with which they were scanned.
    """
    for name, other in itertools.combinations(volumes, 2):
        if _is_copy(volumes[name], volumes[other]):
            logger.warning("%s: holds the same image as %s", paths[other], paths[name])
    for channel in card.channels:
        partner = channel.same_scan_as
        if partner is None or _alike(volumes[channel.name], volumes[partner]):
            continue
        for name, other in ((channel.name, partner), (partner, channel.name)):
            third = next(
                (each for each in volumes if each not in (name, other) and _alike(volumes[each], volumes[name])), None
            )
            if third is not None:
                logger.warning(
                    "%s: is on the grid of %r and not of %r, with which it was scanned: are %r and %r exchanged?",
                    *(paths[name], third, other, third, other),
                )
                break
    reference = volumes[card.geometry.reference].grid
    for name, volume in volumes.items():
        apart_mm = math.dist(volume.grid.corners_mm().mean(axis=0), reference.corners_mm().mean(axis=0))
        covered = covered_share(volume.grid, reference)
        if apart_mm > MOSTLY_CENTRED_MM or covered < MOSTLY_COVERED:
            logger.warning(
                "%s: %r covers %.0f %% of the middle of %r, and their centres are %.0f mm apart: was it moved?",
                *(paths[name], name, 100 * covered, card.geometry.reference, apart_mm),
            )


def require_plausible_truth(card: Card, truth: Volume, path: Path) -> None:
    """Refuse a label map that is mostly lesion, and warn of one with lesions that are hardly ever so large.

    Raises ``OncoduetError``: more than half of the image is lesion.
    """
    lesion = int(np.isin(truth.array, card.lesion_values).sum())
    if 2 * lesion > truth.array.size:
        raise OncoduetError(
            path,
            expected=f"lesions in at most half of the image's {truth.array.size} voxels",
            found=f"{lesion} voxels of {card.lesion_class!r}",
        )
    organ = int(np.isin(truth.array, card.organ_values).sum())
    doubt = doubt_of_lesions(lesion=lesion, organ=organ, image=truth.array.size)
    if doubt is not None:
        logger.warning("%s: %s", path, doubt)


def middle(array: Float32Array) -> Float32Array:
    """The middle half along each axis."""
    return array[tuple(slice(size // 4, size - size // 4) for size in array.shape)]


def _sampled(array: Float32Array) -> Float32Array:
    """Every slice, and of a large one every so-manieth row and column."""
    step = math.ceil(math.sqrt(array.size / _SAMPLED_VOXELS))
    return array[:, ::step, ::step]


def _require_slices(channel: Channel, array: Float32Array, path: Path) -> None:
    """Slices that a truncated transfer left empty, or filled with copies; a mask leaves most of the others empty."""
    low, high = np.percentile(array, EXTREMES, axis=(1, 2))
    lost = low == high
    lost[1:] |= (array[1:] == array[:-1]).mean(axis=(1, 2)) > EXTREMES[1] / 100
    if not lost.any():
        return
    kept = np.flatnonzero(~lost)
    found = f"{lost.sum()} of {lost.size} slices empty or copies of the one before"
    is_mask = kept.size and np.ptp(np.percentile(array[kept], (EXTREMES[0], 90.0))) == 0
    if lost.mean() >= MOST_EMPTY and not is_mask:
        raise OncoduetError(
            path, expected=f"an image of {channel.name!r} in more than {1 - MOST_EMPTY:.0%} of its slices", found=found
        )
    if lost.mean() > MOSTLY_EMPTY_AT_MOST or lost[kept[0] : kept[-1]].any():
        logger.warning("%s: %s: was its transfer cut short?", path, found)


def _require_intensities(channel: Channel, array: Float32Array, path: Path) -> None:
    """What the card says of the channel's intensities; where it says nothing of negative ones, not all are."""
    bounds = channel.plausible
    lowest, p5, p95, highest = np.percentile(array, (EXTREMES[0], 5.0, 95.0, EXTREMES[1]))
    if highest <= 0 and (bounds is None or bounds.minimum_at_most is None):
        raise OncoduetError(
            path,
            expected=f"intensities of {channel.name!r} above 0",
            found=f"{array.min():g} to {array.max():g}: inverted, or another modality",
        )
    if bounds is None:
        return
    for wanted, bound, value, meets in [
        ("from {:g} or less", bounds.minimum_at_most, lowest, operator.le),
        ("to {:g} or more", bounds.maximum_at_least, highest, operator.ge),
        ("mostly {:g} or more", bounds.percentile_5_at_least, p5, operator.ge),
        ("mostly {:g} or less", bounds.percentile_95_at_most, p95, operator.le),
    ]:
        if bound is not None and not meets(value, bound):
            raise OncoduetError(
                path,
                expected=f"intensities of {channel.name!r}, {wanted.format(bound)}",
                found=f"{array.min():g} to {array.max():g}, mostly {p5:g} to {p95:g}: another modality or unit",
            )
    median = _foreground_median(middle(array))
    if bounds.median_between is not None and not _within(median, bounds.median_between):
        raise OncoduetError(
            path,
            expected=(
                f"intensities of {channel.name!r}, with a median in the image's middle "
                f"{_between(bounds.median_between)}"
            ),
            found=f"{median:g}: another channel, modality or unit",
        )
    if bounds.median_mostly_between is not None and not _within(median, bounds.median_mostly_between):
        logger.warning(
            "%s: a median of %g in the image's middle is unusual for %r (mostly %s): is it another channel, or in "
            "another unit?",
            *(path, median, channel.name, _between(bounds.median_mostly_between)),
        )


def _foreground_median(inner: Float32Array) -> float:
    """The median of what is brighter than a mask, padding or air: than the twentieth part of nine in ten's range."""
    lowest, high = np.percentile(inner, (EXTREMES[0], 95.0))
    return float(np.median(inner[inner > lowest + 0.05 * (high - lowest)]))


def _structure(inner: Float32Array) -> float:
    """Correlation of neighbours within some slices of an image's middle, along rows or columns, whichever is larger."""
    part = inner[:: max(1, len(inner) // 8)]
    return max(_correlation(part[:, :, 1:], part[:, :, :-1]), _correlation(part[:, 1:], part[:, :-1]))


def _correlation(a: Float32Array, b: Float32Array) -> float:
    """Pearson's, of values cut at the extremes; 0 where one array is constant."""
    x, y = (np.clip(each, *np.percentile(each, EXTREMES)).astype(np.float64).ravel() for each in (a, b))
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else 0.0


def _is_copy(a: Volume, b: Volume) -> bool:
    """Whether two images are one, but for a few voxels."""
    return a.array.shape == b.array.shape and bool(np.mean(a.array == b.array) > EXTREMES[1] / 100)


def _alike(a: Volume, b: Volume) -> bool:
    return same_grid(a.grid, b.grid, tolerance_mm=0.1)


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _between(bounds: tuple[float, float]) -> str:
    return f"from {bounds[0]:g} to {bounds[1]:g}"
