"""Which images are refused or warned of by their intensities, and that no right one is."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.cards import load_card
from contract.errors import OncoduetError
from contract.volume import Grid, Volume, read_volume
from network.plausibility import require_plausible, warn_of_exchanged

T2W = Grid((24, 20, 8), (0.5, 0.6, 3.0), (-10.0, 20.5, 33.25), (1, 0, 0, 0, 1, 0, 0, 0, 1))
DIFFUSION = replace(T2W, size_xyz=(12, 10, 7), spacing_mm_xyz=(1.1, 1.3, 3.3))
CT = replace(T2W, size_xyz=(20, 22, 9), spacing_mm_xyz=(0.8, 0.9, 2.5))


def textured(grid, *, median, air):
    """Tissue whose median is given, with a quarter of it around, and air at one side."""
    z, y, x = np.indices(grid.shape_zyx)
    array = median * (1 + 0.25 * np.sin(0.7 * x + 1.3 * y + 0.4 * z))
    array[:, :2] = air
    return Volume(array.astype(np.float32), grid)


def mr():
    return {
        "t2w": textured(T2W, median=300, air=3),
        "adc": textured(DIFFUSION, median=1250, air=0),
        "hbv": textured(DIFFUSION, median=60, air=1),
    }


def ct():
    array = textured(CT, median=50, air=-1000).array.copy()
    array[:, -3:] = 400
    return {"ct": Volume(array, CT)}


def check(card_name, volumes, caplog):
    """What is said: an error's message, or all warnings."""
    card = load_card(card_name)
    paths = {name: Path(f"{name}.mha") for name in volumes}
    caplog.set_level(logging.WARNING)
    try:
        for channel in card.channels:
            require_plausible(channel, volumes[channel.name], paths[channel.name])
    except OncoduetError as error:
        return str(error)
    warn_of_exchanged(card, volumes, paths)
    return "; ".join(caplog.messages)


def changed(volumes, channel, change):
    volume = volumes[channel]
    return volumes | {channel: Volume(change(np.asarray(volume.array)).astype(np.float32), volume.grid)}


@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
@pytest.mark.parametrize(
    ("channel", "change", "said"),
    [
        ("adc", lambda x: x / 1000, r"^adc.mha: expected .* median .* from 200 to 10000, found 1.2\d*: another"),
        ("adc", lambda x: x * 1e-6, r"^adc.mha: expected .* found 0.0012\d*: another channel, modality or unit$"),
        ("adc", lambda x: x * 1000, r"^adc.mha: expected .* found 1.2\d*e\+06"),
        ("adc", lambda x: 255 * x / 4000, r"^adc.mha: expected .* found 8\d\."),
        ("adc", lambda x: x / 4, r"^adc.mha: a median of 3\d\d\..* is unusual for 'adc' \(mostly from 500 to 2500\)"),
        (
            "adc",
            lambda x: 0 * x + 1200,
            r"^adc.mha: expected an image of 'adc' with contrast, found 1200 in every",
        ),
        ("hbv", lambda x: 0 * x, r"^hbv.mha: expected an image of 'hbv' with contrast, found 0 in every voxel$"),
        ("t2w", lambda x: 0 * x, r"^t2w.mha: expected an image of 't2w' with contrast, found 0 in every voxel$"),
        ("t2w", lambda x: x * (np.indices(x.shape)[0] < 1), r"^t2w.mha: .* found 0 in every voxel in its middle$"),
    ],
)
def test_what_no_channel_of_an_mr_holds_is_refused_or_warned_of(card_name, channel, change, said, caplog):
    found = check(card_name, changed(mr(), channel, change), caplog)
    assert re.search(said, found), found


@pytest.mark.parametrize("card_name", ["pdac-panorama", "pdac-rsna2022"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x + 1024,
        lambda x: x - 1024,
        lambda x: np.clip((x + 160) / 400 * 255, 0, 255),
        lambda x: x / 1000,
        lambda x: x + 32768,
        lambda x: np.clip(x, -100, 240),
    ],
    ids=["no offset", "offset twice", "windowed", "divided", "unsigned", "clipped"],
)
def test_a_ct_in_another_unit_is_refused_by_name(card_name, change, caplog):
    assert check(card_name, changed(ct(), "ct", change), caplog).startswith("ct.mha: expected intensities of 'ct', ")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("adc", "hbv", "adc.mha: expected intensities of 'adc'"),
        ("adc", "t2w", "adc.mha: a median of "),
        ("hbv", "t2w", "are 't2w' and 'hbv' exchanged?"),
    ],
)
def test_exchanged_channels_are_refused_or_warned_of(one, other, said, caplog):
    right = mr()
    found = check("cspca-picai", right | {one: right[other], other: right[one]}, caplog)
    assert said in found


def test_one_image_for_two_channels_is_warned_of(caplog):
    right = mr()
    assert "hbv.mha: holds the same voxels as adc.mha" in check("cspca-picai", right | {"hbv": right["adc"]}, caplog)


@pytest.mark.parametrize(("card_name", "make"), [("cspca-picai", mr), ("pdac-panorama", ct)])
def test_nothing_is_said_of_right_images(card_name, make, caplog):
    assert check(card_name, make(), caplog) == ""


@pytest.mark.data
def test_nothing_is_said_of_real_images(real_data, caplog):
    for folder in sorted((real_data / "prostatex" / "mha").iterdir()):
        images = {name: read_volume(folder / f"{folder.name}_{name}.mha") for name in ("t2w", "adc", "hbv")}
        assert check("cspca-picai", images, caplog) == ""
    for name in ("example_ct.nii.gz", "example_ct_contrast_512x512x20.mha"):
        assert check("pdac-panorama", {"ct": read_volume(real_data / "ct" / name)}, caplog) == ""
