"""CT phantoms: plausible numbers, one patient in three orientations, organs and lesion at the labelled places."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import ndimage

from contract.card import load_card
from contract.images.volume import resample
from phantom.abdomen import draw_anatomy, draw_lesions, label_organs, render
from phantom.archive import draw_studies
from phantom.cohort import CasePlan
from phantom.ct import ORIENTATIONS, SCANNERS, draw_session, draw_study, scan, stored
from phantom.study import LabelValues

PANORAMA = LabelValues.of(load_card("pdac-panorama"))
RSNA2022 = LabelValues.of(load_card("pdac-rsna2022"))
LESION, VEINS, ARTERIES, PANCREAS, DUCT, BILE_DUCT, CYST = range(1, 8)


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def plan(conspicuity: float, volume_ml: float = 6.0) -> CasePlan:
    visibility = "obvious" if conspicuity else "invisible"
    return CasePlan(0, positive=True, visibility=visibility, conspicuity=conspicuity, volume_ml=volume_ml)


NEGATIVE = CasePlan(0, positive=False, visibility="none", conspicuity=0.0, volume_ml=0.0)


def study(case_plan: CasePlan, *, population: str = "training", seed: int = 5, values: LabelValues = PANORAMA):
    return draw_study(plan=case_plan, population=population, values=values, rng=rng(seed))


def patient(seed: int):
    """The anatomy and the session of :func:`study`, by the same streams."""
    anatomy_rng, session_rng, lesion_rng, _ = rng(seed).spawn(4)
    anatomy = draw_anatomy(anatomy_rng)
    return anatomy, draw_session(session_rng, anatomy), lesion_rng


def hounsfield(drawn) -> np.ndarray:
    return drawn.channels["ct"].array.astype(float)


@pytest.mark.parametrize("seed", range(4))
def test_an_invisible_lesion_changes_neither_image_nor_organs(seed):
    invisible, negative = study(plan(0.0), seed=seed), study(NEGATIVE, seed=seed)
    assert np.array_equal(invisible.channels["ct"].array, negative.channels["ct"].array)
    lesion = invisible.label.array == LESION
    assert lesion.any()
    assert not np.any(negative.label.array == LESION)
    assert np.array_equal(invisible.label.array[~lesion], negative.label.array[~lesion])
    assert np.array_equal(invisible.organs, negative.label.array)
    assert np.isin(negative.label.array[lesion], (PANCREAS, DUCT)).all()  # nothing bulges where nothing is seen


@pytest.mark.parametrize("seed", range(4))
def test_a_visible_lesion_is_darker_than_the_pancreas_that_it_replaces(seed):
    visible, negative = study(plan(1.0), seed=seed), study(NEGATIVE, seed=seed)
    inside = (visible.label.array == LESION) & ndimage.binary_erosion(negative.label.array == PANCREAS)
    assert np.count_nonzero(inside) > 5
    assert np.median((hounsfield(visible) - hounsfield(negative))[inside]) < -15  # 24 to 42 HU instead of about 100
    assert np.array_equal(negative.organs, negative.label.array)


def test_a_lesion_changes_nothing_far_from_it_and_its_dilated_duct():
    for seed in range(6):
        visible, negative = study(plan(1.0), seed=seed), study(NEGATIVE, seed=seed)
        near = np.isin(visible.label.array, (LESION, DUCT))
        far = ndimage.distance_transform_edt(~near, visible.label.grid.spacing_mm_zyx) > 10
        assert np.array_equal(hounsfield(visible)[far], hounsfield(negative)[far])


def test_every_orientation_shows_the_same_patient():
    anatomy, session, _ = patient(3)
    array = scan(rng(1), anatomy, [], session.grid, SCANNERS["training"])
    as_lps, *others = (stored(array, replace(session, orientation=name)) for name in ("LPS", "RAS", "LAI"))
    assert np.array_equal(as_lps.array, array)
    for other in others:
        assert not np.array_equal(other.array, array)
        back = resample(other, as_lps.grid, interpolation="nearest", outside=-5000.0)
        assert np.array_equal(back.array, array)
        assert np.linalg.det(np.array(other.grid.direction).reshape(3, 3)) == pytest.approx(1)


def test_images_differ_in_orientation_size_spacing_and_origin(ct_order):
    drawn = [each for _, each in draw_studies(ct_order)]
    grids = [each.channels["ct"].grid for each in drawn]
    diagonals = {tuple(np.diag(np.array(grid.direction).reshape(3, 3))) for grid in grids}
    assert diagonals == {(1, 1, 1), (-1, -1, 1), (1, -1, -1)}  # those of PANORAMA's label maps
    by_name = {each.facts["orientation"]: each.channels["ct"].grid.direction for each in drawn}
    assert all(tuple(np.diag(np.array(by_name[name]).reshape(3, 3))) == signs for name, signs in ORIENTATIONS.items())
    assert len({grid.size_xyz for grid in grids}) > 5
    assert len({grid.spacing_mm_xyz for grid in grids}) == 20
    assert np.ptp([grid.origin_mm_xyz for grid in grids], axis=0).min() > 50
    assert all(each.label.grid == each.channels["ct"].grid for each in drawn)


def test_images_are_16_bit_integers_that_the_card_finds_plausible(ct_order):
    plausible = ct_order.card.channels[0].plausible
    for _, drawn in draw_studies(replace(ct_order, cases=6)):
        image = drawn.channels["ct"].array
        assert image.dtype == np.int16
        assert -1024 <= image.min() <= plausible.minimum_at_most
        assert plausible.maximum_at_least <= image.max() <= 3071
        assert (drawn.label.array.dtype, drawn.organs.dtype) == (np.uint8, np.uint8)


def test_organs_have_the_hounsfield_units_of_the_portal_venous_phase():
    medians = {value: [] for value in (VEINS, ARTERIES, PANCREAS)}
    for seed in range(8):
        drawn = study(NEGATIVE, seed=seed)
        for value, found in medians.items():
            reach = 2 if value == ARTERIES else 1  # the aorta alone; veins are as thin as three voxels
            core = ndimage.binary_erosion(drawn.label.array == value, ndimage.generate_binary_structure(3, reach)[[1]])
            if core.any():
                found.append(np.median(hounsfield(drawn)[core]))
        assert np.median(hounsfield(drawn)[:, :2, :2]) == pytest.approx(-1000, abs=10)  # air at the corner
    # the wanted means: aorta 170, portal vein 150, pancreas 100 less the fat in it
    assert np.mean(medians[ARTERIES]) == pytest.approx(168, abs=12)
    assert np.mean(medians[VEINS]) == pytest.approx(150, abs=15)
    assert np.mean(medians[PANCREAS]) == pytest.approx(100, abs=12)


def test_every_study_has_its_organs_labelled_and_a_lesion_only_if_positive(ct_order):
    for case, drawn in draw_studies(ct_order):
        values = set(np.unique(drawn.label.array).tolist())
        assert values - {LESION} == {0, VEINS, ARTERIES, PANCREAS, DUCT, BILE_DUCT}
        assert (LESION in values) == case.positive
        voxel_ml = drawn.label.grid.voxel_volume_ml
        assert 30 < np.count_nonzero(drawn.organs == PANCREAS) * voxel_ml < 100  # PANORAMA: 56 to 87 mL in five


def test_a_cyst_has_its_own_value_only_where_the_card_knows_one():
    found = 0
    for seed in (seed for seed in range(60) if "cyst" in {each.kind for each in patient(seed)[0].distractors}):
        ours, theirs = (study(NEGATIVE, seed=seed, values=values) for values in (PANORAMA, RSNA2022))
        assert np.array_equal(ours.channels["ct"].array, theirs.channels["ct"].array)
        cyst = theirs.label.array == CYST
        assert np.array_equal(ours.label.array[~cyst], theirs.label.array[~cyst])
        assert np.isin(ours.label.array[cyst], PANCREAS).all()
        found += cyst.any()
        assert not cyst.any() or "cyst" in ours.facts["distractors"]
    assert found >= 2


def test_a_card_with_only_lesions_gets_label_maps_with_only_lesions():
    drawn = study(plan(1.0), values=LabelValues(3, {"tumour": 3}))
    assert set(np.unique(drawn.label.array).tolist()) == {0, 3}
    assert not drawn.organs.any()


@pytest.mark.parametrize("volume_ml", [1.0, 6.0, 25.0])
def test_a_lesion_has_the_planned_volume(volume_ml):
    for seed in range(5):
        drawn = study(plan(1.0, volume_ml), seed=seed)
        voxel_ml = drawn.label.grid.voxel_volume_ml
        (lesion,) = drawn.lesions
        assert lesion.volume_ml == pytest.approx(np.count_nonzero(drawn.label.array == LESION) * voxel_ml)
        assert lesion.volume_ml == pytest.approx(volume_ml, rel=0.05, abs=voxel_ml)


def test_lesions_are_at_the_pancreas_in_one_piece_and_spare_vessels():
    zones = Counter()
    for seed in range(30):
        drawn = study(plan(0.8), seed=seed)
        lesion = drawn.label.array == LESION
        assert ndimage.label(lesion, np.ones((3, 3, 3)))[1] == 1
        assert not np.isin(drawn.organs[lesion], (VEINS, ARTERIES, BILE_DUCT)).any()
        pancreas = np.isin(drawn.organs, (PANCREAS, DUCT))
        distance = ndimage.distance_transform_edt(~pancreas, drawn.label.grid.spacing_mm_zyx)
        assert distance[lesion].max() < 12  # grown by half the radius of 6 mL, 5.6 mm, and one voxel's diagonal
        assert (distance[lesion] == 0).mean() > 0.3
        zones[drawn.lesions[0].zone] += 1
    assert set(zones) == {"head", "body", "tail"}
    assert 13 <= zones["head"] <= 26  # 65 % of 30 are 19.5


def test_zones_run_from_the_patients_right_to_the_left():
    x_mm = {"head": [], "tail": []}
    for seed in range(12):
        drawn = study(plan(1.0, 1.0), seed=seed)
        centres = drawn.label.grid.centres_mm()
        lesion = centres[0][drawn.label.array == LESION].mean()
        offset = lesion - centres[0][drawn.organs == PANCREAS].mean()
        if drawn.lesions[0].zone in x_mm:
            x_mm[drawn.lesions[0].zone].append(offset)
    assert max(x_mm["head"]) < min(x_mm["tail"])


def test_only_a_visible_lesion_dams_the_duct_and_not_each_one_does():
    dilated = 0
    for seed in range(40):
        anatomy, session, lesion_rng = patient(seed)
        (lesion,) = draw_lesions(lesion_rng, anatomy, plan(0.5), session.grid)
        dilated += lesion.dilated_duct is not None
        _, _, lesion_rng = patient(seed)
        (unseen,) = draw_lesions(lesion_rng, anatomy, plan(0.0), session.grid)
        assert unseen.dilated_duct is None
        assert unseen.layers == ()
    assert 8 <= dilated <= 24  # 40 % of 40 are 16


def test_a_benign_stricture_is_rare_and_dilates_the_labelled_duct():
    kinds = Counter(kind for seed in range(300) for kind in {each.kind for each in draw_anatomy(rng(seed)).distractors})
    assert 8 <= kinds["stricture"] <= 45  # 300 patients, 0.65 distractors each, 8 % of them: 16
    assert set(kinds) == {
        "pancreatitis", "cyst", "focal fat", "lymph node", "bowel loop", "accessory spleen", "stricture"
    }  # fmt: skip
    voxels = []
    for seed in range(100):
        anatomy, session, _ = patient(seed)
        if anatomy.dilated_duct is not None:
            pair = (anatomy, replace(anatomy, dilated_duct=None))
            voxels.append(
                [np.count_nonzero(label_organs(each, [], session.grid, PANORAMA)[0] == DUCT) for each in pair]
            )
    wide, normal = np.array(voxels).T
    assert (wide >= normal).all()
    assert wide.sum() > 1.1 * normal.sum()


def test_distractor_slices_count_from_the_feet_in_every_orientation():
    seen = set()
    for seed in (seed for seed in range(60) if "cyst" in {each.kind for each in patient(seed)[0].distractors}):
        drawn = study(NEGATIVE, seed=seed, values=RSNA2022)
        kinds, slices = (str(drawn.facts[name]).split(";") for name in ("distractors", "distractor_slices"))
        if kinds.count("cyst") == 1:
            cyst = drawn.label.array == CYST
            upright = cyst[::-1] if drawn.facts["orientation"] == "LAI" else cyst
            if cyst.any():
                assert upright[int(slices[kinds.index("cyst")])].any()
                seen.add(drawn.facts["orientation"])
    assert seen == set(ORIENTATIONS)


def test_noise_has_the_populations_strength_and_grows_with_the_patient():
    for seed in (1, 2):
        anatomy, session, _ = patient(seed)
        for scanner in SCANNERS.values():
            noisy, silent = (
                scan(rng(9), anatomy, [], session.grid, each).astype(float)
                for each in (scanner, replace(scanner, noise_hu=0.0))
            )
            body = silent > -500  # air is clipped at -1024
            stoutness = anatomy.body.semi_axes_mm[0] / 138
            assert (noisy - silent)[body].std() == pytest.approx(scanner.noise_hu * stoutness**3, rel=0.05)


def test_the_external_population_has_other_intensity_statistics():
    """The same patients on both scanners: less contrast agent and more noise outside."""
    blood, noise = [], []
    for seed in range(8):
        anatomy, session, _ = patient(seed)
        ours, theirs = (study(NEGATIVE, population=population, seed=seed) for population in ("training", "external"))
        aorta = ndimage.binary_erosion(ours.label.array == ARTERIES, np.ones((1, 3, 3)))
        blood.append(np.median(hounsfield(theirs)[aorta]) - np.median(hounsfield(ours)[aorta]))
        flat = render(anatomy, [], session.grid, enhancement=1.0) == -1000
        flat = stored(flat.astype(np.uint8), session).array.astype(bool)
        noise.append(np.std(hounsfield(theirs)[flat]) / np.std(hounsfield(ours)[flat]))
    assert -10 < np.mean(blood) < -3  # a twentieth of 126 HU
    assert np.mean(noise) > 1.05


def test_anatomy_and_distractors_are_the_same_with_and_without_a_lesion(ct_order):
    with_lesion, without = (
        [drawn.facts for _, drawn in draw_studies(replace(ct_order, cases=8, positive_fraction=Fraction(share)))]
        for share in (1, 0)
    )
    assert with_lesion == without
