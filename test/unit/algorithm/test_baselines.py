import numpy as np
import pytest

from algorithm.baselines import baseline_probability
from contract.archive.studies import Study
from contract.card import Baseline, load_card
from contract.images.volume import Volume, read_grid, read_volume, write_volume


@pytest.fixture
def study(make_channels, tmp_path):
    channels = make_channels(tmp_path, "p_s")
    reference = read_grid(channels["t2w"])
    # Channels on the reference's own grid, so that the formula can be compared voxel by voxel.
    rng = np.random.default_rng(1)
    for name in ("adc", "hbv"):
        write_volume(channels[name], Volume(rng.uniform(-200, 2000, reference.shape_zyx).astype(np.float32), reference))
    return Study("p_s", "p", channels, None)


@pytest.mark.parametrize(
    ("extreme", "formula"), [("maximum", lambda v: v / (v + 700)), ("minimum", lambda v: 700 / (v + 700))]
)
def test_an_intensity_becomes_a_share_and_nothing_measured_becomes_zero(study, extreme, formula):
    baseline = Baseline(name="b", channel="adc", extreme=extreme, scale=700.0)
    found = baseline_probability(load_card("cspca-picai"), baseline, study)
    value = np.asarray(read_volume(study.channels["adc"]).array, np.float64)
    assert (value <= 0).any()
    np.testing.assert_allclose(found.array[value > 0], formula(value[value > 0]), atol=1e-6)
    assert not found.array[value <= 0].any()


def test_a_baseline_is_zero_where_a_network_predicts_nothing(study):
    card = load_card("cspca-picai")
    card = card.model_copy(
        update={"geometry": card.geometry.model_copy(update={"keep_central_mm_zyx": (9.0, 9.0, 8.0)})}
    )
    found = baseline_probability(card, Baseline(name="b", channel="hbv", extreme="maximum", scale=1.0), study)
    assert found.array.any(axis=(1, 2)).tolist() == [False] * 3 + [True] * 3 + [False] * 3
    assert found.array.any(axis=(0, 1)).sum() == 10
    assert found.array.any(axis=(0, 2)).sum() == 10
