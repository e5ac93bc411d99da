"""Our windows and averages against nnU-Net's own predictor, on phantoms by formula and on a real study.

nnU-Net's accumulators are float16. A subclass gives it float32 ones: what is left then is rounding. How far the stock
predictor is away, and how far its average of logits, is printed (``pytest -s``) and explained in
``docs/decisions/averaging-probabilities.md``.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from studies import read_study

from contract.card import load_card
from network.inference.sliding_window import ensemble_probabilities
from network.model.architecture import build_network, normalise_by_groups
from network.preprocessing.nnunet_preprocessing import Preprocessed, preprocess

Json = dict[str, Any]


class Float32Predictor(nnUNetPredictor):
    """nnU-Net's predictor, but that its sums and its Gaussian are float32."""

    def _internal_predict_sliding_window_return_logits(self, data, slicers, do_on_device=True):
        weight = compute_gaussian(
            tuple(self.configuration_manager.patch_size), dtype=torch.float32, value_scaling_factor=10,
            device=torch.device("cpu"),
        )  # fmt: skip
        logits = torch.zeros((self.label_manager.num_segmentation_heads, *data.shape[1:]))
        total = torch.zeros(data.shape[1:])
        for place in slicers:
            logits[place] += self._internal_maybe_mirror_and_predict(data[place][None])[0] * weight
            total[place[1:]] += weight
        return logits / total


@dataclass(frozen=True)
class Bench:
    """Networks and one preprocessed study."""

    plans: Json
    dataset: Json
    networks: list[torch.nn.Module]
    preprocessed: Preprocessed
    mirror_axes: tuple[int, ...]

    def ours(self):
        """Lesion probability on the study grid, shape (z, y, x)."""
        mean = ensemble_probabilities(
            [normalise_by_groups(copy.deepcopy(network)) for network in self.networks],
            torch.from_numpy(self.preprocessed.data),
            ensembles=[range(len(self.networks))],
            groups=[(1,)],
            patch_size=tuple(self.plans["configurations"]["3d_fullres"]["patch_size"]),
            mirror_axes=self.mirror_axes,
        )
        return self.preprocessed.grid.to_study_grid(mean[0].numpy())[0]

    def theirs(self, predictor_class):
        """The same by nnU-Net: each member's probability on the study grid, averaged as ``nnUNetv2_ensemble`` does."""
        return np.mean([self._exported(predictor_class, [network]) for network in self.networks], axis=0)

    def as_folds(self, predictor_class):
        """The same by nnU-Net with the members as its folds, whose logits it averages."""
        return self._exported(predictor_class, self.networks)

    def logits(self, predictor_class, networks):
        """Logits of nnU-Net on the network's grid, shape (class, z, y, x), averaged over its folds."""
        plans = PlansManager(self.plans)
        predictor = predictor_class(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=bool(self.mirror_axes))
        predictor.manual_initialization(
            build_network(self.plans, self.dataset),
            plans,
            plans.get_configuration("3d_fullres"),
            [each.state_dict() for each in networks],
            self.dataset,
            "none",
            self.mirror_axes,
        )
        data = torch.from_numpy(self.preprocessed.data)
        return predictor.predict_logits_from_preprocessed_data(data).float()

    def _exported(self, predictor_class, networks):
        plans = PlansManager(self.plans)
        _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            self.logits(predictor_class, networks),
            plans,
            plans.get_configuration("3d_fullres"),
            plans.get_label_manager(self.dataset),
            dict(self.preprocessed.grid.properties),
            return_probabilities=True,
        )
        return probabilities[1]


@pytest.fixture
def make_networks(tiny_dataset):
    """Seeded networks whose logits are as large as trained ones'."""

    def make(plans, count):
        networks = []
        for seed in range(count):
            torch.manual_seed(seed)
            network = build_network(plans, tiny_dataset).eval().requires_grad_(False)
            for name, parameter in network.named_parameters():
                if "seg_layers" in name and name.endswith("weight"):
                    parameter.data *= 6
            networks.append(network)
        return networks

    return make


def phantom(size):
    """Three channels with slow waves, a bright lesion and noise, shape (channel, z, y, x)."""
    rng = np.random.default_rng(1)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, length) for length in size), indexing="ij")
    lesion = np.exp(-20 * ((z - 0.2) ** 2 + (y + 0.3) ** 2 + (x - 0.1) ** 2))
    waves = [np.sin(3 * x + 2 * y + channel) + 0.5 * np.cos(4 * z) + 3 * lesion for channel in range(3)]
    return np.stack([400 + 150 * wave + rng.normal(scale=30, size=size) for wave in waves]).astype(np.float32)


def report_gap(bench, ours):
    stock, folds = np.abs(ours - bench.theirs(nnUNetPredictor)), np.abs(ours - bench.as_folds(nnUNetPredictor))
    print(
        f"\n{len(bench.networks)} members, mirroring {bool(bench.mirror_axes)}: "
        f"stock nnU-Net differs by at most {stock.max():.2g} (mean {stock.mean():.2g}), "
        f"with logits averaged over folds by {folds.max():.2g} (mean {folds.mean():.2g})"
    )
    # float16 has no digits left at the rim; everywhere else its steps show.
    assert stock.max() > 1e-4


@pytest.mark.parametrize("size", [(20, 33, 41), (9, 24, 30), (5, 40, 12)])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("mirror_axes", [(), (0, 1, 2)])
def test_a_phantoms_probability_is_nnunets_with_float32_accumulators(
    make_networks, tiny_plans, tiny_dataset, size, members, mirror_axes
):
    preprocessed = preprocess(phantom(size), (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset)
    assert preprocessed.data.shape[1:] == size  # the plans' spacing: nothing is resampled
    bench = Bench(tiny_plans, tiny_dataset, make_networks(tiny_plans, members), preprocessed, mirror_axes)
    ours = bench.ours()
    assert ours.std() > 0.05
    np.testing.assert_allclose(ours, bench.theirs(Float32Predictor), rtol=0, atol=1e-5)
    report_gap(bench, ours)
    if members > 1:
        assert np.abs(ours - bench.as_folds(Float32Predictor)).max() > 1e-3  # probabilities, not logits


@pytest.mark.parametrize("members", [1, 4])
def test_the_way_back_is_nnunets_resampling_of_its_own_mean_probability(
    make_networks, tiny_plans, tiny_dataset, members
):
    size, spacing_mm_zyx = (20, 33, 41), (3.0, 0.8, 0.8)
    preprocessed = preprocess(phantom(size), spacing_mm_zyx, plans=tiny_plans, dataset=tiny_dataset)
    assert preprocessed.data.shape[1:] != size
    bench = Bench(tiny_plans, tiny_dataset, make_networks(tiny_plans, members), preprocessed, ())
    plans = PlansManager(tiny_plans)
    configuration = plans.get_configuration("3d_fullres")
    each = [torch.softmax(bench.logits(Float32Predictor, [network]), dim=0).numpy() for network in bench.networks]
    expected = configuration.resampling_fn_probabilities(
        np.mean(each, axis=0), size, configuration.spacing, spacing_mm_zyx
    )
    np.testing.assert_allclose(bench.ours(), expected[1], rtol=0, atol=1e-5)
    # nnU-Net itself resamples logits, which is not the same; the decision note says why we do not.
    assert np.abs(bench.ours() - bench.theirs(Float32Predictor)).max() > 1e-3


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("members", "mirror_axes"), [(1, (2,)), (2, ())])  # more of both: on phantoms, above
def test_a_real_studys_probability_is_nnunets_with_float32_accumulators(
    make_networks, tiny_plans, tiny_dataset, real_data, members, mirror_axes
):
    card = load_card("cspca-rsna2022")  # 160 × 160 pixels around the prostate
    folder = real_data / "prostatex" / "mha" / "11373_1001396"
    study = read_study(card, {name: folder / f"11373_1001396_{name}.mha" for name in card.channel_names}, name="0000")
    tiny_plans["configurations"]["3d_fullres"] |= {
        "spacing": list(study.placement.spacing_mm_zyx),
        "patch_size": [16, 160, 112],
    }
    preprocessed = preprocess(study.array, study.placement.spacing_mm_zyx, plans=tiny_plans, dataset=tiny_dataset)
    bench = Bench(tiny_plans, tiny_dataset, make_networks(tiny_plans, members), preprocessed, mirror_axes)
    ours = bench.ours()
    assert ours.shape == study.grid.shape_zyx
    assert ours.std() > 0.05
    np.testing.assert_allclose(ours, bench.theirs(Float32Predictor), rtol=0, atol=1e-5)
    report_gap(bench, ours)
