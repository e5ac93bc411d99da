"""MR phantoms: plausible numbers, visible and invisible lesions, and two scans that do not quite agree."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import ndimage

from contract.images.volume import Volume, resample
from phantom.archive import draw_studies
from phantom.cohort import CasePlan
from phantom.mri import SCANNERS, draw_session, draw_study, receive_field, scan
from phantom.prostate import Anatomy, draw_anatomy
from phantom.study import LabelValues

ALL_POSITIVE = {"positive_fraction": Fraction(1), "cases": 20}


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def plan(conspicuity: float, volume_ml: float = 1.5) -> CasePlan:
    visibility = "obvious" if conspicuity else "invisible"
    return CasePlan(0, positive=True, visibility=visibility, conspicuity=conspicuity, volume_ml=volume_ml)


NEGATIVE = CasePlan(0, positive=False, visibility="none", conspicuity=0.0, volume_ml=0.0)


def study(case_plan: CasePlan, *, population: str = "training", seed: int = 5):
    return draw_study(plan=case_plan, population=population, values=LabelValues(1, {}), rng=rng(seed))


def on_t2w(drawn, name: str) -> np.ndarray:
    return resample(drawn.channels[name], drawn.label.grid, interpolation="linear", outside=0.0).array.astype(float)


def gland_of(seed: int) -> tuple[Anatomy, np.ndarray]:
    anatomy_rng, session_rng, _, _ = rng(seed).spawn(4)
    anatomy, session = draw_anatomy(anatomy_rng), draw_session(session_rng)
    points_mm = session.t2w.centres_mm().astype(np.float32)
    return anatomy, anatomy.gland.scaled(0.85).fill(points_mm, edge_mm=1e-3) > 0.5


@pytest.mark.parametrize("seed", range(4))
def test_an_invisible_lesion_leaves_no_trace_in_any_channel(seed):
    invisible, negative = study(plan(0.0), seed=seed), study(NEGATIVE, seed=seed)
    assert invisible.label.array.any()
    assert not negative.label.array.any()
    for name in ("t2w", "adc", "hbv"):
        assert np.array_equal(invisible.channels[name].array, negative.channels[name].array)


@pytest.mark.parametrize("seed", range(6))
def test_a_visible_lesion_is_dark_in_t2w_and_adc_and_bright_in_hbv(seed):
    visible, negative = study(plan(1.0), seed=seed), study(NEGATIVE, seed=seed)
    inside = ndimage.binary_erosion(visible.label.array == 1, iterations=1)
    assert inside.any()
    change = {name: (on_t2w(visible, name) - on_t2w(negative, name))[inside].mean() for name in ("t2w", "adc", "hbv")}
    assert change["t2w"] < 0
    assert change["adc"] < -100  # 1e-6 mm²/s; benign tissue has 1100 to 1800, tumour 740 to 960
    assert change["hbv"] > 0


def test_a_lesion_changes_nothing_far_from_it():
    visible, negative = study(plan(1.0)), study(NEGATIVE)
    far = ndimage.distance_transform_edt(visible.label.array == 0, visible.label.grid.spacing_mm_zyx) > 4
    assert np.array_equal(visible.channels["t2w"].array[far], negative.channels["t2w"].array[far])


def test_every_tenth_positive_is_invisible_by_index(order):
    drawn = list(draw_studies(replace(order, **ALL_POSITIVE)))
    assert [case.index for case, _ in drawn if case.visibility == "invisible"] == [9, 19]
    assert all(each.label.array.any() for _, each in drawn)
    assert all((case.conspicuity == 0) == (case.visibility == "invisible") for case, _ in drawn)


@pytest.mark.parametrize("volume_ml", [0.25, 1.1, 6.0])
def test_the_first_lesion_has_the_planned_volume(volume_ml):
    for seed in range(5):
        drawn = study(plan(1.0, volume_ml), seed=seed)
        voxel_ml = drawn.label.grid.voxel_volume_ml
        assert drawn.lesions[0].volume_ml == pytest.approx(volume_ml, abs=voxel_ml)


def test_lesions_are_in_the_gland_and_apart():
    twice = 0
    for seed in range(40):
        drawn = study(plan(1.0, 0.8), seed=seed)
        anatomy_rng, session_rng, _, _ = rng(seed).spawn(4)
        gland, points_mm = draw_anatomy(anatomy_rng).gland, draw_session(session_rng).t2w.centres_mm()
        inside = gland.fill(points_mm.astype(np.float32), edge_mm=1e-3) > 0.5
        assert not np.any(drawn.label.array[~inside])
        components, count = ndimage.label(drawn.label.array, np.ones((3, 3, 3)))
        assert count == len(drawn.lesions)
        if count == 2:
            twice += 1
            to_first = ndimage.distance_transform_edt(components != 1, drawn.label.grid.spacing_mm_zyx)
            assert to_first[components == 2].min() > 6.0  # LESION_GAP_MM
    assert 1 <= twice <= 14  # 15 % of 40 are 6


def test_adc_is_physically_plausible_and_quantitative():
    for seed in range(4):
        drawn = study(NEGATIVE, seed=seed)
        adc = drawn.channels["adc"].array
        assert adc.min() >= 0
        assert adc.max() <= 4095
        _, gland = gland_of(seed)
        inside = on_t2w(drawn, "adc")[gland]
        assert 1100 < np.median(inside) < 1800  # healthy prostate, 1e-6 mm²/s
        assert np.percentile(inside, 1) > 500


def test_diffusion_is_coarser_smaller_and_elsewhere_than_t2w(order):
    sizes, tilted = set(), 0
    for _, drawn in draw_studies(order):
        t2w, adc, hbv = (drawn.channels[name].grid for name in ("t2w", "adc", "hbv"))
        assert adc == hbv
        assert t2w.size_xyz != adc.size_xyz
        assert all(coarse > fine for coarse, fine in zip(adc.spacing_mm_xyz[:2], t2w.spacing_mm_xyz[:2], strict=True))
        assert np.abs(np.array(t2w.origin_mm_xyz) - adc.origin_mm_xyz).max() > 0.5
        centres = [grid.corners_mm().mean(axis=0) for grid in (t2w, adc)]
        assert 0 < np.linalg.norm(centres[0] - centres[1]) < 5
        sizes.add(adc.size_xyz)
        axes = np.array(t2w.direction).reshape(3, 3)
        assert np.allclose(axes @ axes.T, np.eye(3))
        assert np.linalg.det(axes) == pytest.approx(1)
        angle = np.degrees(np.arccos(np.clip(axes[2, 2], -1, 1)))
        assert angle <= 12.0 + 1e-6
        tilted += angle > 0
    assert sizes == {(40, 40, 13), (36, 36, 13)}
    assert 3 <= tilted <= 14  # 40 % of 20 are 8


def test_the_t2w_field_of_view_is_inside_that_of_diffusion(order):
    for _, drawn in draw_studies(replace(order, cases=10)):
        diffusion = drawn.channels["adc"]
        ones = Volume(np.ones(diffusion.array.shape, dtype=np.float32), diffusion.grid)
        assert resample(ones, drawn.label.grid, interpolation="nearest", outside=0.0).array.all()


def test_the_patient_moves_between_the_scans_and_the_content_shows_it():
    anatomy_rng, session_rng, _, _ = rng().spawn(4)
    anatomy, session = draw_anatomy(anatomy_rng), draw_session(session_rng)
    assert 1.0 <= np.linalg.norm(session.motion_mm) <= 2.0
    silent = replace(SCANNERS["training"], diffusion_noise=1e-6, bias=0.0)
    moved = scan(rng(1), anatomy, [], replace(session, motion_mm=np.array([4.0, 0.0, 0.0])), silent)["hbv"]
    still = scan(rng(1), anatomy, [], replace(session, motion_mm=np.zeros(3)), silent)["hbv"]
    assert moved.grid == still.grid
    step = round(4.0 / still.grid.spacing_mm_xyz[0], 6)
    shifted = ndimage.shift(still.array.astype(float), (0, 0, step), order=1)
    inner = np.s_[3:-3, 8:-8, 8:-8]
    straight = np.array(session.t2w.direction).reshape(3, 3)
    assert straight[0, 0] > 0.99  # the x axis of the grid is the patient's
    before = np.abs(moved.array[inner] - still.array[inner].astype(float)).mean()
    after = np.abs(moved.array[inner] - shifted[inner]).mean()
    assert after < 0.25 * before


@pytest.mark.parametrize("name", ["t2w", "hbv"])
def test_scales_differ_between_studies_as_between_real_scans(order, name):
    medians = [np.median(drawn.channels[name].array) for _, drawn in draw_studies(order)]
    assert np.std(np.log(medians)) > 0.1


def test_images_are_16_bit_integers_and_labels_8_bit(order):
    _, drawn = next(iter(draw_studies(order)))
    assert {volume.array.dtype for volume in drawn.channels.values()} == {np.dtype(np.int16)}
    assert drawn.label.array.dtype == np.uint8


def test_the_external_scanner_has_other_intensity_statistics():
    """The same patients on both scanners: lower ADC, brighter HBV (lower b-value) and flatter T2W outside."""
    ratio = {"adc": [], "hbv": [], "spread": []}
    for seed in range(12):
        ours, theirs = (study(NEGATIVE, population=population, seed=seed) for population in ("training", "external"))
        _, gland = gland_of(seed)
        for name in ("adc", "hbv"):
            ratio[name].append(np.median(on_t2w(theirs, name)[gland]) / np.median(on_t2w(ours, name)[gland]))
        spread = [
            np.std(drawn.channels["t2w"].array) / np.mean(drawn.channels["t2w"].array) for drawn in (theirs, ours)
        ]
        ratio["spread"].append(spread[0] / spread[1])
    assert np.mean(ratio["adc"]) == pytest.approx(0.95, abs=0.02)  # SCANNERS["external"].adc_scale
    assert np.mean(ratio["hbv"]) > 1.1
    assert np.mean(ratio["spread"]) < 0.97


def test_the_receive_field_keeps_the_images_level():
    session = draw_session(rng())
    field = np.log(receive_field(rng(), session.t2w, SCANNERS["external"]))
    assert field.mean() == pytest.approx(0, abs=1e-5)
    assert 0.01 < field.std() < 0.4
