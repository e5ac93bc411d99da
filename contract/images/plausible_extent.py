"""Whether an image can be as large as its header says, and lesions as large as a label map says.

Spacings and extent are checked before anything is computed from them. A spacing in micrometres or metres turns a study
of a few kilobytes into one of kilometres, or of nothing; an error by a factor of ten goes unnoticed by every network.
"""

from pathlib import Path

from contract.card import Geometry
from contract.errors import OncoduetError
from contract.images.grid import Grid

_UNITS = {1e-3: "micrometres", 1e-2: "hundredths of a millimetre", 0.1: "tenths of a millimetre"}
_UNITS |= {10.0: "centimetres", 25.4: "inches", 1000.0: "metres"}
"""Unit of lengths, by the factor that makes them millimetres."""


MOSTLY_LESION_AT_MOST = 0.1
"""Share of an image above which its lesions are doubtful."""


def require_plausible_extent(path: Path, grid: Grid, geometry: Geometry, *, study: str) -> None:
    """Raise ``OncoduetError`` unless an image's spacings and its longest side are within the card's bounds.

    Parameters
    ----------
    study
        Name of the study, for messages.
    """
    if _is_plausible(grid, geometry, 1.0):
        return
    (least, most), (short, long) = geometry.plausible_spacing_mm, geometry.plausible_extent_mm
    x, y, z = grid.spacing_mm_xyz
    unit = next((unit for factor, unit in _UNITS.items() if _is_plausible(grid, geometry, factor)), None)
    raise OncoduetError(
        f"study {study}",
        expected=(
            f"{path} to have spacings of {least:g} to {most:g} mm and a longest side of {short:g} to {long:g} mm"
        ),
        found=(
            f"spacings of {x:g} × {y:g} × {z:g} mm and a longest side of {max(grid.extent_mm_zyx):g} "
            f"mm{f': as if they were {unit}' if unit else ''}"
        ),
    )


def doubt_of_lesions(*, lesion: int, organ: int, image: int) -> str | None:
    """A doubt about the lesions of a label map; None if they are plausible.

    Of 438 real maps none has more than 2.1 % lesion, and the lesion is at most 0.81 times the rest of its organ.

    Parameters
    ----------
    lesion, organ, image
        Numbers of voxels: of all lesions, of the organ around them as far as it is drawn, of the whole image.
    """
    if lesion > MOSTLY_LESION_AT_MOST * image:
        return f"{lesion / image:.0%} of the image is lesion: are the labels those of another structure, or inverted?"
    if organ and lesion > organ:
        return f"the lesion's {lesion} voxels are more than its organ's {organ}: are their labels exchanged?"
    return None


def _is_plausible(grid: Grid, geometry: Geometry, factor: float) -> bool:
    (least, most), (short, long) = geometry.plausible_spacing_mm, geometry.plausible_extent_mm
    spacings = [factor * each for each in grid.spacing_mm_xyz]
    return least <= min(spacings) and max(spacings) <= most and short <= factor * max(grid.extent_mm_zyx) <= long
