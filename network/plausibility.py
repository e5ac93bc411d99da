"""Whether a study's intensities can be those of its channels: the physical sense that a header does not have.

An image without contrast is refused in every channel. For the rest the card says what its channels hold: what no
image of the channel can be (ADC in 1e-3 mm²/s, a CT without its offset) is refused; what hardly any is (an HBV in the
place of the ADC) is warned of by name, since a rare scanner must not be shut out.
"""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from contract.cards import Card, Channel
from contract.errors import OncoduetError
from contract.volume import Float32Array, Volume, same_grid

logger = logging.getLogger(__name__)


def require_plausible(channel: Channel, volume: Volume, path: Path) -> None:
    """Refuse an image that cannot be this channel's, and warn of one that hardly is.

    Parameters
    ----------
    volume
        The channel's image, float32.
    path
        Its file, for messages.

    Raises
    ------
    OncoduetError
        All its voxels, or all in its middle, have one value; or its intensities are beyond the card's bounds.
    """
    array = np.asarray(volume.array, np.float32)
    lowest, highest = float(array.min()), float(array.max())
    inner = middle(array)
    if inner.min() == inner.max():
        where = "" if lowest == highest else " in its middle"
        raise OncoduetError(
            path,
            expected=f"an image of {channel.name!r} with contrast",
            found=f"{float(inner.min()):g} in every voxel{where}",
        )
    bounds = channel.plausible
    if bounds is None:
        return
    too_high = bounds.minimum_at_most is not None and lowest > bounds.minimum_at_most
    if too_high or (bounds.maximum_at_least is not None and highest < bounds.maximum_at_least):
        wanted = [f"from {bounds.minimum_at_most:g} or less"] if bounds.minimum_at_most is not None else []
        wanted += [f"to {bounds.maximum_at_least:g} or more"] if bounds.maximum_at_least is not None else []
        raise OncoduetError(
            path,
            expected=f"intensities of {channel.name!r}, {' '.join(wanted)}",
            found=f"{lowest:g} to {highest:g}: another modality or unit",
        )
    median = float(np.median(inner[inner > lowest]))
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


def warn_of_exchanged(card: Card, volumes: Mapping[str, Volume], paths: Mapping[str, Path]) -> None:
    """Warn of one image given for two channels, and of channels that seem to be exchanged.

    Such channels are on the grid of a third and not on that of the one with which they were scanned.
    """
    for name, other in itertools.combinations(volumes, 2):
        if np.array_equal(volumes[name].array, volumes[other].array):
            logger.warning("%s: holds the same voxels as %s", paths[other], paths[name])
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


def middle(array: Float32Array) -> Float32Array:
    """The middle half along each axis."""
    return array[tuple(slice(size // 4, size - size // 4) for size in array.shape)]


def _alike(a: Volume, b: Volume) -> bool:
    return same_grid(a.grid, b.grid, tolerance_mm=0.1)


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _between(bounds: tuple[float, float]) -> str:
    return f"from {bounds[0]:g} to {bounds[1]:g}"
