"""Which images are refused or warned of by their intensities, and that no right one is."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.card import load_card
from contract.errors import OncoduetError
from contract.images.grid import Grid, covered_share
from contract.images.volume import Volume, read_grid, read_label, read_volume
from network.study import plausibility
from network.study.plausibility import compare_channels, require_plausible, require_plausible_truth

T2W = Grid((48, 40, 8), (0.5, 0.6, 3.0), (-10.0, 20.5, 33.25), (1, 0, 0, 0, 1, 0, 0, 0, 1))
DIFFUSION = replace(T2W, size_xyz=(24, 20, 7), spacing_mm_xyz=(1.1, 1.3, 3.3))
CT = replace(T2W, size_xyz=(30, 26, 9), spacing_mm_xyz=(0.8, 0.9, 2.5))


def textured(grid, *, median, air, turn=0.0):
    """Tissue whose median is given, with a quarter of it around, and air at one side."""
    z, y, x = np.indices(grid.shape_zyx)
    array = median * (1 + 0.25 * np.sin((0.7 - turn) * x + (1.3 - turn) * y + (0.4 + turn) * z))
    array[:, : array.shape[1] // 8] = air
    return Volume(array.astype(np.float32), grid)


def mr():
    return {
        "t2w": textured(T2W, median=300, air=3),
        "adc": textured(DIFFUSION, median=1250, air=0),
        "hbv": textured(DIFFUSION, median=60, air=1, turn=0.2),
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
    compare_channels(card, volumes, paths)
    return "; ".join(caplog.messages)


def changed(volumes, channel, change):
    volume = volumes[channel]
    return volumes | {channel: Volume(change(np.asarray(volume.array)).astype(np.float32), volume.grid)}


def slice_of(x):
    return np.indices(x.shape)[0]


def column_of(x):
    return np.indices(x.shape)[2]


def noise(x):
    return np.random.default_rng(5).normal(0, 3, x.shape)


def metal(x):
    """A clip and its shadow: two voxels of one kind and two of the other, one of each in the middle."""
    y = x.copy()
    z = len(y) // 2
    y[1, 3, 3] = y[z, 5, 6] = 3071
    y[1, 3, 4] = y[z, 5, 5] = -1024
    return y


@pytest.mark.parametrize("then", [np.array, metal], ids=["clean", "metal"])
@pytest.mark.parametrize("card_name", ["cspca-picai", "cspca-rsna2022"])
@pytest.mark.parametrize(
    ("channel", "change", "said"),
    [
        ("adc", lambda x: x / 1000, r"^adc.mha: expected .* median .* from 200 to 10000, found 1.\d*: another"),
        ("adc", lambda x: x * 1e-6, r"^adc.mha: expected .* found 0.001\d*: another channel, modality or unit$"),
        ("adc", lambda x: x * 1000, r"^adc.mha: expected .* found 1.\d*e\+06"),
        ("adc", lambda x: 255 * x / 4000, r"^adc.mha: expected .* found [89]\d\."),
        ("adc", lambda x: x / 4, r"^adc.mha: a median of 3\d\d\..* is unusual for 'adc' \(mostly from 500 to 2500\)"),
        (
            "adc",
            lambda x: 0 * x + 1200,
            r"^adc.mha: expected an image of 'adc' with contrast, found 1200 in (nearly )?every",
        ),
        (
            "hbv",
            lambda x: 0 * x,
            r"^hbv.mha: expected an image of 'hbv' with contrast, found 0 in (nearly )?every voxel$",
        ),
        ("t2w", lambda x: 0 * x, r"^t2w.mha: expected .* 't2w' with contrast, found 0 in (nearly )?every voxel$"),
        ("t2w", lambda x: x * (slice_of(x) < 1), r"^t2w.mha: .* found 0 in (nearly )?every voxel in its middle$"),
        ("t2w", lambda x: -x, r"^t2w.mha: expected intensities of 't2w' above 0, .*: inverted"),
        ("hbv", lambda x: -x, r"^hbv.mha: expected intensities of 'hbv' above 0, .*: inverted"),
        ("adc", lambda x: -x, r"^adc.mha: expected intensities of 'adc' above 0, .*: inverted"),
        ("t2w", lambda x: 4 * x - 1000, r"^t2w.mha: expected intensities of 't2w', mostly -200 or more, found "),
        ("t2w", lambda x: 300 + noise(x), r"^t2w.mha: neighbouring voxels have nothing in common: is 't2w' noise"),
        ("t2w", lambda x: x * (slice_of(x) < 4), r"^t2w.mha: expected .* in more than 60% .*, found 4 of 8 slices"),
        ("adc", lambda x: x * (slice_of(x) >= 3), r"^adc.mha: expected .* in more than 60% .*, found 3 of 7 slices"),
        ("t2w", lambda x: x * (slice_of(x) % 2), r"^t2w.mha: expected .*, found 4 of 8 slices"),
        ("t2w", lambda x: x[np.minimum(slice_of(x)[:, 0, 0], 3)], r"^t2w.mha: expected .*, found 4 of 8 slices"),
        ("t2w", lambda x: x * (slice_of(x) < 6), r"^t2w.mha: 2 of 8 slices empty or copies .*: was its transfer cut"),
        ("t2w", lambda x: x * (slice_of(x) != 2), r"^t2w.mha: 1 of 8 slices empty or copies .*: was its transfer cut"),
    ],
)
def test_what_no_channel_of_an_mr_holds_is_refused_or_warned_of(card_name, channel, change, said, then, caplog):
    found = check(card_name, changed(mr(), channel, lambda x: then(change(x))), caplog)
    assert re.search(said, found), found


OTHER_UNITS = {
    "no offset": lambda x: x + 1024,
    "offset twice": lambda x: x - 1024,
    "windowed": lambda x: np.clip((x + 160) / 400 * 255, 0, 255),
    "divided": lambda x: x / 1000,
    "times 10": lambda x: 10 * x,
    "shifted": lambda x: x + 32768,
    "unsigned": lambda x: x.astype(np.int16).astype(np.uint16).astype(np.float32),
    "clipped": lambda x: np.clip(x, -100, 240),
    "inverted": lambda x: -x,
    "an MR": lambda x: textured(CT, median=300, air=3).array,
}


@pytest.mark.parametrize("then", [np.array, metal], ids=["clean", "metal"])
@pytest.mark.parametrize("card_name", ["pdac-panorama", "pdac-rsna2022"])
@pytest.mark.parametrize("change", OTHER_UNITS.values(), ids=OTHER_UNITS)
def test_a_ct_in_another_unit_is_refused_by_name(card_name, change, then, caplog):
    found = check(card_name, changed(ct(), "ct", lambda x: then(change(x))), caplog)
    assert found.startswith("ct.mha: expected intensities of 'ct', ")


@pytest.mark.parametrize("channel", ["t2w", "adc", "hbv"])
def test_a_ct_is_refused_in_every_channel_of_an_mr(channel, caplog):
    found = check("cspca-picai", mr() | {channel: ct()["ct"]}, caplog)
    assert found.startswith(f"{channel}.mha: expected intensities of {channel!r}, ")


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


@pytest.mark.parametrize("change", [np.array, metal], ids=["same", "but for some voxels"])
def test_one_image_for_two_channels_is_warned_of(change, caplog):
    copied = changed(mr() | {"hbv": mr()["adc"]}, "hbv", change)
    assert "hbv.mha: holds the same image as adc.mha" in check("cspca-picai", copied, caplog)


@pytest.mark.parametrize(("axis", "distance_mm"), [(0, 35.0), (1, -60.0), (2, 10.0)])
def test_a_channel_that_was_moved_is_warned_of(axis, distance_mm, caplog):
    right = mr()
    grid = right["hbv"].grid
    origin = [millimetres + distance_mm * (axis == each) for each, millimetres in enumerate(grid.origin_mm_xyz)]
    moved = Volume(right["hbv"].array, replace(grid, origin_mm_xyz=tuple(origin)))
    found = check("cspca-picai", right | {"hbv": moved}, caplog)
    assert re.search(r"^hbv.mha: 'hbv' covers \d+ % of the middle of 't2w', and their centres are \d+ mm apart", found)


@pytest.mark.parametrize(
    "change",
    [
        np.array,
        metal,
        lambda x: np.where(slice_of(x) == 0, x.min(), x),
        lambda x: np.where(column_of(x) < 9, x.min(), x),
    ],
    ids=["clean", "metal", "padded", "masked"],
)
@pytest.mark.parametrize(("card_name", "make"), [("cspca-picai", mr), ("pdac-panorama", ct)])
def test_correct_images_give_no_warning(card_name, make, change, caplog):
    volumes = make()
    for channel in volumes:
        volumes = changed(volumes, channel, change)
    assert check(card_name, volumes, caplog) == ""


def test_image_masked_to_a_small_organ_is_not_refused_as_empty(caplog):
    masked = changed(mr(), "t2w", lambda x: x * (abs(slice_of(x) - 3) < 2) * (abs(column_of(x) - 24) < 2))
    assert check("cspca-picai", masked, caplog).startswith("t2w.mha: 5 of 8 slices empty")


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({4: 0.02, 1: 0.01}, None),
        ({1: 0.09}, None),
        ({1: 0.02, 4: 0.01}, r"^a.nii.gz: the lesion's \d+ voxels are more than its organ's \d+"),
        ({1: 0.2, 4: 0.3}, r"^a.nii.gz: 20% of the image is lesion"),
        ({1: 0.6}, r"^a.nii.gz: expected lesions in at most half .*, found \d+ voxels of 'lesion'"),
        ({1: 1.0}, r"^a.nii.gz: expected lesions in at most half .*, found 7020 voxels of 'lesion'"),
        ({2: 1.0}, None),
    ],
)
def test_a_label_map_that_no_lesions_have_is_refused_or_warned_of(shares, said, caplog):
    values = np.zeros(CT.shape_zyx, np.int32)
    first = 0
    for value, share in shares.items():
        last = first + round(share * values.size)
        values.flat[first:last], first = value, last
    caplog.set_level(logging.WARNING)
    try:
        require_plausible_truth(load_card("pdac-panorama"), Volume(values, CT), Path("a.nii.gz"))
    except OncoduetError as error:
        found = str(error)
    else:
        found = "; ".join(caplog.messages)
    assert re.search(said, found) if said else found == ""


@pytest.mark.data
def test_real_images_give_no_warning(real_data, caplog):
    for folder in sorted((real_data / "prostatex" / "mha").iterdir()):
        images = {name: read_volume(folder / f"{folder.name}_{name}.mha") for name in ("t2w", "adc", "hbv")}
        assert check("cspca-picai", images, caplog) == ""
    for name in ("example_ct.nii.gz", "example_ct_sm.nii.gz", "example_ct_contrast_512x512x20.mha"):
        assert check("pdac-panorama", {"ct": read_volume(real_data / "ct" / name)}, caplog) == ""


@pytest.mark.data
def test_the_channels_of_real_studies_cover_the_reference(real_data):
    for folder in (real_data / "prostatex" / "mha").iterdir():
        t2w, adc, hbv = (read_grid(folder / f"{folder.name}_{name}.mha") for name in ("t2w", "adc", "hbv"))
        assert [covered_share(t2w, t2w), covered_share(adc, t2w), covered_share(hbv, t2w)] == [1.0, 1.0, 1.0]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("card_name", "pattern", "maps"),
    [
        ("cspca-picai", "picai_labels/csPCa_lesion_delineations/human_expert/*/*.nii.gz", 60),
        ("cspca-picai", "anatomy/picai/csPCa_lesion_delineations/human_expert/*/*.nii.gz", 340),
        ("pdac-panorama", "panorama_labels/*_labels/*.nii.gz", 12),
        ("pdac-panorama", "anatomy/panorama/*_labels/*.nii.gz", 24),
    ],
)
def test_real_label_maps_give_no_warning(real_data, caplog, card_name, pattern, maps):
    card = load_card(card_name)
    found = sorted(real_data.glob(pattern))
    assert len(found) == maps
    for path in found:
        require_plausible_truth(card, read_label(path, card.label_values), path)
    assert [record.getMessage() for record in caplog.records if record.name == plausibility.__name__] == []
