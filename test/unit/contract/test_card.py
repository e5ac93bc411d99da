"""What a card may say; every fault is named, all in one line."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from refusals import refused_with

from contract.card import CARDS, Card, card_names, load_card
from contract.schema import parse

Values = dict[str, Any]


@pytest.mark.parametrize("name", card_names())
def test_every_card_of_the_project_is_valid_and_named_as_its_file(name: str) -> None:
    assert load_card(name).name == name


def test_the_prostate_cards_differ_where_study_and_challenge_differ() -> None:
    study, challenge = load_card("cspca-rsna2022"), load_card("cspca-picai")
    assert study.geometry.crop_size_zyx == (20, 160, 160)
    assert challenge.geometry.crop_size_zyx is None
    assert (study.candidates.rule, challenge.candidates.rule) == ("dynamic", "dynamic-v2")
    assert (study.checkpoint, challenge.checkpoint) == ("best", "final")
    assert (study.candidates.case_likelihood_without_candidate, study.lesion_index) == ("zero", 1)
    assert challenge.candidates.case_likelihood_without_candidate == "probability"


def test_a_card_is_found_by_path_too_and_its_hash_ignores_layout(tmp_path: Path) -> None:
    text = (CARDS / "cspca-picai.toml").read_text()
    copy = tmp_path / "mine.toml"
    copy.write_text("# another comment\n\n" + text)
    assert load_card(copy) == load_card("cspca-picai")
    assert load_card(copy).sha256 == load_card("cspca-picai").sha256
    copy.write_text(text.replace("minimum_overlap = 0.1", "minimum_overlap = 0.2"))
    assert load_card(copy).sha256 != load_card("cspca-picai").sha256


def test_labels_are_mapped_through_the_classes(card_values: Values) -> None:
    card_values["classes"] = [{"name": "organ", "values": [4, 6]}, {"name": "lesion", "values": [1, 2]}]
    card = parse(card_values, Card, "here")
    assert card.channel_names == ["t2w", "adc", "hbv"]
    assert card.label_values == [0, 4, 6, 1, 2]
    assert card.lesion_index == 2
    assert card.lesion_values == (1, 2)


def test_a_card_cannot_be_changed(card: Card) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        card.name = "other"  # type: ignore[misc]


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed() -> None:
    known = ", ".join(card_names())
    with refused_with("card 'cspca'", expected=f"one of {known} or a .toml file"):
        load_card("cspca")


def test_three_faults_of_three_kinds_are_all_reported_in_one_line(tmp_path: Path) -> None:
    text = (CARDS / "cspca-picai.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(
        text.replace('title = "', 'titel = "x"\ntitle = "')
        .replace("minimum_overlap = 0.1", "minimum_overlap = -0.1")
        .replace('lesion_class = "lesion"', 'lesion_class = "cancer"')
    )
    with refused_with(f"^{path}$", "^3 faults: .*$") as refused:
        load_card(path)
    for fault in (
        "titel: Extra inputs are not permitted",
        "matching.minimum_overlap: Input should be greater than 0",
        "lesion_class 'cancer' is no class",
    ):
        assert fault in refused.value.problem
    assert "\n" not in refused.value.problem


CHANNELS = tomllib.loads((CARDS / "cspca-picai.toml").read_text())["channels"]
SPOILT = {
    "an unknown key": ({"organ": "prostate"}, "organ: Extra inputs are not permitted"),
    "a missing key": ({"title": None}, "title: Field required"),
    "another schema": ({"schema_version": 2}, "schema_version: Input should be 1"),
    "a name that is no file name": ({"name": "My Card"}, "name: String should match pattern"),
    "no channel": ({"channels": []}, "channels: Tuple should have at least 1 item"),
    "channels that are no list": ({"channels": "t2w"}, "channels: Input should be a valid array"),
    "a class that is no table": ({"classes": ["lesion"]}, "classes.0: "),
    "an unknown rule": (
        {"candidates": {"rule": "static", "case_likelihood_without_candidate": "zero"}},
        "candidates.rule: Input should be 'dynamic', 'dynamic-fast' or 'dynamic-v2'",
    ),
    "a number in quotes": (
        {"candidates": {"rule": "dynamic", "maximum": "5", "case_likelihood_without_candidate": "zero"}},
        "candidates.maximum: Input should be a valid integer",
    ),
    "a spacing of zero": (
        {"geometry": {"reference": "t2w", "spacing_mm_zyx": [3.0, 0.0, 0.5]}},
        "geometry.spacing_mm_zyx.1: Input should be greater than or equal to 0.001",
    ),
    "an infinite spacing": (
        {"geometry": {"reference": "t2w", "spacing_mm_zyx": [float("inf"), 0.5, 0.5]}},
        "geometry.spacing_mm_zyx.0: Input should be a finite number",
    ),
    "two numbers for three axes": (
        {"geometry": {"reference": "t2w", "crop_size_zyx": [160, 160]}},
        "geometry.crop_size_zyx.2: Field required",
    ),
    "a spacing of whole galaxies": (
        {"geometry": {"reference": "t2w", "spacing_mm_zyx": [1e300, 0.5, 0.5]}},
        "geometry.spacing_mm_zyx.0: Input should be less than or equal to 100000",
    ),
    "a crop without end": (
        {"geometry": {"reference": "t2w", "crop_size_zyx": [10**10, 160, 160]}},
        "geometry.crop_size_zyx.0: Input should be less than or equal to 10000",
    ),
    "a number of 400 digits": (
        {"keep_near": {"classes": ["lesion"], "dilation_voxels_zyx": [10**400, 1, 1]}},
        "keep_near.dilation_voxels_zyx.0: Input should be less than or equal to 100",
    ),
    "a name that no disk takes": ({"name": "a" * 300}, "name: String should have at most 100 characters"),
    "a reference that is no channel": ({"geometry": {"reference": "ct"}}, "geometry.reference 'ct' is no channel"),
    "a lesion that is no class": ({"lesion_class": "tumour"}, "lesion_class 'tumour' is no class"),
    "background as a class": (
        {"classes": [{"name": "lesion", "values": [0]}]},
        "classes.0.values.0: Input should be greater than or equal to 1",
    ),
    "a channel twice": ({"channels": [*CHANNELS, CHANNELS[1]]}, "duplicate channel 'adc'"),
    "a class twice": (
        {"classes": [{"name": "lesion", "values": [1]}, {"name": "lesion", "values": [2]}]},
        "duplicate class 'lesion'",
    ),
    "a label value in two classes": (
        {"classes": [{"name": "lesion", "values": [1]}, {"name": "organ", "values": [2, 1]}]},
        "duplicate label value '1'",
    ),
    "a baseline of no channel": (
        {"baselines": [{"name": "b", "channel": "ct", "extreme": "maximum", "scale": 1.0}]},
        "baseline 'b' reads 'ct', which is no channel",
    ),
    "a baseline twice": (
        {"baselines": [{"name": "b", "channel": "adc", "extreme": "maximum", "scale": 1.0}] * 2},
        "duplicate baseline 'b'",
    ),
    "an output outside its folder": (
        {"detection_map": {"slug": "map", "relative_path": "../map"}},
        "detection_map.relative_path: expected a relative path, found '../map'",
    ),
}


@pytest.mark.parametrize(("change", "fault"), SPOILT.values(), ids=SPOILT.keys())
def test_a_card_is_refused_with(card_values: Values, change: Values, fault: str) -> None:
    values = {key: value for key, value in (card_values | change).items() if value is not None}
    with refused_with("^mine.toml$", f"^1 fault: .*{re.escape(fault)}"):
        parse(values, Card, "mine.toml")


def test_names_are_checked_in_a_card_made_in_memory_too(card_values: Values) -> None:
    with pytest.raises(ValidationError, match="lesion_class 'tumour' is no class"):
        Card(**card_values | {"lesion_class": "tumour"})


@pytest.fixture
def ct_values() -> Values:
    return tomllib.loads((CARDS / "pdac-panorama.toml").read_text())


@pytest.mark.parametrize(
    ("section", "change", "fault"),
    [
        ("keep_near", {"classes": ["lesion", "spleen"]}, "keep_near: 'spleen' is no class"),
        ("localisation", {"values": [4, 9]}, "localisation: label value 9 belongs to no class"),
        ("localisation", {"at_most_columns": 256}, "expected either spacing_mm_zyx or at_most_columns"),
        ("localisation", {"margin_mm_zyx": None}, "expected either margin_mm_zyx or margin_voxels_zyx"),
        ("localisation", {"not_found": "crash"}, "localisation.not_found: Input should be 'whole' or 'zero'"),
        ("geometry", {"orientation": "RAS"}, "geometry.orientation: Input should be 'native' or 'LPS'"),
    ],
)
def test_a_card_that_locates_an_organ_is_refused_with(
    ct_values: Values, section: str, change: Values, fault: str
) -> None:
    with refused_with("^card.toml$", re.escape(fault)):
        parse(ct_values | {section: ct_values[section] | change}, Card, "card.toml")


def test_the_card_of_stage_1_has_one_class_and_the_same_channels() -> None:
    card = load_card("pdac-panorama")
    coarse = card.localising()
    assert [(each.name, each.values) for each in coarse.classes] == [("pancreas", (1, 4, 5))]
    assert coarse.geometry.spacing_mm_zyx == (9.0, 4.5, 4.5)
    assert coarse.channels == card.channels
    with refused_with("card cspca-picai", "has no localisation"):
        load_card("cspca-picai").localising()


def test_the_pancreas_cards_differ_where_study_and_challenge_differ() -> None:
    study, challenge = load_card("pdac-rsna2022"), load_card("pdac-panorama")
    assert study.localisation is not None
    assert challenge.localisation is not None
    assert (study.localisation.margin_voxels_zyx, challenge.localisation.margin_mm_zyx) == ((10, 50, 80), (15, 50, 100))
    assert (study.localisation.at_most_columns, challenge.localisation.spacing_mm_zyx) == (256, (9.0, 4.5, 4.5))
    assert (len(study.classes), len(challenge.classes)) == (9, 6)
    assert (study.candidates.rule, challenge.candidates.rule) == ("dynamic", "dynamic-fast")
    assert {study.channels[0].outside, challenge.channels[0].outside} == {-1024.0}


def test_bounds_in_the_wrong_order_are_a_fault_of_the_card(card_values: dict[str, Any]) -> None:
    card_values["channels"][1]["plausible"]["median_between"] = [9.0, 3.0]
    card_values["channels"][2]["same_scan_as"] = "dwi"
    scan = "channel 'hbv' is the same scan as 'dwi', which is no channel"
    bounds = "median_between: expected the lower bound first, found 9 and 3"
    with refused_with(problem=f"{bounds}.*{scan}|{scan}.*{bounds}"):
        parse(card_values, Card, "card.toml")


def test_newer_keys_change_the_hash_only_if_not_at_their_default():
    text = (CARDS / "cspca-picai.toml").read_text()
    values = tomllib.loads(text)
    card = parse(values, Card, "card.toml")
    for key, other in (("most_candidates", 7), ("narrowest_link_voxels", 1)):
        without = {name: value for name, value in values["matching"].items() if name != key}
        assert parse(values | {"matching": without}, Card, "card.toml").sha256 == card.sha256
        assert parse(values | {"matching": {**without, key: other}}, Card, "card.toml").sha256 != card.sha256
