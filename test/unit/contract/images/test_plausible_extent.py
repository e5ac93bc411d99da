"""Spacings in another unit: refused before anything is reckoned from them, and the unit is named."""

from dataclasses import replace
from pathlib import Path

import pytest
from paths import DATA, PROJECT
from refusals import refused_with

from contract.archive.studies import read_grids
from contract.card import Card, card_names, load_card
from contract.images.grid import Grid
from contract.images.plausible_extent import require_plausible_extent
from contract.images.volume import is_image, read_grid
from contract.schema import parse_toml

AXES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
STUDIES = {
    "cspca": [
        Grid((384, 384, 19), (0.5, 0.5, 3.0), (0, 0, 0), AXES),
        Grid((84, 128, 19), (1.9, 1.9, 3.0), (0, 0, 0), AXES),
    ],
    "pdac": [
        Grid((512, 512, 300), (0.7, 0.7, 1.0), (0, 0, 0), AXES),
        Grid((512, 512, 60), (0.9, 0.9, 5.0), (0, 0, 0), AXES),
    ],
}
FACTORS = {1000.0: "micrometres", 100.0: "hundredths of a millimetre", 10.0: "tenths of a millimetre"}
FACTORS |= {0.1: "centimetres", 0.001: "metres"}


def scaled(grid: Grid, factor: float) -> Grid:
    x, y, z = grid.spacing_mm_xyz
    return replace(grid, spacing_mm_xyz=(x * factor, y * factor, z * factor))


@pytest.mark.parametrize("name", card_names())
@pytest.mark.parametrize("factor", FACTORS)
def test_lengths_in_another_unit_are_refused_and_the_unit_is_named(name: str, factor: float) -> None:
    geometry = load_card(name).geometry
    for grid in STUDIES[name.partition("-")[0]]:
        require_plausible_extent(Path("a.mha"), grid, geometry, study="s")
        with refused_with("^study s$", expected=r"^a\.mha to have ", found=f": as if they were {FACTORS[factor]}$"):
            require_plausible_extent(Path("a.mha"), scaled(grid, factor), geometry, study="s")


def test_line_gives_expected_and_found() -> None:
    geometry = load_card("cspca-picai").geometry
    with refused_with(
        "study 10_1",
        expected="^a.mha to have spacings of 0.2 to 10 mm and a longest side of 1 to 600 mm$",
        found="^spacings of 500 × 500 × 3000 mm and a longest side of 192000 mm: as if they were micrometres$",
    ):
        require_plausible_extent(Path("a.mha"), scaled(STUDIES["cspca"][0], 1000), geometry, study="10_1")


def test_one_axis_in_another_unit_is_refused_without_a_guess() -> None:
    grid = replace(STUDIES["cspca"][0], spacing_mm_xyz=(0.5, 0.5, 300.0))
    with refused_with(found="a longest side of 5700 mm"):
        require_plausible_extent(Path("a.mha"), grid, load_card("cspca-picai").geometry, study="s")


@pytest.mark.parametrize("bounds", ["[10.0, 0.2]", "[1.0, 1.0]"])
def test_a_card_whose_bounds_are_the_wrong_way_round_is_refused(tmp_path: Path, bounds: str) -> None:
    text = (PROJECT / "contract/cards/cspca-picai.toml").read_text()
    (tmp_path / "card.toml").write_text(text.replace("[0.2, 10.0]", bounds))
    with refused_with(problem="geometry.plausible_spacing_mm: expected the smaller number first, found"):
        parse_toml(tmp_path / "card.toml", Card)


@pytest.mark.data
@pytest.mark.parametrize("organ", STUDIES)
def test_every_real_image_is_plausible_to_the_cards_of_its_organ(organ: str) -> None:
    folders = {
        "cspca": ["prostatex/mha", "prostatex/labels", "picai_labels", "rga", "anatomy/picai"],
        "pdac": ["ct", "panorama_labels", "anatomy/panorama"],
    }
    paths = [path for folder in folders[organ] for path in sorted((DATA / folder).rglob("*")) if is_image(path)]
    assert len(paths) > 30
    for path in paths:
        for name in [name for name in card_names() if name.startswith(organ)]:
            require_plausible_extent(path, read_grid(path), load_card(name).geometry, study=path.name)


@pytest.mark.data
def test_a_real_study_is_read_with_its_grids() -> None:
    folder = DATA / "prostatex/mha/ProstateX-0218_02-18-2011"
    card = load_card("cspca-picai")
    channels = {name: next(folder.glob(f"*_{name}.mha")) for name in card.channel_names}
    assert read_grids("s", channels, card.geometry)["t2w"].size_xyz == (320, 320, 20)
