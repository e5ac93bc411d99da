import numpy as np
import pytest
from refusals import refused_with
from studies import read_study, read_study_label, tilted_grid

from contract.card import load_card
from contract.errors import OncoduetError
from contract.images.volume import Volume, write_volume

SMALL = (40, 36, 9), (0.8, 0.9, 3.0)
LARGE = (300, 310, 24), (0.6, 0.7, 3.0)


@pytest.fixture
def picai():
    return load_card("cspca-picai")


@pytest.fixture
def rsna():
    return load_card("cspca-rsna2022")


def ramp(grid):
    """A value that grows linearly through the patient, so that every position has its own."""
    x, y, z = grid.centres_mm()
    return (500 + 2 * x - 3 * y + 5 * z).astype(np.float32)


@pytest.fixture
def make_study_files(tmp_path):
    def make(size_xyz, spacing_mm_xyz):
        grids = {
            "t2w": tilted_grid(size_xyz, spacing_mm_xyz),
            "adc": tilted_grid((90, 92, 30), (1.61, 1.72, 3.9)),
            "hbv": tilted_grid((100, 95, 34), (1.5, 1.6, 3.3)),
        }
        paths = {}
        for number, (channel, grid) in enumerate(grids.items()):
            paths[channel] = tmp_path / f"study_{channel}.mha"
            write_volume(paths[channel], Volume(ramp(grid) + 100 * np.float32(number), grid))
        return paths

    return make


def test_every_channel_is_brought_to_the_same_places_of_the_patient(rsna, make_study_files):
    study = read_study(rsna, make_study_files(*LARGE))
    assert study.array.shape == (3, 20, 160, 160)
    assert study.array.dtype == np.float32
    for number, channel in enumerate(study.array):
        np.testing.assert_allclose(channel, ramp(study.grid) + 100 * number, atol=0.5)


def test_voxels_beyond_a_channels_field_of_view_get_its_fill_value(picai, make_study_files):
    channels = (each.model_copy(update={"outside": -7.0}) if each.name == "adc" else each for each in picai.channels)
    card = picai.model_copy(update={"channels": tuple(channels)})
    paths = make_study_files((60, 50, 9), (0.8, 0.9, 3.0))
    nearly_even = 900 + 0.01 * np.random.default_rng(1).random((4, 10, 10), np.float32)
    write_volume(paths["adc"], Volume(nearly_even, tilted_grid((10, 10, 4), (2.0, 2.0, 3.0))))
    adc = read_study(card, paths).array[1]
    assert adc[0, 0, 0] == -7.0
    assert adc[4, 25, 30] == pytest.approx(900, abs=0.1)


def test_label_values_become_class_indices_on_the_study_grid(rsna, make_study_files, tmp_path):
    classes = (
        rsna.classes[0].model_copy(update={"name": "zone", "values": (7,)}),
        rsna.classes[0].model_copy(update={"values": (2, 4)}),
    )
    card = rsna.model_copy(update={"classes": classes})
    study = read_study(card, make_study_files(*LARGE))
    reference = study.placement.native
    label = np.zeros(reference.shape_zyx, np.int32)
    label[10:14, 150:160, 140:150] = 2
    label[10:14, 160:170, 140:150] = 4
    label[10:14, 170:180, 140:150] = 7
    write_volume(tmp_path / "label.nii.gz", Volume(label, reference))
    found = read_study_label(card, tmp_path / "label.nii.gz", study)
    assert found.shape == (20, 160, 160)
    volume_ml = np.bincount(found.ravel(), minlength=3)[1:] * study.grid.voxel_volume_ml
    np.testing.assert_allclose(volume_ml, np.array([400, 800]) * reference.voxel_volume_ml, rtol=0.03)


@pytest.mark.parametrize(
    ("size_xyz", "value", "expected", "found"),
    [
        pytest.param((41, 36, 9), 0, "the grid of the reference channel", "size (41, 36, 9)", id="another grid"),
        pytest.param((40, 36, 9), 6, "label values [0, 1, 2, 3, 4, 5]", "[6]", id="a value without a class"),
    ],
)
def test_a_label_map_that_does_not_fit_study_or_card_is_refused(
    picai, make_study_files, tmp_path, size_xyz, value, expected, found
):
    study = read_study(picai, make_study_files(*SMALL))
    grid = tilted_grid(size_xyz, SMALL[1])
    path = tmp_path / "label.nii.gz"
    write_volume(path, Volume(np.full(grid.shape_zyx, value, np.int32), grid))
    with pytest.raises(OncoduetError) as caught:
        read_study_label(picai, path, study)
    assert caught.value.where == str(path)
    assert caught.value.expected.startswith(expected)
    assert caught.value.found.startswith(found)


def test_channels_with_disjoint_fields_of_view_are_refused(picai, make_study_files):
    paths = make_study_files(*SMALL)
    away = tilted_grid((10, 10, 4), (2.0, 2.0, 3.0), centre_mm=(500.0, 0.0, 0.0))
    write_volume(paths["hbv"], Volume(np.ones((4, 10, 10), np.float32), away))
    with refused_with("study s", expected=r"study_hbv\.mha to share a field of view with 't2w'"):
        read_study(picai, paths)


@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
def test_the_lesion_of_a_real_study_is_within_the_study_grid(real_data, card_name):
    card = load_card(card_name)
    folder = real_data / "prostatex" / "mha" / "11373_1001396"
    study = read_study(card, {name: folder / f"11373_1001396_{name}.mha" for name in card.channel_names})
    labels = real_data / "prostatex" / "labels"
    lesion = read_study_label(card, labels / "csPCa_lesion_human_expert_resampled" / "11373_1001396.nii.gz", study) > 0
    gland = read_study_label(card, labels / "whole_gland_Bosma22b" / "11373_1001396.nii.gz", study) > 0
    # 0.31 mL by the data's README; both cards keep its 3 mm slices of 0.5 mm pixels.
    assert lesion.sum() * study.grid.voxel_volume_ml == pytest.approx(0.3105, abs=1e-4)
    assert (lesion & gland).sum() > 0.9 * lesion.sum()
    adc = study.array[card.channel_names.index("adc")]
    assert np.median(adc[lesion]) < np.median(adc[gland & ~lesion])  # restricted diffusion
