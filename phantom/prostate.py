"""A prostate and what surrounds it, with lesions: layers of soft shapes, each of one tissue, painted in order.

The patient's origin is the centre of the gland. Nothing here knows a scanner: a tissue is what T2 weighting and
diffusion would show without noise. Anatomy and distractors are drawn from the same distribution with and without a
lesion, so that only the lesion tells a positive case.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from contract.images.grid import Grid
from contract.images.volume import Float32Array
from phantom import tissue_layers
from phantom.cohort import CasePlan, LesionVolumes
from phantom.shapes import Between, Ellipsoid, RandomField, Shape, Within
from phantom.tissue_layers import BoolArray, draw_irregular_ellipsoid, grow, sphere_radius_mm

LESION_VOLUMES = LesionVolumes(median_ml=1.1, log_sd=0.75, range_ml=(0.25, 6.0))
SECOND_LESION_PROBABILITY = 0.15
PERIPHERAL_LESION_PROBABILITY = 0.7
LYMPH_NODE_PROBABILITY = 0.1
LESION_GAP_MM = 6.0
"""Least distance between two lesions of a patient."""
_UNBOUNDED_MM = 400.0  # semi-axis of tubes along z


@dataclass(frozen=True)
class Tissue:
    """Signal of a tissue in each sequence."""

    t2w: float
    """T2-weighted signal, relative to fluid."""
    adc: float
    """Apparent diffusion coefficient, 1e-6 mm²/s."""
    b0: float
    """Signal of the diffusion sequence without diffusion weighting, relative to fluid."""


_draw_lump = partial(draw_irregular_ellipsoid, finest_bump_mm=4.0)

Layer = tissue_layers.Layer[Tissue]
Distractor = tissue_layers.Distractor[Tissue]
DrawnLesion = tissue_layers.DrawnLesion[Tissue]


@dataclass(frozen=True)
class TissueMaps:
    """A tissue's values in every voxel of a grid, each of shape (z, y, x)."""

    t2w: Float32Array
    adc: Float32Array
    b0: Float32Array


@dataclass(frozen=True)
class Anatomy:
    """A patient without lesions."""

    layers: tuple[Layer, ...]
    gland: Ellipsoid
    transition_zone: Ellipsoid
    t2w_texture: RandomField
    adc_texture: RandomField
    gland_volume_ml: float
    distractors: tuple[Distractor, ...]
    rectal_gas: bool


FAT = Tissue(t2w=0.56, adc=1100, b0=0.26)  # with vessels and connective tissue; fat suppression is never complete
MUSCLE = Tissue(t2w=0.16, adc=1350, b0=0.26)
MARROW = Tissue(t2w=0.45, adc=1000, b0=0.22)
CORTEX = Tissue(t2w=0.06, adc=1000, b0=0.16)
VEIN = Tissue(t2w=0.72, adc=1700, b0=0.35)
RECTAL_WALL = Tissue(t2w=0.30, adc=1250, b0=0.42)
STOOL = Tissue(t2w=0.36, adc=1500, b0=0.35)
GAS = Tissue(t2w=0.01, adc=1000, b0=0.002)
URINE = Tissue(t2w=1.0, adc=2800, b0=1.0)
SEMINAL_VESICLE = Tissue(t2w=0.82, adc=1900, b0=0.75)
CAPSULE = Tissue(t2w=0.15, adc=1250, b0=0.35)
FIBROMUSCULAR_STROMA = Tissue(t2w=0.15, adc=1150, b0=0.28)
URETHRA = Tissue(t2w=0.75, adc=1700, b0=0.7)
INFLAMMATION = Tissue(t2w=0.34, adc=1100, b0=0.70)
HAEMORRHAGE = Tissue(t2w=0.30, adc=1180, b0=0.40)  # dark in T2W, low in ADC, not bright in HBV
RETENTION = Tissue(t2w=0.92, adc=1750, b0=1.7)  # bright in HBV by its long T2 alone

DISTRACTORS = {"inflammation": INFLAMMATION, "haemorrhage": HAEMORRHAGE, "retention": RETENTION}
DISTRACTOR_SHARES = (0.5, 0.25, 0.25)


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient: gland, zones, nodules, distractors, and the organs around."""
    gland, transition = _draw_gland(rng)
    peripheral_tissue = Tissue(t2w=rng.normal(0.72, 0.05), adc=rng.normal(1650, 90), b0=rng.normal(0.74, 0.04))
    transition_tissue = Tissue(t2w=rng.normal(0.46, 0.04), adc=rng.normal(1370, 70), b0=rng.normal(0.60, 0.03))
    _, half_depth, half_height = gland.semi_axes_mm
    stroma = Ellipsoid((0, -0.85 * half_depth, 0), (0.5 * gland.semi_axes_mm[0], 0.28 * half_depth, 0.7 * half_height))
    urethra = Ellipsoid((0, 0.05 * half_depth, 0), (2.4, 2.2, 0.9 * half_height))
    distractors = tuple(_draw_distractor(rng, gland) for _ in range(int(rng.integers(0, 3))))
    rectum, has_gas = _draw_rectum(rng, gland)
    layers = [
        *_surroundings(gland),
        *rectum,
        *_draw_vessels_and_nodes(rng, gland),
        *_draw_bundles(rng, gland),
        Layer(gland, peripheral_tissue),
        Layer(Between(gland, gland.scaled(0.94)), CAPSULE, opacity=0.5),
        Layer(transition, transition_tissue),
        Layer(Between(transition, transition.scaled(0.92)), CAPSULE, opacity=0.35),
        *_draw_nodules(rng, transition),
        Layer(Within(stroma, gland), FIBROMUSCULAR_STROMA),
        Layer(urethra, URETHRA, opacity=0.7),
        *(distractor.layer for distractor in distractors),
    ]
    return Anatomy(
        layers=tuple(layers),
        gland=gland,
        transition_zone=transition,
        t2w_texture=RandomField.draw(rng, length_mm=3.0),
        adc_texture=RandomField.draw(rng, length_mm=4.0),
        gland_volume_ml=float(4 / 3 * np.pi * np.prod(gland.semi_axes_mm) / 1000),
        distractors=distractors,
        rectal_gas=has_gas,
    )


def render(anatomy: Anatomy, lesions: Sequence[Layer], points_mm: Float32Array, *, edge_mm: float) -> TissueMaps:
    """The tissue in every voxel of a grid.

    Parameters
    ----------
    anatomy, lesions
        What there is; lesions are painted last.
    points_mm
        Voxel centres in the patient, shape (3, z, y, x), components x, y, z.
    edge_mm
        Width of a surface's partial volume: about the voxel size.
    """
    shape = points_mm.shape[1:]
    values = np.empty((3, *shape), dtype=np.float32)
    values[:] = _column(FAT)
    for layer in (*anatomy.layers, *lesions):
        layer.paint(values, _column(layer.tissue), points_mm, edge_mm=edge_mm)
    t2w_texture = 1 + np.float32(0.07) * anatomy.t2w_texture.at(points_mm)
    adc_texture = 1 + np.float32(0.05) * anatomy.adc_texture.at(points_mm)
    return TissueMaps(t2w=values[0] * t2w_texture, adc=values[1] * adc_texture, b0=values[2])


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, plan: CasePlan, grid: Grid) -> list[DrawnLesion]:
    """Draw the lesions that the plan asks for: none, one or two, with voxels on the label map's grid.

    The first has the plan's volume to the voxel, unless the gland leaves no room for it in one piece.
    """
    if not plan.positive:
        return []
    smallest_ml, _ = LESION_VOLUMES.range_ml
    volumes_ml = [plan.volume_ml]
    if rng.random() < SECOND_LESION_PROBABILITY:
        volumes_ml.append(float(rng.uniform(smallest_ml, max(smallest_ml, min(1.5, plan.volume_ml)))))
    points_mm = grid.centres_mm().astype(np.float32)
    room_mm = np.full(grid.shape_zyx, np.inf)
    lesions: list[DrawnLesion] = []
    for volume_ml in volumes_ml:
        lesion = _draw_lesion(rng, anatomy, _Room(points_mm, room_mm, grid.voxel_volume_ml), volume_ml, plan)
        if lesion is not None:
            lesions.append(lesion)
            room_mm = ndimage.distance_transform_edt(~lesion.voxels, grid.spacing_mm_zyx)
    return lesions


@dataclass(frozen=True)
class _Room:
    """Voxels in which a lesion may be placed."""

    points_mm: Float32Array
    """Voxel centres, shape (3, z, y, x)."""
    to_other_lesion_mm: npt.NDArray[np.float64]
    """Distance to the nearest voxel of another lesion, shape (z, y, x)."""
    voxel_volume_ml: float

    def inside(self, shape: Shape) -> BoolArray:
        """The voxels whose centre is in a shape."""
        return shape.fill(self.points_mm, edge_mm=1e-3) > 0.5


def _draw_lesion(
    rng: np.random.Generator, anatomy: Anatomy, room: _Room, volume_ml: float, plan: CasePlan
) -> DrawnLesion | None:
    """One lesion in the gland, away from others, or None where there is no room for it."""
    peripheral = rng.random() < PERIPHERAL_LESION_PROBABILITY
    choice = rng.random()
    tissue = Tissue(t2w=0.27, adc=float(rng.uniform(740, 960)), b0=0.70)
    free = room.inside(anatomy.gland) & (room.to_other_lesion_mm > LESION_GAP_MM)
    in_zone = room.inside(anatomy.transition_zone) != peripheral
    distant = room.to_other_lesion_mm > LESION_GAP_MM + sphere_radius_mm(volume_ml)
    centres = np.argwhere(free & in_zone & distant & room.inside(anatomy.gland.scaled(0.9)))
    voxels = round(volume_ml / room.voxel_volume_ml)
    if len(centres) == 0 or np.count_nonzero(free) < voxels:
        return None
    centre = tuple(centres[int(choice * len(centres))])
    shape = _draw_lump(rng, room.points_mm[(slice(None), *centre)], volume_ml)
    radius = np.where(free, shape.radius(room.points_mm), np.inf)
    level, mask = grow(radius, centre, voxels)
    layer = Layer(Within(shape.scaled(level), anatomy.gland), tissue, opacity=plan.conspicuity)
    return DrawnLesion((layer,), mask, "peripheral" if peripheral else "transition")


def _draw_gland(rng: np.random.Generator) -> tuple[Ellipsoid, Ellipsoid]:
    """The gland, centred, and the transition zone in its front half: the larger the gland, the larger its share."""
    volume_ml = float(np.clip(30 * np.exp(0.3 * rng.standard_normal()), 18, 45))
    scale = (volume_ml / 25.6) ** (1 / 3)
    width, depth, height = (np.array([24.0, 17.0, 15.0]) * scale * rng.uniform(0.95, 1.05, 3)).tolist()
    share = float(np.clip(0.62 + 0.1 * (scale - 1) + rng.normal(0, 0.03), 0.5, 0.75))
    gland = Ellipsoid((0, 0, 0), (width, depth, height), turn_rad=float(rng.normal(0, 0.03)))
    transition = Ellipsoid(
        (float(rng.normal(0, 0.8)), -0.2 * depth, 0.08 * height), (share * width, share * depth, 0.8 * height)
    )
    return gland, transition


def _surroundings(gland: Ellipsoid) -> list[Layer]:
    """Muscles, bone, bladder, seminal vesicles and veins; placed by the gland's size."""
    a, b, c = gland.semi_axes_mm
    levator = Ellipsoid((0, 8, 0), (a + 4.5, b + 17, _UNBOUNDED_MM))
    behind = Ellipsoid((0, b + 8, 0), (60, b + 16, _UNBOUNDED_MM))
    layers = [
        Layer(Ellipsoid((side * (a + 25), -6, 0), (16, 30, _UNBOUNDED_MM), turn_rad=side * 0.2), MUSCLE)
        for side in (-1, 1)
    ]  # obturator internus
    layers += [
        Layer(Within(Between(levator, levator.scaled(0.92)), behind), MUSCLE, opacity=0.85),
        Layer(Ellipsoid((0, -b - 21, -8), (26, 12, 20)), CORTEX),
        Layer(Ellipsoid((0, -b - 21, -8), (24, 10, 18)), MARROW),
        Layer(Ellipsoid((0, -b - 4, -3), (13, 3, 14)), VEIN),
        Layer(Ellipsoid((0, -9, c + 13), (29, 23, 17)), MUSCLE),
        Layer(Ellipsoid((0, -9, c + 13), (26, 20, 14.5)), URINE),
    ]
    layers += [
        Layer(Ellipsoid((side * 12, 0.75 * b, c + 1), (12, 4.5, 5.5), turn_rad=side * 0.25), SEMINAL_VESICLE)
        for side in (-1, 1)
    ]
    return layers


def _draw_rectum(rng: np.random.Generator, gland: Ellipsoid) -> tuple[list[Layer], bool]:
    """The rectum behind the gland; in half of the patients gas in it, where diffusion measures nothing but noise."""
    _, b, _ = gland.semi_axes_mm
    width, depth = rng.uniform(11, 15), rng.uniform(9, 13)
    centre = (float(rng.normal(0, 1.5)), b + depth - 0.5, 0.0)
    wall = Ellipsoid(centre, (width, depth, _UNBOUNDED_MM))
    layers = [Layer(wall, RECTAL_WALL), Layer(Ellipsoid(centre, (width - 3, depth - 3, _UNBOUNDED_MM)), STOOL)]
    has_gas = bool(rng.random() < 0.5)
    gas_mm = (centre[0], centre[1] - 0.2 * depth, float(rng.uniform(-15, 15)))
    gas = Ellipsoid(gas_mm, (0.6 * width, 0.5 * depth, float(rng.uniform(8, 20))))
    if has_gas:
        layers.append(Layer(gas, GAS))
    return layers, has_gas


def _draw_vessels_and_nodes(rng: np.random.Generator, gland: Ellipsoid) -> list[Layer]:
    """Bright structures around the gland: slow blood, whose long T2 shines through at high b-values, and rarely a node.

    Vessels of the pelvic wall run through all slices, the bulb of the penis is below the gland; both are bright in
    T2W and not low in ADC. A normal lymph node has the diffusion of a tumour.
    """
    width, _, height = gland.semi_axes_mm
    layers = []
    for side in (-1, 1):
        x, y, size_mm = side * max(width + 6, 31.0), float(rng.uniform(-9, 3)), float(rng.uniform(1.8, 2.8))
        layers.append(Layer(Ellipsoid((x, y, 0), (size_mm, size_mm, _UNBOUNDED_MM)), _slow_blood(rng)))
    bulb = Ellipsoid((0, float(rng.uniform(2, 8)), -height - 7), (11, 8, 9))
    layers.append(Layer(bulb, _slow_blood(rng)))
    if rng.random() < LYMPH_NODE_PROBABILITY:
        x, size_mm = float(rng.choice([-1, 1]) * (width + rng.uniform(5, 8))), float(rng.uniform(2.0, 3.2))
        tissue = Tissue(t2w=0.42, adc=float(rng.uniform(850, 1050)), b0=float(rng.uniform(0.5, 0.8)))
        centre = (x, float(rng.uniform(4, 10)), float(rng.uniform(-16, 16)))
        layers.append(Layer(Ellipsoid(centre, (size_mm, size_mm, 1.5 * size_mm)), tissue))
    return layers


def _slow_blood(rng: np.random.Generator) -> Tissue:
    return Tissue(t2w=0.88, adc=float(rng.uniform(1350, 1700)), b0=float(rng.uniform(0.6, 1.5)))


def _draw_bundles(rng: np.random.Generator, gland: Ellipsoid) -> list[Layer]:
    """Veins of the neurovascular bundles, behind the gland on both sides."""
    a, b, _ = gland.semi_axes_mm
    return [
        Layer(
            Ellipsoid((side * 0.78 * a + float(rng.normal(0, 1)), 0.82 * b, 0), (2.6, 2.2, _UNBOUNDED_MM)),
            VEIN,
            opacity=0.8,
        )
        for side in (-1, 1)
    ]


def _draw_nodules(rng: np.random.Generator, transition: Ellipsoid) -> list[Layer]:
    """Nodules of benign hyperplasia: glandular ones are bright, stromal ones are dark and somewhat low in ADC."""
    layers = []
    for _ in range(int(rng.poisson(5))):
        direction = rng.standard_normal(3)
        offset = direction / np.linalg.norm(direction) * rng.random() ** (1 / 3) * 0.75
        x, y, z = (np.array(transition.centre_mm) + offset * np.array(transition.semi_axes_mm)).tolist()
        size_mm = float(rng.uniform(2.5, 6.0))
        stromal = rng.random() < 0.45
        if stromal:
            tissue = Tissue(t2w=float(rng.uniform(0.28, 0.36)), adc=float(rng.uniform(1120, 1280)), b0=0.50)
        else:
            tissue = Tissue(t2w=float(rng.uniform(0.58, 0.8)), adc=float(rng.uniform(1500, 1800)), b0=0.72)
        shape = Ellipsoid((x, y, z), (size_mm, size_mm, size_mm * 1.1))
        layers.append(Layer(Within(Between(shape, shape.scaled(0.75)), transition), CAPSULE, opacity=0.3))
        layers.append(Layer(Within(shape.scaled(0.85), transition), tissue, opacity=0.9))
    return layers


def _draw_distractor(rng: np.random.Generator, gland: Ellipsoid) -> Distractor:
    """A distractor in the peripheral zone, behind or at the side."""
    kind = list(DISTRACTORS)[int(rng.choice(len(DISTRACTORS), p=DISTRACTOR_SHARES))]
    angle, depth = rng.uniform(-0.25 * np.pi, 1.25 * np.pi), rng.uniform(0.7, 0.9)
    a, b, c = gland.semi_axes_mm
    centre = (depth * a * np.cos(angle), depth * b * np.sin(angle), rng.uniform(-0.5, 0.5) * c)
    lump = _draw_lump(rng, centre, float(rng.uniform(0.3, 2.0)))
    layer = Layer(Within(lump, gland), DISTRACTORS[kind], opacity=float(rng.uniform(0.3, 0.85)))
    return Distractor(kind, lump.centre_mm, layer)


def _column(tissue: Tissue) -> Float32Array:
    return np.array([tissue.t2w, tissue.adc, tissue.b0], dtype=np.float32)[:, None, None, None]
