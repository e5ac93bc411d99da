"""An upper abdomen, with a lesion of the pancreas: layers of soft shapes, each of one tissue, painted in order.

The patient's origin is the middle of the trunk, in front of the spine, at the height of the pancreas. Nothing here
knows a scanner: a tissue is its Hounsfield units without contrast agent and what the portal-venous phase adds. Anatomy
and distractors are drawn from the same distribution with and without a lesion, so that only the lesion, and the duct
that it dilates, tell a positive case.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from contract.images.grid import Grid
from contract.images.volume import Float32Array
from phantom import tissue_layers
from phantom.cohort import CasePlan, LesionVolumes
from phantom.shapes import Ellipsoid, RandomField, Shape, Tube, Vector, Within
from phantom.study import LabelValues
from phantom.tissue_layers import BoolArray, draw_irregular_ellipsoid, grow, sphere_radius_mm

LabelMap = npt.NDArray[np.uint8]

LESION_VOLUMES = LesionVolumes(median_ml=12.0, log_sd=0.6, range_ml=(3.0, 40.0))
ZONES = {"head": (0.0, 0.44), "body": (0.44, 0.74), "tail": (0.74, 1.0)}
"""Parts of the pancreas: places on its centre line, from the uncinate process (0) to the tail (1)."""
ZONE_SHARES = (0.65, 0.2, 0.15)
DILATED_PROBABILITY = 0.4
"""How often a visible lesion dilates the duct upstream."""
DILATED_RADIUS_MM = (2.5, 4.5)
TUMOUR_GROWTH = 0.5
"""How far a lesion may reach beyond the pancreas, as a share of the lesion's radius."""
LABELLED_RADIUS_MM = 2.2
"""Least radius of a duct or vessel in the label map: half a voxel, or a normal duct would have no voxel at all."""
_DUCT_STARTS = 2  # corner of the pancreas's line: there is no main duct in the uncinate process
_UNBOUNDED_MM = 1000.0  # semi-axis of what runs through all slices


@dataclass(frozen=True)
class Tissue:
    """Attenuation of a tissue in CT."""

    native_hu: float
    """Hounsfield units without contrast agent."""
    enhancement_hu: float = 0.0
    """Enhancement in an average portal-venous phase."""


_draw_lump = partial(draw_irregular_ellipsoid, finest_bump_mm=6.0, bumps_first=True)

Layer = tissue_layers.Layer[Tissue]
Distractor = tissue_layers.Distractor[Tissue]
DrawnLesion = tissue_layers.DrawnLesion[Tissue]


@dataclass(frozen=True)
class Anatomy:
    """A patient without lesions."""

    body: Ellipsoid
    around: tuple[Layer, ...]
    """Painted before the pancreas: everything behind it, and distractors next to it."""
    gland: Layer
    """The pancreas."""
    inside: tuple[Layer, ...]
    """Painted after the pancreas: its duct, and distractors in it."""
    above: tuple[Layer, ...]
    """Painted after the lesions: vessels and the common bile duct."""
    pancreas: Tube
    duct: Tube
    dilated_duct: Tube | None
    """The part behind a benign stricture."""
    bile_duct: Tube
    veins: tuple[Tube, ...]
    """Portal, splenic and superior mesenteric vein; the vena cava is none of them in the label map."""
    arteries: tuple[Tube, ...]
    distractors: tuple[Distractor, ...]
    pancreas_volume_ml: float


AIR = Tissue(-1000)
LUNG = Tissue(-830, 15)
FAT = Tissue(-102, 3)
GAS = Tissue(-980)
FLUID = Tissue(12)
MUSCLE = Tissue(50, 12)
MARROW = Tissue(170, 15)
CORTEX = Tissue(420)
NERVE = Tissue(30)
LIVER = Tissue(55, 52)
SPLEEN = Tissue(47, 72)
RENAL_CORTEX = Tissue(35, 150)
RENAL_MEDULLA = Tissue(32, 115)
WALL = Tissue(38, 45)
ARTERIAL_BLOOD = Tissue(42, 126)
PORTAL_BLOOD = Tissue(42, 110)
CAVAL_BLOOD = Tissue(42, 85)
BILE = Tissue(8)
PANCREATIC_JUICE = Tissue(9)
NODE = Tissue(38, 38)
UNOPACIFIED_BOWEL = Tissue(25, 28)
PANCREATITIS = Tissue(38, 28)  # mass-forming: like a tumour, but less conspicuous

DISTRACTOR_COUNT_SHARES = (0.5, 0.35, 0.15)
"""How many patients have none, one or two."""
DISTRACTOR_SHARES = {
    "pancreatitis": 0.16,
    "cyst": 0.26,
    "focal fat": 0.16,
    "lymph node": 0.14,
    "bowel loop": 0.14,
    "accessory spleen": 0.06,
    "stricture": 0.08,
}


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient: trunk, organs, vessels, pancreas with its duct, and distractors."""
    trunk_rng, organ_rng, bowel_rng, pancreas_rng, distractor_rng = rng.spawn(5)
    frame = _Frame.draw(trunk_rng)
    pancreas, duct, gland = _draw_pancreas(pancreas_rng, frame)
    veins, arteries, bile_duct, caval = _draw_vessels(pancreas_rng, frame)
    distractors = _draw_distractors(distractor_rng, pancreas, duct, gland)
    stricture = next((each for each in distractors if each.kind == "stricture"), None)
    adjacent = [each.layer for each in distractors if each.kind in ("lymph node", "bowel loop", "accessory spleen")]
    within = [each.layer for each in distractors if each.layer not in adjacent]
    around = [
        *_draw_trunk(trunk_rng, frame),
        *_draw_organs(organ_rng, frame),
        *_draw_bowel(bowel_rng, frame),
        Layer(caval, CAVAL_BLOOD),
        *adjacent,
    ]
    return Anatomy(
        body=frame.body,
        around=tuple(around),
        gland=gland,
        inside=(Layer(duct, PANCREATIC_JUICE), *within),
        above=(
            *(Layer(vein, PORTAL_BLOOD) for vein in veins),
            *(Layer(artery, ARTERIAL_BLOOD) for artery in arteries),
            Layer(bile_duct, BILE),
        ),
        pancreas=pancreas,
        duct=duct,
        dilated_duct=_tube_of(stricture),
        bile_duct=bile_duct,
        veins=veins,
        arteries=arteries,
        distractors=distractors,
        pancreas_volume_ml=_tube_volume_ml(pancreas),
    )


def render(anatomy: Anatomy, lesions: Iterable[Layer], grid: Grid, *, enhancement: float) -> Float32Array:
    """Hounsfield units of every voxel without noise, shape (z, y, x).

    Parameters
    ----------
    anatomy, lesions
        What there is; lesions are painted over the pancreas and below the vessels.
    grid
        Where to look; its axes run to the left, to the back and to the head.
    enhancement
        Strength of the contrast phase; 1 is average, 0 is none.
    """
    raster = _Raster.of(grid)
    edge_mm = float(np.cbrt(np.prod(grid.spacing_mm_xyz)))
    values = np.full(grid.shape_zyx, AIR.native_hu, dtype=np.float32)
    for layer in (*anatomy.around, anatomy.gland, *anatomy.inside, *lesions, *anatomy.above):
        window = raster.window(layer.shape, edge_mm=edge_mm)
        here = raster.part(window)
        if here.size == 0:
            continue
        colour: Float32Array | np.float32 = np.float32(
            layer.tissue.native_hu + enhancement * layer.tissue.enhancement_hu
        )
        if layer.texture is not None:
            colour = colour + np.float32(layer.texture_sd) * layer.texture.at(here)
        layer.paint(values[window], colour, here, edge_mm=edge_mm)
    return values


def label_organs(
    anatomy: Anatomy, lesions: Sequence[DrawnLesion], grid: Grid, values: LabelValues
) -> tuple[LabelMap, LabelMap]:
    """The label map with lesions, and the same without them; shape (z, y, x) each.

    Without its lesion a place is what it would be then, but a duct that the lesion has dilated stays dilated.
    """
    raster = _Raster.of(grid)
    organs = np.zeros(grid.shape_zyx, dtype=np.uint8)
    organs[raster.inside(anatomy.pancreas)] = values.of_first("pancreas")
    for distractor in anatomy.distractors:
        if distractor.kind == "cyst":
            organs[raster.inside(distractor.layer.shape)] = values.of_first("cyst", "pancreas")
    ducts = [anatomy.duct, anatomy.dilated_duct, *(lesion.dilated_duct for lesion in lesions)]
    parts: list[tuple[str, Sequence[Tube | None]]] = [
        ("pancreatic-duct", ducts),
        ("common-bile-duct", [anatomy.bile_duct]),
        ("veins", anatomy.veins),
        ("arteries", anatomy.arteries),
    ]
    for name, tubes in parts:
        for tube in tubes:
            if tube is not None:
                organs[raster.inside(tube.at_least(LABELLED_RADIUS_MM))] = values.of_first(name)
    label = organs.copy()
    for lesion in lesions:
        label[lesion.voxels] = values.lesion
    return label, organs


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, plan: CasePlan, grid: Grid) -> list[DrawnLesion]:
    """Draw the lesion that the plan asks for, with voxels on the label map's grid; a patient has one at most.

    It has the plan's volume to the voxel, unless there is no room for it in one piece. Vessels and the bile duct run
    through it unharmed. With conspicuity 0 it has voxels and no layer.
    """
    if not plan.positive:
        return []
    zone = list(ZONES)[int(rng.choice(len(ZONES), p=ZONE_SHARES))]
    choice, dilated = rng.random(), rng.random() < DILATED_PROBABILITY
    tumour = Tissue(22, float(rng.uniform(4, 16)))
    width_mm = float(rng.uniform(*DILATED_RADIUS_MM))
    raster = _Raster.of(grid)
    vessels = [*anatomy.veins, *anatomy.arteries, anatomy.bile_duct]
    passable = ~np.any([raster.inside(tube.at_least(LABELLED_RADIUS_MM)) for tube in vessels], axis=0)
    centre, place = _draw_centre(choice, anatomy.pancreas, ZONES[zone], raster, passable)
    growth_mm = TUMOUR_GROWTH * sphere_radius_mm(plan.volume_ml) if plan.conspicuity > 0 else 0.0
    room = anatomy.pancreas.grown(growth_mm)
    free = raster.inside(room) & passable
    shape = _draw_lump(rng, raster.points_mm[:, centre[0], centre[1], centre[2]], plan.volume_ml)
    reach = np.full(grid.shape_zyx, np.inf, dtype=np.float32)
    reach[free] = shape.radius(raster.at(free))
    voxels = min(round(plan.volume_ml / grid.voxel_volume_ml), int(np.count_nonzero(free)))
    level, mask = grow(reach, centre, voxels)
    mass = Within(shape.scaled(level), room)
    layers: list[Layer] = []
    behind = _dilated(anatomy.duct, place, width_mm) if dilated and plan.conspicuity > 0 else None
    if behind is not None:
        layers.append(Layer(behind, PANCREATIC_JUICE))
    if plan.conspicuity > 0:  # the mass displaces what is there; its tissue is between pancreas and tumour
        layers += [replace(anatomy.gland, shape=mass), Layer(mass, tumour, opacity=plan.conspicuity)]
    return [DrawnLesion(tuple(layers), mask, zone, behind)]


def _draw_centre(
    choice: float, pancreas: Tube, zone: tuple[float, float], raster: "_Raster", passable: BoolArray
) -> tuple[tuple[int, int, int], float]:
    """A voxel in the core of a zone, by a number in [0, 1), and its place on the pancreas's centre line."""
    core = raster.inside(pancreas) & passable
    distance, radius, place = (each.ravel() for each in pancreas.nearest(raster.at(core)))
    usable = np.flatnonzero((distance < 0.8 * radius) & (zone[0] <= place) & (place <= zone[1]))
    chosen = usable[int(choice * len(usable))]
    z, y, x = np.argwhere(core)[chosen].tolist()
    return (z, y, x), float(place[chosen])


@dataclass(frozen=True)
class _Raster:
    """The voxel centres of a grid whose axes run to the left, to the back and to the head."""

    points_mm: Float32Array
    """Shape (3, z, y, x), components x, y, z."""

    @classmethod
    def of(cls, grid: Grid) -> "_Raster":
        return cls(grid.centres_mm().astype(np.float32))

    def window(self, shape: Shape, *, edge_mm: float) -> tuple[slice, slice, slice]:
        """The part of the grid, (z, y, x), that a shape may reach."""
        axes_mm = self.points_mm[0, 0, 0, :], self.points_mm[1, 0, :, 0], self.points_mm[2, :, 0, 0]
        x, y, z = (
            slice(int(np.searchsorted(axis, start)), int(np.searchsorted(axis, stop)))
            for axis, start, stop in zip(axes_mm, *shape.box_mm(edge_mm=edge_mm), strict=True)
        )
        return z, y, x

    def part(self, window: tuple[slice, slice, slice]) -> Float32Array:
        """The centres in a part of the grid."""
        z, y, x = window
        return self.points_mm[:, z, y, x]

    def inside(self, shape: Shape) -> BoolArray:
        """The voxels whose centre is in a shape."""
        found = np.zeros(self.points_mm.shape[1:], dtype=np.bool_)
        window = self.window(shape, edge_mm=1e-3)
        here = self.part(window)
        if here.size:
            found[window] = shape.fill(here, edge_mm=1e-3) > 0.5
        return found

    def at(self, voxels: BoolArray) -> Float32Array:
        """The centres of some voxels, shape (3, n)."""
        points: Float32Array = self.points_mm[:, voxels]
        return points


@dataclass(frozen=True)
class _Frame:
    """Transformation of an average patient into this one: scaled, with every organ displaced a little."""

    body: Ellipsoid
    scale: float
    fat_mm: float
    """Thickness of the fat below the skin."""
    shifts: tuple[RandomField, RandomField, RandomField]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Frame":
        half_width = float(np.clip(rng.normal(138, 7), 124, 150))
        half_depth = half_width * float(np.clip(rng.normal(0.73, 0.03), 0.67, 0.79))
        shifts = tuple(RandomField.draw(rng, length_mm=45.0, waves=12) for _ in range(3))
        return cls(
            body=Ellipsoid((0, 0, 0), (half_width, half_depth, _UNBOUNDED_MM)),
            scale=half_width / 140,
            fat_mm=float(rng.uniform(6, 18)),
            shifts=(shifts[0], shifts[1], shifts[2]),
        )

    def at(self, x: float, y: float, z: float) -> Vector:
        """Place of a point of the average patient; neighbouring points are displaced together, by some millimetres."""
        place = np.array([x, y, z], dtype=np.float32) * np.float32(self.scale)
        point = place.reshape(3, 1, 1, 1)
        x, y, z = (float(place[axis] + 4 * self.shifts[axis].at(point)[0, 0, 0]) for axis in range(3))
        return x, y, z

    def ellipsoid(self, centre: Vector, semi_axes: Vector, turn_rad: float = 0.0) -> Ellipsoid:
        a, b, c = semi_axes
        return Ellipsoid(self.at(*centre), (a * self.scale, b * self.scale, c * self.scale), turn_rad)

    def tube(self, corners: Sequence[Vector], radii: Sequence[float], *, pieces: int) -> Tube:
        points = [self.at(*corner) for corner in corners]
        return Tube.through(points, [radius * self.scale for radius in radii], pieces=pieces)

    def shrunk(self, by_mm: float) -> Ellipsoid:
        """The body's outline, moved inwards."""
        a, b, c = self.body.semi_axes_mm
        return replace(self.body, semi_axes_mm=(a - by_mm, b - by_mm, c))

    @property
    def cavity(self) -> Ellipsoid:
        """The space inside the muscles of the wall."""
        return self.shrunk(self.fat_mm + 9)


def _draw_trunk(rng: np.random.Generator, frame: _Frame) -> list[Layer]:
    """Skin, fat, muscles, spine, ribs and the bases of the lungs."""
    spine_y = 0.5 * frame.body.semi_axes_mm[1] / frame.scale
    marrow = replace(MARROW, native_hu=float(rng.normal(165, 30)))
    cortex = replace(CORTEX, native_hu=float(rng.uniform(330, 520)))
    layers = [
        Layer(frame.body, MUSCLE),  # skin
        Layer(frame.shrunk(2.0), FAT),
        Layer(frame.shrunk(frame.fat_mm), MUSCLE),
        Layer(frame.cavity, FAT),
    ]
    for side in (-1, 1):
        layers += [
            Layer(
                Within(frame.ellipsoid((side * 36, spine_y + 30, 0), (27, 18, _UNBOUNDED_MM)), frame.shrunk(5)), MUSCLE
            ),
            Layer(frame.ellipsoid((side * 31, spine_y + 3, -60), (13, 15, 60)), MUSCLE),  # psoas
            Layer(Within(frame.ellipsoid((side * 76, 14, 92), (50, 60, 48)), frame.cavity), LUNG),
        ]
        for angle in np.radians([-35, -5, 25, 55]):
            x, y = side * np.cos(angle) * frame.shrunk(frame.fat_mm + 5).semi_axes_mm[0], np.sin(angle)
            y *= frame.shrunk(frame.fat_mm + 5).semi_axes_mm[1]
            centre = (float(x), float(y), float(rng.uniform(-30, 60)))
            turn = float(np.arctan2(y, x) + np.pi / 2)
            rib = Ellipsoid(centre, (15, 5, 8), turn)
            layers += [Layer(rib, cortex), Layer(rib.scaled(0.55), marrow)]
    vertebra = frame.ellipsoid((0, spine_y, 0), (21, 16, _UNBOUNDED_MM))
    a, b, c = vertebra.semi_axes_mm
    layers += [
        Layer(vertebra, cortex),
        Layer(replace(vertebra, semi_axes_mm=(a - 3, b - 3, c)), marrow),
        Layer(frame.ellipsoid((0, spine_y + 31, 0), (17, 6, _UNBOUNDED_MM)), cortex),
        Layer(frame.ellipsoid((0, spine_y + 40, 0), (4, 10, _UNBOUNDED_MM)), cortex),
        Layer(frame.ellipsoid((0, spine_y + 21, 0), (10, 8, _UNBOUNDED_MM)), NERVE),
    ]
    return layers


def _draw_organs(rng: np.random.Generator, frame: _Frame) -> list[Layer]:
    """Liver, gallbladder, spleen, kidneys and stomach; a fatty liver, a full or an empty stomach by chance."""
    liver = replace(LIVER, native_hu=float(np.clip(rng.normal(54, 9), 15, 68)))
    texture = RandomField.draw(rng, length_mm=12.0, waves=12)
    lobes = [frame.ellipsoid((-66, -4, 32), (62, 70, 62), 0.2), frame.ellipsoid((-8, -58, 40), (58, 27, 32), 0.1)]
    layers = [Layer(Within(lobe, frame.cavity), liver, texture=texture, texture_sd=5.0) for lobe in lobes]
    size = float(rng.uniform(0.6, 1.2))
    gallbladder = frame.ellipsoid((-46, -42, -6), (12 * size, 17 * size, 20 * size))
    layers += [Layer(gallbladder, WALL), Layer(gallbladder.scaled(0.85), BILE)]
    size = float(rng.uniform(0.85, 1.15))
    spleen = frame.ellipsoid((100, 38, 32), (24 * size, 42 * size, 42 * size), -0.35)
    layers.append(Layer(Within(spleen, frame.cavity), SPLEEN))
    for side, height in ((-1, -34), (1, -24)):
        kidney = frame.ellipsoid((side * 62, 52, height + float(rng.normal(0, 5))), (27, 25, 48), side * 0.5)
        sinus = frame.ellipsoid((side * 52, 47, height), (13, 9, 22))
        layers += [Layer(kidney, RENAL_CORTEX), Layer(kidney.scaled(0.72), RENAL_MEDULLA), Layer(sinus, FAT)]
        if rng.random() < 0.25:
            cyst = float(rng.uniform(5, 14))
            centre = (side * 82, 55, height + float(rng.uniform(-30, 30)))
            layers.append(Layer(frame.ellipsoid(centre, (cyst, cyst, cyst)), FLUID))
    size = float(rng.uniform(0.7, 1.1))
    stomach = frame.ellipsoid((50, -44, 32), (38 * size, 28 * size, 36 * size), -0.5)
    layers += [Layer(stomach, WALL), Layer(stomach.scaled(0.86), _content(rng))]
    if rng.random() < 0.7:
        bubble = frame.ellipsoid((50, -82, 32), (60, 40, 60))
        layers.append(Layer(Within(stomach.scaled(0.8), bubble), GAS))
    return layers


def _draw_bowel(rng: np.random.Generator, frame: _Frame) -> list[Layer]:
    """Loops in front and below, both flexures of the colon, and the duodenum round the head of the pancreas."""
    layers = []
    for _ in range(int(rng.integers(7, 12))):
        x, y, z = float(rng.uniform(-85, 85)), float(rng.uniform(-78, -34)), float(rng.uniform(-85, -14))
        semi_axes = (float(rng.uniform(10, 22)), float(rng.uniform(9, 15)), float(rng.uniform(9, 16)))
        loop = frame.ellipsoid((x, y, z), semi_axes, float(rng.uniform(0, np.pi)))
        layers += [
            Layer(Within(loop, frame.cavity), WALL),
            Layer(Within(loop.scaled(0.72), frame.cavity), _content(rng)),
        ]
    for x, y in ((-98.0, -6.0), (94.0, -18.0)):
        colon = frame.ellipsoid((x, y, float(rng.uniform(-55, -25))), (17, 20, 36))
        stool = Tissue(float(rng.uniform(-400, -60)))
        layers += [Layer(colon, WALL), Layer(colon.scaled(0.85), stool)]
    corners = [(-34, -34, 2), (-54, -16, 2), (-62, 4, -16), (-58, 12, -38), (-34, 14, -52), (0, 10, -54), (34, 2, -44)]
    duodenum = frame.tube(corners, [11, 11, 12, 12, 11, 10, 10], pieces=9)
    layers += [Layer(duodenum, WALL), Layer(duodenum.grown(-3.5), _content(rng))]
    return layers


def _content(rng: np.random.Generator) -> Tissue:
    """Content of stomach or bowel: positive contrast agent that the patient drank, gas, or food mixed with it."""
    kind = int(rng.choice(3, p=(0.65, 0.15, 0.2)))
    return (Tissue(float(rng.uniform(180, 500))), GAS, Tissue(float(rng.uniform(90, 140))))[kind]


def _draw_pancreas(rng: np.random.Generator, frame: _Frame) -> tuple[Tube, Tube, Layer]:
    """The pancreas, its duct and its layer: from the uncinate process round the head, by neck and body to the tail.

    Sizes and places after the label maps of PANORAMA (56 to 87 mL of parenchyma). Fat between the lobules makes the
    gland darker and coarser in some patients, as age does.
    """
    rise, size = float(rng.normal(0, 8)), float(np.clip(rng.normal(1.12, 0.08), 0.94, 1.3))
    corners = [
        (-14.0, 5.0, -36.0),
        (-31.0, 5.0, -34.0),
        (-38.0, 1.0, -20.0),
        (-28.0, -8.0, -8.0),
        (-11.0, -17.0, -2.0),
        (8.0, -20.0, 4.0 + 0.3 * rise),
        (28.0, -12.0, 10.0 + 0.6 * rise),
        (48.0, 4.0, 13.0 + 0.8 * rise),
        (66.0, 20.0, 14.0 + rise),
        (80.0, 30.0, 14.0 + rise),
    ]
    radii = [7.0, 11.5, 14.5, 12.5, 9.5, 9.5, 10.0, 10.0, 10.0, 8.0]
    smooth = frame.tube(corners, [radius * size for radius in radii], pieces=18)
    bumps = RandomField.draw(rng, length_mm=7.0, waves=12)
    pancreas = replace(smooth, bumps=bumps, bump_height=0.1)
    narrow = float(rng.uniform(0.9, 1.4))
    line = smooth.line_mm[_DUCT_STARTS:]
    duct = replace(smooth, line_mm=line, radii_mm=(narrow,) * len(line))
    fat = float(0.08 * rng.beta(1.3, 3.5))
    tissue = Tissue(44 - 140 * fat, 70 * (1 - fat))
    texture = RandomField.draw(rng, length_mm=6.0, waves=12)
    return pancreas, duct, Layer(pancreas, tissue, texture=texture, texture_sd=3 + 25 * fat)


def _draw_vessels(rng: np.random.Generator, frame: _Frame) -> tuple[tuple[Tube, ...], tuple[Tube, ...], Tube, Tube]:
    """Portal system, arteries, common bile duct, and the vena cava with the renal veins left out."""
    end = 140.0
    width = float(rng.uniform(0.85, 1.15))
    confluence = (-9.0, -7.0, -4.0)
    veins = (
        frame.tube([(-11, -8, -end), (-11, -8, -50), (-11, -9, -24), confluence], [5 * width] * 4, pieces=5),
        frame.tube([confluence, (-26, -10, 16), (-44, -8, 34), (-58, -8, 42)], [6.5 * width] * 4, pieces=5),
        frame.tube([confluence, (10, -8, 6), (30, 0, 13), (52, 17, 16), (84, 36, 20)], [4.5 * width] * 5, pieces=8),
    )
    width = float(rng.uniform(0.85, 1.2))
    arteries = (
        frame.tube([(6, 26, -end), (7, 25, -30), (6, 25, 30), (3, 26, end)], [9.5 * width] * 4, pieces=5),
        frame.tube([(6, 17, 2), (4, 4, -8), (2, -2, -30), (1, -5, -end)], [3.6 * width] * 4, pieces=6),
        frame.tube([(6, 17, 16), (6, 4, 21), (22, -2, 25), (50, 12, 24), (84, 32, 27)], [2.8 * width] * 5, pieces=8),
        frame.tube([(6, 4, 21), (-12, -8, 22), (-30, -18, 26), (-44, -16, 38)], [2.6 * width] * 4, pieces=5),
    )
    size = float(rng.uniform(0.8, 1.5))
    bile_duct = frame.tube(
        [(-50, -12, 36), (-44, -4, 16), (-43, 6, -4), (-42, 7, -20), (-47, 6, -30)], [2.6 * size] * 5, pieces=7
    )
    caval = frame.tube([(-21, 27, -end), (-22, 27, -30), (-23, 22, 40), (-22, 16, end)], [11.0] * 4, pieces=5)
    return veins, arteries, bile_duct, caval


def _draw_distractors(rng: np.random.Generator, pancreas: Tube, duct: Tube, gland: Layer) -> tuple[Distractor, ...]:
    """None, one or two; a second stricture would be behind the first and is left out."""
    found: list[Distractor] = []
    for _ in range(int(rng.choice(3, p=DISTRACTOR_COUNT_SHARES))):
        one = _draw_distractor(rng, pancreas, duct, gland)
        if one.kind != "stricture" or all(each.kind != "stricture" for each in found):
            found.append(one)
    return tuple(found)


def _draw_distractor(rng: np.random.Generator, pancreas: Tube, duct: Tube, gland: Layer) -> Distractor:
    """A distractor anywhere along the pancreas: in it, or touching it from outside."""
    kind = list(DISTRACTOR_SHARES)[int(rng.choice(len(DISTRACTOR_SHARES), p=list(DISTRACTOR_SHARES.values())))]
    corner = int(rng.integers(1, len(pancreas.line_mm) - 1))
    centre, radius_mm = np.array(pancreas.line_mm[corner]), pancreas.radii_mm[corner]
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    if kind == "stricture":
        place = corner / (len(pancreas.line_mm) - 1)
        behind = _dilated(duct, min(place, 0.75), float(rng.uniform(*DILATED_RADIUS_MM)))
        return Distractor(kind, behind.line_mm[0], Layer(behind, PANCREATIC_JUICE))
    if kind in ("cyst", "focal fat", "pancreatitis"):
        x, y, z = (centre + direction * radius_mm * rng.uniform(0, 0.6)).tolist()
        if kind == "cyst":
            size = float(rng.uniform(3.5, 10))
            tissue = Tissue(float(rng.uniform(4, 18)))
            return Distractor(kind, (x, y, z), Layer(Within(_round((x, y, z), size), pancreas.grown(3)), tissue))
        lump = _draw_lump(rng, (x, y, z), float(rng.uniform(1.0, 7.0)))
        tissue, low, high = (PANCREATITIS, 0.2, 0.5) if kind == "pancreatitis" else (FAT, 0.15, 0.5)
        layer = Layer(Within(lump, pancreas), tissue, opacity=float(rng.uniform(low, high)))
        return Distractor(kind, (x, y, z), layer)
    low, high, tissue = {
        "lymph node": (4.0, 8.0, NODE),
        "bowel loop": (9.0, 14.0, UNOPACIFIED_BOWEL),
        "accessory spleen": (5.0, 8.0, SPLEEN),
    }[kind]
    size = float(rng.uniform(low, high))
    if kind == "accessory spleen":
        centre, radius_mm = np.array(pancreas.line_mm[-1]), pancreas.radii_mm[-1]
    x, y, z = (centre + direction * (radius_mm + 0.8 * size)).tolist()
    return Distractor(kind, (x, y, z), Layer(_round((x, y, z), size), tissue))


def _dilated(duct: Tube, place: float, width_mm: float) -> Tube:
    """The duct from an obstacle to the tail: widest at the obstacle.

    Parameters
    ----------
    place
        Position of the obstacle on the pancreas's centre line, from 0 to 1.
    width_mm
        Radius at the obstacle; 0.6 of it in the tail.
    """
    corner = round(place * (len(duct.line_mm) + _DUCT_STARTS - 1)) - _DUCT_STARTS
    line = duct.line_mm[min(max(corner, 0), len(duct.line_mm) - 2) :]
    return replace(duct, line_mm=line, radii_mm=tuple(np.linspace(width_mm, 0.6 * width_mm, len(line)).tolist()))


def _tube_of(distractor: Distractor | None) -> Tube | None:
    return distractor.layer.shape if distractor is not None and isinstance(distractor.layer.shape, Tube) else None


def _tube_volume_ml(tube: Tube) -> float:
    """Volume of the straight pieces as truncated cones; ends and overlaps at bends are left out."""
    line, radii = np.array(tube.line_mm), np.array(tube.radii_mm)
    lengths = np.linalg.norm(np.diff(line, axis=0), axis=1)
    a, b = radii[:-1], radii[1:]
    return float(np.sum(np.pi * lengths * (a * a + a * b + b * b) / 3) / 1000)


def _round(centre_mm: Vector, radius_mm: float) -> Ellipsoid:
    return Ellipsoid(centre_mm, (radius_mm, radius_mm, radius_mm))
