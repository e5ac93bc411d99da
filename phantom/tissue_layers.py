"""The parts of both anatomies: layers of soft shapes, each of one tissue, and lesions of a given volume."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.images.volume import Float32Array
from phantom.shapes import Ellipsoid, RandomField, Shape, Tube, Vector

BoolArray = npt.NDArray[np.bool_]
Tissue = TypeVar("Tissue")


@dataclass(frozen=True)
class Layer(Generic[Tissue]):
    """One tissue in one shape; an opacity below 1 mixes it with what is painted beneath."""

    shape: Shape
    tissue: Tissue
    opacity: float = 1.0
    texture: RandomField | None = None
    texture_sd: float = 0.0
    """Standard deviation of the tissue's inhomogeneity, in the unit of the image."""

    def paint(self, values: Float32Array, colour: Float32Array | np.float32, points_mm: Float32Array, *,
              edge_mm: float) -> None:  # fmt: skip
        """Mix the tissue's colour into voxels, in place, as far as the shape fills each.

        Parameters
        ----------
        values
            Voxels, shape (z, y, x), perhaps after an axis of several images.
        colour
            The tissue's value; broadcast to the voxels.
        points_mm
            Their centres in the patient, shape (3, z, y, x), components x, y, z.
        edge_mm
            Width of a surface's partial volume: about the voxel size.
        """
        weight = np.float32(self.opacity) * self.shape.fill(points_mm, edge_mm=edge_mm)
        values += weight * (colour - values)


@dataclass(frozen=True)
class Distractor(Generic[Tissue]):
    """A benign structure that looks like a lesion in some channel."""

    kind: str
    centre_mm: Vector
    layer: Layer[Tissue]


@dataclass(frozen=True)
class DrawnLesion(Generic[Tissue]):
    """One lesion: what is painted for it, its voxels in the label map, and the duct that it dilates, if any."""

    layers: tuple[Layer[Tissue], ...]
    voxels: BoolArray
    zone: str
    dilated_duct: Tube | None = None


def sphere_radius_mm(volume_ml: float) -> float:
    """Radius of the sphere of this volume."""
    return float((3 * 1000 * volume_ml / (4 * np.pi)) ** (1 / 3))


def draw_irregular_ellipsoid(
    rng: np.random.Generator,
    centre_mm: npt.ArrayLike,
    volume_ml: float,
    *,
    finest_bump_mm: float,
    bumps_first: bool = False,
) -> Ellipsoid:
    """An irregular ellipsoid of about this volume: a lesion, or a benign structure that looks like one.

    Parameters
    ----------
    finest_bump_mm
        Least correlation length of the surface's bumps.
    bumps_first
        Draw the bumps before the turn: the order of the draws decides which voxels a seed gives.
    """
    radius_mm = sphere_radius_mm(volume_ml)
    x, y, z = (float(value) for value in np.asarray(centre_mm))
    a, b, c = (float(value) for value in radius_mm * rng.uniform(0.8, 1.25, 3))
    turn_rad = None if bumps_first else float(rng.uniform(0, np.pi))
    bumps = RandomField.draw(rng, length_mm=max(finest_bump_mm, radius_mm), waves=12)
    if turn_rad is None:
        turn_rad = float(rng.uniform(0, np.pi))
    return Ellipsoid((x, y, z), (a, b, c), turn_rad, bumps, bump_height=0.1)


def grow(radius: Float32Array, centre: tuple[int, ...], voxels: int) -> tuple[float, BoolArray]:
    """The ``voxels`` voxels of least radius, as far as they are connected with the centre.

    Parameters
    ----------
    radius
        Distance from the centre as a fraction of the shape's radius, shape (z, y, x); infinite where there is no room.

    Returns
    -------
    level, mask
        The largest radius among those voxels, and the voxels, shape (z, y, x).
    """
    level = float(np.partition(radius, voxels - 1, axis=None)[voxels - 1])
    pieces, _ = ndimage.label(radius <= level, np.ones((3, 3, 3)))
    mask: BoolArray = pieces == pieces[centre]
    return level, mask
