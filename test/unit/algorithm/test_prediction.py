from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from algorithm.bundle import read_bundle
from algorithm.prediction import StudyPrediction, load_predictor
from contract.volume import read_grid

Maker = Callable[..., Path]


@pytest.fixture
def predict(
    make_bundle: Maker, make_channels: Callable[..., dict[str, Path]], tmp_path: Path
) -> Callable[..., StudyPrediction]:
    def run(card_name: str = "cspca-picai", *, mirroring: bool | None = None) -> StudyPrediction:
        runs = [("ce", 0, 1), ("focal", 0, 1), ("ce-dice", 0, 1)]
        bundle = read_bundle(make_bundle(runs, card_name=card_name, folder=tmp_path / f"model-{card_name}"))
        predictor = load_predictor(bundle, bundle.record.members, mirroring=mirroring)
        return predictor.predict(make_channels(tmp_path / "study", "s"), name="s")

    return run


@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
def test_an_ensemble_is_the_arithmetic_mean_of_its_members_probabilities(
    predict: Callable[..., StudyPrediction], tmp_path: Path, card_name: str
) -> None:
    prediction = predict(card_name, mirroring=False)
    members = prediction.bundle.record.members
    singles = [np.asarray(prediction.ensemble([member]).array, np.float64) for member in members]
    for some in [(0, 1), (1, 2), (0, 1, 2)]:
        ensemble = prediction.ensemble([members[index] for index in some])
        # Resampling is linear, so the mean may be taken before (once) or, as here, after it.
        np.testing.assert_allclose(ensemble.array, np.mean([singles[index] for index in some], axis=0), atol=1e-6)
    assert np.abs(singles[0] - singles[1]).max() > 0.01
    assert ensemble.grid == read_grid(tmp_path / "study" / "s_t2w.mha")
    assert ensemble.array.dtype == np.float32
    assert 0 <= ensemble.array.min() < ensemble.array.max() <= 1


def test_the_lesion_class_of_the_card_is_the_one_predicted(
    predict: Callable[..., StudyPrediction], tmp_path: Path
) -> None:
    prediction = predict(mirroring=False)
    member = prediction.bundle.record.members[0]
    predictor = load_predictor(prediction.bundle, [member], mirroring=False)
    # Weights that always say "lesion": the last convolution's bias decides.
    for name, parameter in predictor.networks[0].named_parameters():
        if "seg_layers" in name:
            parameter.data.zero_()
            if name.endswith("bias"):
                parameter.data[prediction.bundle.card.lesion_index] = 20.0
    channels = {name: tmp_path / "study" / f"s_{name}.mha" for name in prediction.bundle.card.channel_names}
    probability = predictor.predict(channels, name="s").ensemble([member]).array
    np.testing.assert_allclose(probability, 1.0, atol=1e-6)


def test_mirroring_is_as_the_card_says_unless_asked_otherwise(predict: Callable[..., StudyPrediction]) -> None:
    bundle = predict(mirroring=False).bundle
    assert bundle.card.test_time_mirroring
    assert load_predictor(bundle, bundle.record.members[:1]).mirroring
    assert not load_predictor(bundle, bundle.record.members[:1], mirroring=False).mirroring
    plain = bundle.card.model_copy(update={"test_time_mirroring": False})
    other = type(bundle)(bundle.folder, bundle.record, plain, bundle.plans, bundle.dataset, bundle.sha256)
    assert not load_predictor(other, bundle.record.members[:1]).mirroring


def test_networks_do_not_train_and_need_no_gradient(predict: Callable[..., StudyPrediction]) -> None:
    bundle = predict(mirroring=False).bundle
    for network in load_predictor(bundle, bundle.record.members).networks:
        assert isinstance(network, torch.nn.Module)
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
