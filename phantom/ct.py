"""Contrast-enhanced CT of the upper abdomen in the portal-venous phase, as in PANORAMA's collection.

One image in Hounsfield units, stored as 16-bit integers. Every patient has a grid of its own, and the file stores it in
one of the three orientations that the collection mixes; the patient is the same in each. Noise is Gaussian, smoothed by
the reconstruction's kernel, and stronger in stout patients.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contract.images.grid import Grid
from contract.images.volume import Volume
from phantom.abdomen import Anatomy, Layer, draw_anatomy, draw_lesions, label_organs, render
from phantom.cohort import CasePlan, Population
from phantom.noise import with_ct_noise
from phantom.study import LabelValues, PhantomStudy, blurred, centred_grid, distractor_facts, lesions_of

Signs = tuple[int, int, int]

ORIENTATIONS: dict[str, Signs] = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1), "LAI": (1, -1, -1)}
"""Directions of the stored axes x, y, z in the patient, by name, as the diagonal of the direction matrix."""
IN_PLANE_MM = (3.8, 4.2)
SLICE_MM = (5.5, 6.5)
SLICES = (20, 24)
MARGIN_MM = (4.0, 10.0)
"""Air on every side of the body."""
LOWEST_HU, HIGHEST_HU = -1024, 3071
"""The range of 12 bits, which scanners use."""
AVERAGE_HALF_WIDTH_MM = 138.0
PHASE_LOG_SD = 0.05


@dataclass(frozen=True)
class Scanner:
    """Intensity statistics of one population."""

    noise_hu: float
    """Standard deviation of the noise in a patient of average width."""
    noise_length_mm: float
    """Standard deviation of the kernel that smooths the noise in the plane."""
    enhancement: float
    """Mean strength of the contrast phase: dose, delay and tube voltage differ between hospitals."""
    blur_mm: float
    """Standard deviation of the image's own in-plane blur."""


SCANNERS: dict[Population, Scanner] = {
    "training": Scanner(noise_hu=7.0, noise_length_mm=1.6, enhancement=1.0, blur_mm=0.0),
    "external": Scanner(noise_hu=9.0, noise_length_mm=2.2, enhancement=0.95, blur_mm=1.0),
}


@dataclass(frozen=True)
class Session:
    """How one patient was scanned: the grid in the patient, in LPS, and how the file stores it."""

    grid: Grid
    orientation: str
    table_mm: npt.NDArray[np.float64]
    """Offset from the patient's origin to the scanner's."""


def draw_study(
    *, plan: CasePlan, population: Population, values: LabelValues, rng: np.random.Generator
) -> PhantomStudy:
    """Draw one patient, scan it, and outline lesion and organs on the image's grid.

    Anatomy, session, lesion and scan have their own streams: a case without its lesion, or with an invisible one, is
    otherwise the same to the last voxel.
    """
    anatomy_rng, session_rng, lesion_rng, scan_rng = rng.spawn(4)
    anatomy = draw_anatomy(anatomy_rng)
    session = draw_session(session_rng, anatomy)
    lesions = draw_lesions(lesion_rng, anatomy, plan, session.grid)
    layers = [layer for lesion in lesions for layer in lesion.layers]
    image = scan(scan_rng, anatomy, layers, session.grid, SCANNERS[population])
    label, organs = label_organs(anatomy, lesions, session.grid, values)
    return PhantomStudy(
        channels={"ct": stored(image, session)},
        label=stored(label, session),
        organs=stored(organs, session).array.astype(np.uint8),
        lesions=lesions_of(lesions, session.grid),
        facts={
            "pancreas_volume": round(anatomy.pancreas_volume_ml, 1),
            **distractor_facts(anatomy.distractors, session.grid),
            "orientation": session.orientation,
        },
    )


def draw_session(rng: np.random.Generator, anatomy: Anatomy) -> Session:
    """Draw the scan's grid: a field of view that fits the body, slices from liver to kidneys, and a storage order."""
    in_plane, slice_mm = float(rng.uniform(*IN_PLANE_MM)), float(rng.uniform(*SLICE_MM))
    margin = float(rng.uniform(*MARGIN_MM))
    slices = int(rng.integers(SLICES[0], SLICES[1] + 1))
    width, depth, _ = anatomy.body.semi_axes_mm
    size = (int(np.ceil(2 * (width + margin) / in_plane)), int(np.ceil(2 * (depth + margin) / in_plane)), slices)
    spacing = (round(in_plane, 3), round(in_plane, 3), round(slice_mm, 2))
    centre = rng.uniform(-1, 1, 3) * (2, 2, 5)
    return Session(
        grid=centred_grid(centre, np.eye(3), size, spacing),
        orientation=list(ORIENTATIONS)[int(rng.integers(len(ORIENTATIONS)))],
        table_mm=rng.uniform(-150, 150, 3),
    )


def scan(
    rng: np.random.Generator, anatomy: Anatomy, lesions: Iterable[Layer], grid: Grid, scanner: Scanner
) -> npt.NDArray[np.int16]:
    """Acquire the image on an LPS grid, in Hounsfield units, shape (z, y, x)."""
    enhancement = scanner.enhancement * float(np.exp(PHASE_LOG_SD * rng.standard_normal()))
    stoutness = anatomy.body.semi_axes_mm[0] / AVERAGE_HALF_WIDTH_MM
    image = blurred(render(anatomy, lesions, grid, enhancement=enhancement), grid, scanner.blur_mm)
    sd_hu = scanner.noise_hu * stoutness**3
    image = with_ct_noise(rng, image, grid, sd_hu=sd_hu, kernel_mm=scanner.noise_length_mm)
    return np.clip(np.rint(image), LOWEST_HU, HIGHEST_HU).astype(np.int16)


def stored(array: npt.NDArray[np.generic], session: Session) -> Volume:
    """The array of the LPS grid as stored in the file: with flipped axes and the matching header."""
    grid, signs = session.grid, np.array(ORIENTATIONS[session.orientation])
    last_mm = (np.array(grid.size_xyz) - 1) * np.array(grid.spacing_mm_xyz)
    x, y, z = (np.array(grid.origin_mm_xyz) + session.table_mm + np.where(signs < 0, last_mm, 0)).tolist()
    flipped = np.flip(array, tuple(2 - axis for axis in range(3) if signs[axis] < 0))
    direction = tuple(np.diag(signs.astype(float)).ravel().tolist())
    return Volume(np.ascontiguousarray(flipped), replace(grid, origin_mm_xyz=(x, y, z), direction=direction))
