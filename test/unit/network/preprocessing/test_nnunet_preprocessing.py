import copy

import numpy as np
import pytest
from refusals import refused_with

from network.preprocessing.nnunet_preprocessing import most_features, network_size, patch_size_zyx, preprocess


def smooth(shape, *, phase=0.0):
    """A slow wave in [0.1, 0.9], different along each axis."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, length) for length in shape), indexing="ij")
    return (0.5 + 0.4 * np.sin(2 * z + 3 * y + 4 * x + phase)).astype(np.float32)


def three_channels(shape):
    return np.stack([smooth(shape, phase=phase) * scale for phase, scale in [(0, 400), (1, 2500), (2, 90)]])


def test_z_score_is_per_image_and_dataset_normalisation_is_not(tiny_plans, tiny_dataset):
    array = three_channels((9, 24, 30))
    data = preprocess(array, (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset).data
    assert data.shape == (3, 9, 24, 30)
    for channel in (0, 2):
        assert data[channel].mean() == pytest.approx(0, abs=1e-4)
        assert data[channel].std() == pytest.approx(1, abs=1e-4)
    # ADC: clipped to the data set's 0.5–99.5 percentiles, then its mean and standard deviation (tiny_plans.json).
    np.testing.assert_allclose(data[1], (np.clip(array[1], 200, 2000) - 900) / 250, atol=1e-4)


def test_doubling_a_quantitative_channel_changes_what_the_network_sees(tiny_plans, tiny_dataset):
    array = three_channels((9, 24, 30))
    once, twice = (
        preprocess(scale * array, (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset).data for scale in (1, 2)
    )
    np.testing.assert_allclose(once[0], twice[0], atol=1e-4)
    assert np.abs(once[1] - twice[1]).max() > 1


def test_input_is_left_alone(tiny_plans, tiny_dataset):
    array, label = three_channels((9, 24, 30)), np.zeros((9, 24, 30), np.int32)
    array[:, :, :, :5] = 0
    before = array.copy()
    plans = copy.deepcopy(tiny_plans)
    preprocess(array, (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset, label=label)
    np.testing.assert_array_equal(array, before)
    assert label.max() == label.min() == 0
    assert plans == tiny_plans


@pytest.mark.parametrize("spacing_mm_zyx", [(3.0, 1.0, 1.0), (4.1, 0.83, 1.37), (1.3, 1.6, 0.7)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_a_probability_comes_back_to_the_study_grid(tiny_plans, tiny_dataset, spacing_mm_zyx, transpose):
    plans = copy.deepcopy(tiny_plans)
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [transpose.index(axis) for axis in range(3)]
    array = np.stack([smooth((15, 41, 37))] * 3)
    array[:, :2] = array[:, :, :3] = array[:, :, :, -4:] = 0  # nnU-Net crops this away
    preprocessed = preprocess(array, spacing_mm_zyx, plans=plans, dataset=tiny_dataset)
    # Undo the z-score of channel 0: then the network's grid holds the wave itself, as a probability would be.
    cropped = array[0, 2:, 3:, :-4]
    wave = preprocessed.data[0] * cropped.std() + cropped.mean()
    back = preprocessed.grid.to_study_grid(np.stack([wave, 2 * wave]))
    assert back.shape == (2, 15, 41, 37)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back[1], 2 * back[0], atol=1e-5)
    np.testing.assert_allclose(back[0], array[0], atol=0.16)  # nearest along thick slices: half a slice off
    assert np.abs(back[0] - array[0]).mean() < 0.02
    assert not back[:, array[0] == 0].any()


def test_an_empty_study_is_preprocessed_too(tiny_plans, tiny_dataset):
    preprocessed = preprocess(
        np.zeros((3, 9, 20, 20), np.float32), (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset
    )
    assert np.isfinite(preprocessed.data).all()
    assert preprocessed.grid.to_study_grid(preprocessed.data[:1]).shape == (1, 9, 20, 20)


def test_a_label_is_carried_along_with_places_to_sample(tiny_plans, tiny_dataset):
    label = np.zeros((9, 24, 30), np.int32)
    label[3:6, 10:14, 20:25] = 1
    preprocessed = preprocess(
        three_channels((9, 24, 30)), (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset, label=label
    )
    assert preprocessed.label.shape == (1, 9, 24, 30)
    assert preprocessed.label.dtype == np.int16
    np.testing.assert_array_equal(preprocessed.label[0], label)
    places = preprocessed.grid.properties["class_locations"][1]
    assert len(places) == 60
    assert (preprocessed.label[tuple(places.T)] == 1).all()


def test_another_use_case_has_other_channels_and_classes(single_channel):
    plans, dataset = single_channel
    hounsfield = 400 * smooth((9, 24, 30))[None] - 100
    preprocessed = preprocess(hounsfield, (3.0, 1.0, 1.0), plans=plans, dataset=dataset)
    np.testing.assert_allclose(preprocessed.data[0], (np.clip(hounsfield[0], 20, 800) - 300) / 90, atol=1e-4)
    assert preprocessed.grid.to_study_grid(np.zeros((3, 9, 24, 30), np.float32)).shape == (3, 9, 24, 30)


def test_nothing_is_printed(tiny_plans, tiny_dataset, capfd):
    preprocess(three_channels((9, 24, 30)), (2.0, 1.5, 1.5), plans=tiny_plans, dataset=tiny_dataset)
    assert capfd.readouterr() == ("", "")


def test_the_patch_size_is_that_of_the_plans(tiny_plans):
    assert patch_size_zyx(tiny_plans) == (8, 16, 16)


def test_an_image_smaller_than_half_a_voxel_of_the_plans_is_one_voxel(tiny_plans, tiny_dataset):
    plans = copy.deepcopy(tiny_plans)
    plans["configurations"]["3d_fullres"]["spacing"] = [100.0, 100.0, 100.0]
    found = preprocess(
        three_channels((9, 24, 30)),
        (3.0, 1.0, 1.0),
        plans=plans,
        dataset=tiny_dataset,
        label=np.ones((9, 24, 30), np.int32),
    )
    assert found.data.shape[1:] == found.label.shape[1:] == network_size((9, 24, 30), (3.0, 1.0, 1.0), plans=plans)
    assert found.grid.to_study_grid(found.data[:1]).shape == (1, 9, 24, 30)


def test_a_huge_network_grid_is_refused_before_it_is_computed(tiny_plans):
    with refused_with(expected="at most 1048576 voxels along an axis", found="2000000 × 24 × 30$"):
        network_size((60, 24, 30), (1e5, 1.0, 1.0), plans=tiny_plans)


def test_the_stage_with_the_most_features_counts_wherever_it_is(tiny_plans):
    plans = copy.deepcopy(tiny_plans)
    assert most_features(plans) == 4
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [1, 3000]
    assert most_features(plans) == 750  # on a quarter of the voxels


def test_splines_of_higher_order_need_everything(tiny_plans, tiny_dataset):
    tiny_plans["configurations"]["3d_fullres"]["resampling_fn_probabilities_kwargs"]["order"] = 3
    preprocessed = preprocess(
        np.ones((3, 9, 24, 30), np.float32), (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset
    )
    assert preprocessed.grid.region_of((slice(2, 5), slice(3, 9), slice(4, 8))) is None


def test_a_box_in_what_was_cropped_away_needs_nothing(tiny_plans, tiny_dataset):
    array = np.ones((3, 9, 24, 30), np.float32)
    array[:, :, :10] = 0
    preprocessed = preprocess(array, (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset)
    region = preprocessed.grid.region_of((slice(0, 9), slice(2, 8), slice(0, 30)))
    assert region is not None
    assert region[1] == slice(0, 0)
