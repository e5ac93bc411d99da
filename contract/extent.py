"""Whether an image can be as large as its header says: spacings and extent against what the card finds plausible.

Checked before anything is computed from them. A spacing in micrometres or metres turns a study of a few kilobytes into
one of kilometres, or of nothing; an error by a factor of ten goes unnoticed through every network.
"""

from pathlib import Path

from contract.cards import Geometry
from contract.errors import OncoduetError
from contract.volume import Grid

_UNITS = {1e-3: "micrometres", 1e-2: "hundredths of a millimetre", 0.1: "tenths of a millimetre"}
_UNITS |= {10.0: "centimetres", 25.4: "inches", 1000.0: "metres"}
"""In which unit lengths are that are millimetres once multiplied."""


def require_plausible_extent(path: Path, grid: Grid, geometry: Geometry, *, study: str) -> None:
    """Raise ``OncoduetError`` unless an image's spacings and its longest side are within the card's bounds.

    Parameters
    ----------
    study
        Its name, for messages.
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


def _is_plausible(grid: Grid, geometry: Geometry, factor: float) -> bool:
    (least, most), (short, long) = geometry.plausible_spacing_mm, geometry.plausible_extent_mm
    spacings = [factor * each for each in grid.spacing_mm_xyz]
    return least <= min(spacings) and max(spacings) <= most and short <= factor * max(grid.extent_mm_zyx) <= long
