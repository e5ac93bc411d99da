"""Bundles of small untrained networks, and studies by formula: three channels on three tilted grids."""

import hashlib
import json

import numpy as np
import pytest
import torch
from places import TINY_PLANS
from studies import tilted_grid

from contract.cards import CARDS, load_card
from contract.files import write_json
from contract.records import BundleRecord, Member, RunKey, write_record
from contract.volume import Volume, write_volume
from network.architecture import build_network
from network.detection.anchors import AnchorPlan
from network.detection.retina_unet import build_retina_unet
from network.weights import save_weights, tensors_sha256

ANCHORS = AnchorPlan(levels=(1,), sizes_voxels_zyx=((2, 6, 6), (3, 9, 9)))


def seal(folder):
    """Write SHA256SUMS over every other file, as ``sha256sum`` does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture(name="seal")
def seal_fixture():
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
        dataset = {
            "channel_names": {str(index): channel.name for index, channel in enumerate(card.channels)},
            "labels": {"background": 0, **{each.name: index for index, each in enumerate(card.classes, start=1)}},
            "numTraining": 1,
            "file_ending": ".mha",
        }
        members = []
        for number, (configuration, fold, restart) in enumerate(runs):
            torch.manual_seed(number + 1)
            beside = {}
            if configuration == "retina-unet":
                network = build_retina_unet(plans, dataset, ANCHORS)
                beside = {"anchors_file": f"members/{number:03d}.anchors.json"}
                write_record(folder / beside["anchors_file"], ANCHORS)
            else:
                network = build_network(plans, dataset, deep_supervision=False)
            spoil(network)
            file = f"members/{number:03d}.safetensors"
            save_weights(folder / file, network.state_dict())
            members.append(
                Member(
                    name=f"{configuration}_fold{fold}_restart{restart}",
                    file=file,
                    weights_sha256=tensors_sha256(network.state_dict()),
                    run_sha256=f"{number:064x}",
                    key=RunKey(
                        card=card.name,
                        card_sha256=card.sha256,
                        profile=profile,
                        configuration=configuration,
                        fold=fold,
                        restart=restart,
                        seed=number,
                    ),
                    **beside,
                )
            )
        record = BundleRecord(
            card=card.name,
            card_sha256=card.sha256,
            data_licence="Apache-2.0",
            plans_file="plans.json",
            dataset_file="dataset.json",
            members=tuple(members),
        )
        write_record(folder / "bundle.json", record)
        (folder / "card.toml").write_text((CARDS / f"{card_name}.toml").read_text())
        write_json(folder / "plans.json", plans)
        write_json(folder / "dataset.json", dataset)
        seal(folder)
        return folder

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
