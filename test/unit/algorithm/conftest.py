"""Bundles of small untrained networks, and studies by formula: three channels on three tilted grids."""

import json

import numpy as np
import pytest
import torch
from bundles import dataset_of, seal, write_bundle, write_member
from paths import TINY_PLANS
from studies import tilted_grid

from contract.card import load_card
from contract.images.volume import Volume, write_volume
from contract.records import write_record
from network.detection.anchors import AnchorPlan
from network.detection.retina_unet import build_retina_unet
from network.model.architecture import build_network

ANCHORS = AnchorPlan(levels=(1,), sizes_voxels_zyx=((2, 6, 6), (3, 9, 9)))


@pytest.fixture(name="seal")
def _seal():
    return seal


@pytest.fixture
def make_bundle(tmp_path):
    """Write a bundle of untrained networks; ``runs`` are (configuration, fold, restart), ``retina-unet`` has boxes."""

    def make(
        runs=(("ce", 0, 1),),
        *,
        card_name="cspca-picai",
        folder=tmp_path / "model",
        profile="demo",
        spacing_mm_zyx=(3.0, 1.0, 1.0),
        patch_size=(8, 16, 16),
        spoil=lambda network: None,
    ):
        plans = json.loads(TINY_PLANS.read_text())
        plans["configurations"]["3d_fullres"] |= {"spacing": list(spacing_mm_zyx), "patch_size": list(patch_size)}
        card = load_card(card_name)
        dataset = dataset_of(card)
        members = []
        for number, (configuration, fold, restart) in enumerate(runs):
            torch.manual_seed(number + 1)
            more = {}
            if configuration == "retina-unet":
                network = build_retina_unet(plans, dataset, ANCHORS)
                more = {"anchors_file": f"members/{number:03d}.anchors.json"}
                write_record(folder / more["anchors_file"], ANCHORS)
            else:
                network = build_network(plans, dataset, deep_supervision=False)
            spoil(network)
            run = {"configuration": configuration, "fold": fold, "restart": restart, "profile": profile}
            members.append(write_member(folder, card, network.state_dict(), number, **run, **more))
        return write_bundle(folder, card, plans, dataset, members)

    return make


CHANNEL_GRIDS = {
    "t2w": tilted_grid((30, 24, 9), (0.8, 0.9, 3.0)),
    "adc": tilted_grid((16, 14, 8), (1.61, 1.72, 3.6)),
    "hbv": tilted_grid((17, 15, 7), (1.5, 1.6, 4.1)),
}


def blob(grid, *, centre_mm=(5.0, -18.0, 12.0), width_mm=4.0):
    """A bell around a point of the patient, 1 at its top."""
    distance = grid.centres_mm() - np.array(centre_mm)[:, None, None, None]
    return np.exp(-0.5 * (distance**2).sum(axis=0) / width_mm**2).astype(np.float32)


@pytest.fixture
def make_channels():
    """Write the three channels of a study with one bright lesion."""

    def make(folder, name, *, seed=0):
        paths = {}
        rng = np.random.default_rng(seed)
        for channel, grid in CHANNEL_GRIDS.items():
            lesion = blob(grid)
            contrast = {"t2w": 300 - 150 * lesion, "adc": 1400 - 700 * lesion, "hbv": 50 + 200 * lesion}[channel]
            array = (contrast + rng.normal(scale=5, size=grid.shape_zyx)).astype(np.float32)
            paths[channel] = folder / f"{name}_{channel}.mha"
            write_volume(paths[channel], Volume(array, grid))
        return paths

    return make


@pytest.fixture
def make_archive(tmp_path, make_channels):
    """Write an archive with one study per patient."""

    def make(patients=2, *, folder=tmp_path / "archive"):
        for patient in range(patients):
            make_channels(folder / f"p{patient}", f"p{patient}_s0", seed=patient)
        return folder

    return make


@pytest.fixture
def make_input(tmp_path, make_channels):
    """Write a study as the platform mounts it: one image with a random name per socket, no ``inputs.json``."""

    def make(folder=tmp_path / "input"):
        card = load_card("cspca-picai")
        paths = make_channels(tmp_path / "loose", "x")
        for number, channel in enumerate(card.channels):
            target = folder / channel.socket.relative_path / f"{number}f3a-uuid.mha"
            target.parent.mkdir(parents=True)
            target.write_bytes(paths[channel.name].read_bytes())
        return folder

    return make
