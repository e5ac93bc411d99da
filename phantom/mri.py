"""Biparametric MRI of a prostate: T2W, ADC and a high-b-value image (HBV), as a scanner exports them.

T2W has its own grid; ADC and HBV share a coarser one, with another origin, and the patient has moved a little between
the two sequences, so that header and content disagree as they do in practice. ADC is fitted to two noisy images
(b 50 and b 800 s/mm²); HBV is acquired. Noise is Rician, each sequence has its own receive field and scale.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contract.images.grid import Grid
from contract.images.volume import Float32Array, Volume
from phantom.cohort import CasePlan, Population
from phantom.noise import with_rician_noise
from phantom.prostate import Anatomy, Layer, TissueMaps, draw_anatomy, draw_lesions, render
from phantom.shapes import RandomField
from phantom.study import LabelValues, PhantomStudy, blurred, centred_grid, distractor_facts, lesions_of

T2W_SIZE_XYZ = (48, 48, 12)
T2W_SPACING_MM_XYZ = (1.5, 1.5, 3.0)
DIFFUSION_GRIDS = (((40, 40, 13), (2.0, 2.0, 3.0)), ((36, 36, 13), (2.25, 2.25, 3.0)))
"""Sizes and spacings (xyz) of the diffusion images, with equal probability."""
ADC_B_VALUES = (50.0, 800.0)
MOTION_MM = (1.0, 2.0)
"""Length of the patient's shift between T2W and diffusion."""
TILTED_SHARE = 0.4
MAXIMUM_TILT_DEGREES = 12.0
SCALE_LOG_SD = 0.25
BIAS_LENGTH_MM = 60.0
FIELD_CENTRE_MM = (0.0, 5.0, 0.0)
"""The scans' centre in the patient: a little behind the gland's, to hold the rectum."""
_T2W_UNIT, _HBV_UNIT = 600.0, 1000.0  # stored value of a relative signal of 1, before the random scale


@dataclass(frozen=True)
class Scanner:
    """Intensity statistics of one population."""

    t2w_noise: float
    """Standard deviation of the noise in T2W, relative to fluid."""
    diffusion_noise: float
    """Standard deviation of the noise in the diffusion images, relative to fluid."""
    bias: float
    """Standard deviation of the receive field's logarithm."""
    adc_scale: float
    """Factor on every ADC: gradients and fits differ between scanners."""
    high_b_value: float
    """b-value of HBV, s/mm²."""
    t2w_exponent: float
    """Contrast of T2W: the relative signal is raised to it."""
    blur_mm: float
    """Standard deviation of the in-plane blur of T2W; diffusion has 1.5 times as much."""


SCANNERS: dict[Population, Scanner] = {
    "training": Scanner(
        t2w_noise=0.035,
        diffusion_noise=0.013,
        bias=0.18,
        adc_scale=1.0,
        high_b_value=1400,
        t2w_exponent=1.0,
        blur_mm=0.0,
    ),
    "external": Scanner(
        t2w_noise=0.040,
        diffusion_noise=0.015,
        bias=0.24,
        adc_scale=0.95,
        high_b_value=1250,
        t2w_exponent=0.85,
        blur_mm=0.6,
    ),
}


@dataclass(frozen=True)
class Session:
    """How one patient was scanned: the grids of both sequences in the patient, and the shift between them."""

    t2w: Grid
    diffusion: Grid
    motion_mm: npt.NDArray[np.float64]
    table_mm: npt.NDArray[np.float64]
    """Offset from the patient's origin to the scanner's."""


def draw_study(
    *, plan: CasePlan, population: Population, values: LabelValues, rng: np.random.Generator
) -> PhantomStudy:
    """Draw one patient, scan it, and outline its lesions on the T2W grid.

    Anatomy, session, lesions and scan have their own streams: a case without its lesion, or with an invisible one, is
    otherwise the same to the last voxel.
    """
    anatomy_rng, session_rng, lesion_rng, scan_rng = rng.spawn(4)
    anatomy = draw_anatomy(anatomy_rng)
    session = draw_session(session_rng)
    lesions = draw_lesions(lesion_rng, anatomy, plan, session.t2w)
    channels = scan(
        scan_rng, anatomy, [layer for lesion in lesions for layer in lesion.layers], session, SCANNERS[population]
    )
    label = np.zeros(session.t2w.shape_zyx, dtype=np.uint8)
    for lesion in lesions:
        label[lesion.voxels] = values.lesion
    return PhantomStudy(
        channels=channels,
        label=Volume(label, channels["t2w"].grid),
        organs=np.zeros_like(label),
        lesions=lesions_of(lesions, session.t2w),
        facts={
            "prostate_volume": round(anatomy.gland_volume_ml, 1),
            **distractor_facts(anatomy.distractors, session.t2w),
            "rectal_gas": "YES" if anatomy.rectal_gas else "NO",
            "motion_mm": round(float(np.linalg.norm(session.motion_mm)), 2),
        },
    )


def draw_session(rng: np.random.Generator) -> Session:
    """Draw the position of both scans: centre, tilt, and how the patient moved in between."""
    tilted = rng.random() < TILTED_SHARE
    tilt, turn = np.radians(rng.uniform(-1, 1, 2) * (MAXIMUM_TILT_DEGREES, MAXIMUM_TILT_DEGREES / 4))
    direction = _rotation(tilt, turn) if tilted else np.eye(3)
    centre = np.array(FIELD_CENTRE_MM) + rng.uniform(-2, 2, 3) * (1, 1, 0.5)
    size, spacing = DIFFUSION_GRIDS[int(rng.integers(len(DIFFUSION_GRIDS)))]
    diffusion_centre = centre + direction @ (rng.uniform(-3, 3, 3) * (1, 1, 0.4))
    step = rng.standard_normal(3)
    return Session(
        t2w=centred_grid(centre, direction, T2W_SIZE_XYZ, T2W_SPACING_MM_XYZ),
        diffusion=centred_grid(diffusion_centre, direction, size, spacing),
        motion_mm=step / np.linalg.norm(step) * rng.uniform(*MOTION_MM),
        table_mm=rng.uniform(-25, 25, 3),
    )


def scan(
    rng: np.random.Generator, anatomy: Anatomy, lesions: list[Layer], session: Session, scanner: Scanner
) -> dict[str, Volume]:
    """Acquire T2W, ADC (1e-6 mm²/s) and HBV as 16-bit integers, each on its grid."""
    t2w_rng, diffusion_rng = rng.spawn(2)
    t2w_points = session.t2w.centres_mm().astype(np.float32)
    diffusion_points = (session.diffusion.centres_mm() - session.motion_mm[:, None, None, None]).astype(np.float32)
    t2w = _scan_t2w(t2w_rng, render(anatomy, lesions, t2w_points, edge_mm=1.5), session.t2w, scanner)
    maps = render(anatomy, lesions, diffusion_points, edge_mm=2.5)
    adc, hbv = _scan_diffusion(diffusion_rng, maps, session.diffusion, scanner)
    t2w_grid, diffusion_grid = (_on_table(grid, session.table_mm) for grid in (session.t2w, session.diffusion))
    return {
        "t2w": Volume(_stored(t2w), t2w_grid),
        "adc": Volume(_stored(adc), diffusion_grid),
        "hbv": Volume(_stored(hbv), diffusion_grid),
    }


def _scan_t2w(rng: np.random.Generator, maps: TissueMaps, grid: Grid, scanner: Scanner) -> Float32Array:
    signal = np.maximum(maps.t2w, 0) ** np.float32(scanner.t2w_exponent) * receive_field(rng, grid, scanner)
    measured = with_rician_noise(rng, blurred(signal, grid, scanner.blur_mm), scanner.t2w_noise)
    return measured * np.float32(_T2W_UNIT * _scale(rng))


def _scan_diffusion(
    rng: np.random.Generator, maps: TissueMaps, grid: Grid, scanner: Scanner
) -> tuple[Float32Array, Float32Array]:
    """ADC in 1e-6 mm²/s, from 0 to 4095, and HBV."""
    received = maps.b0 * receive_field(rng, grid, scanner)

    def measure(b_value: float) -> Float32Array:
        signal = received * np.exp(-b_value * scanner.adc_scale * maps.adc * np.float32(1e-6))
        return with_rician_noise(rng, blurred(signal, grid, 1.5 * scanner.blur_mm), scanner.diffusion_noise)

    low, high, hbv = (measure(b_value) for b_value in (*ADC_B_VALUES, scanner.high_b_value))
    adc = np.log(np.maximum(low, 1e-6) / np.maximum(high, 1e-6)) / (ADC_B_VALUES[1] - ADC_B_VALUES[0]) * 1e6
    return np.clip(adc, 0, 4095), hbv * np.float32(_HBV_UNIT * _scale(rng))


def receive_field(rng: np.random.Generator, grid: Grid, scanner: Scanner) -> Float32Array:
    """The receive field, around 1; the field's mean is taken out, since it varies little over so small a volume."""
    field = RandomField.draw(rng, length_mm=BIAS_LENGTH_MM, waves=16).at(grid.centres_mm().astype(np.float32))
    bias: Float32Array = np.exp(np.float32(scanner.bias) * (field - field.mean()))
    return bias


def _scale(rng: np.random.Generator) -> float:
    return float(np.exp(SCALE_LOG_SD * rng.standard_normal()))


def _stored(values: Float32Array) -> npt.NDArray[np.int16]:
    return np.clip(np.rint(values), 0, np.iinfo(np.int16).max).astype(np.int16)


def _rotation(tilt_rad: float, turn_rad: float) -> npt.NDArray[np.float64]:
    """Columns are a tilted scan's axes: tilted about left-right, then turned about the long axis."""
    (c, s), (d, t) = ((np.cos(angle), np.sin(angle)) for angle in (tilt_rad, turn_rad))
    turned = np.array([[d, -t, 0], [t, d, 0], [0, 0, 1]])
    return np.asarray(turned @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]))


def _on_table(grid: Grid, table_mm: npt.NDArray[np.float64]) -> Grid:
    """The same grid in the scanner's coordinates."""
    x, y, z = (np.array(grid.origin_mm_xyz) + table_mm).tolist()
    return replace(grid, origin_mm_xyz=(x, y, z))
