"""Configurations, and what they have in common with profiles."""

import pytest
from refusals import refused_with

from training.configuration import CONFIGURATIONS
from training.engine import load_configuration
from training.profile import PROFILES, load_profile


def test_all_configurations_are_there():
    names = sorted(path.stem for path in CONFIGURATIONS.glob("*.toml"))
    assert names == ["ce", "ce-dice", "ce-focal", "focal", "localisation", "nndet", "retina-unet"]
    assert [load_configuration(name).name for name in names] == names


def test_only_the_focal_configuration_has_class_weights():
    (focal,) = load_configuration("focal").loss
    _, focal_term = load_configuration("ce-focal").loss
    assert (focal.alpha.background, focal.alpha.foreground) == (0.75, 0.25)
    assert focal_term.alpha is None
    assert [term.weight for term in load_configuration("ce-focal").loss] == [0.5, 0.5]
    assert [term.weight for term in load_configuration("ce-dice").loss] == [1.0, 1.0]


@pytest.mark.parametrize(("load", "what"), [(load_configuration, "configuration"), (load_profile, "profile")])
def test_an_unknown_name_lists_the_known_ones(load, what):
    with refused_with(f"{what} 'nonsense'", expected="one of .*, .* or a .toml file"):
        load("nonsense")


@pytest.mark.parametrize(
    ("load", "source"), [(load_configuration, CONFIGURATIONS / "ce.toml"), (load_profile, PROFILES / "modern.toml")]
)
def test_all_faults_of_a_file_are_named_at_once(load, source, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("surprise = 1\n" + source.read_text().replace("schema_version = 1", "schema_version = 7"))
    with refused_with(r"wrong\.toml", "2 faults: .*schema_version.*surprise"):
        load(path)


def test_each_engine_has_its_own_settings(tmp_path):
    detector = (CONFIGURATIONS / "retina-unet.toml").read_text()
    path = tmp_path / "mixed.toml"
    for text, fault in [
        (detector.replace('engine = "retina-unet"', 'engine = "nnunet"'), "loss: Field required.*warm_up"),
        (detector + 'stage = "localisation"\n', "stage: Input should be 'detection'"),
        (detector.replace("averaged = 0.1667", "averaged = 1.0"), "averaged: Input should be less than 1"),
        (detector.replace('engine = "retina-unet"', 'engine = "other"'), "expected tags: 'nnunet', 'retina-unet'"),
    ]:
        path.write_text(text)
        with refused_with(r"mixed\.toml$", fault):
            load_configuration(path)
