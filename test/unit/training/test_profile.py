"""Profiles."""

import re

import pytest
from refusals import refused_with

from contract.card import load_card
from training.profile import PROFILES, edited_plans, load_profile


def test_profiles_keep_the_weights_that_the_card_or_the_profile_names():
    picai, rsna = load_card("cspca-picai"), load_card("cspca-rsna2022")
    assert load_profile("rsna2022").checkpoint_for(rsna) == "best"
    assert load_profile("modern").checkpoint_for(rsna) == "final"
    assert load_profile("demo").checkpoint_for(picai) == "final"
    by_detection = picai.model_copy(update={"checkpoint": "detection"})
    assert load_profile("rsna2022").checkpoint_for(by_detection) == "detection"
    assert load_profile("rsna2022").keep_every_epochs == 50


def test_full_schedules_are_nnunets():
    for name in ("rsna2022", "modern"):
        profile = load_profile(name)
        assert profile.epochs * profile.iterations_per_epoch == 250_000
        assert (profile.learning_rate, profile.momentum, profile.weight_decay) == (0.01, 0.99, 3e-5)
        assert profile.plan is None


def test_a_card_without_checkpoint_is_refused_if_the_profile_asks_it():
    card = load_card("cspca-picai").model_copy(update={"checkpoint": None})
    with refused_with("card cspca-picai", "no checkpoint for the profile rsna2022"):
        load_profile("rsna2022").checkpoint_for(card)


@pytest.mark.parametrize(
    ("key", "value", "fields"),
    [
        ("learning_rate", "1e300", {"expected": r"numbers within ±1e\+15", "found": r"1e\+300"}),
        ("learning_rate", "1e7", {"problem": "learning_rate: Input should be less than or equal to 1000000"}),
        ("weight_decay", "1e7", {"problem": "weight_decay: Input should be less than or equal to 1000000"}),
        ("epochs", "10_000_000", {"problem": "epochs: Input should be less than or equal to 1000000"}),
        ("epochs", "9" * 400, {"expected": r"numbers within ±1e\+15", "found": "9999"}),
        ("epochs", "9" * 5000, {"problem": "not valid TOML"}),
    ],
)
def test_numbers_of_a_profile_are_bounded(tmp_path, key, value, fields):
    path = tmp_path / "wild.toml"
    path.write_text(re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", (PROFILES / "demo.toml").read_text()))
    with refused_with(r"wild\.toml$", **fields):
        load_profile(path)


def test_plan_edits_change_a_copy():
    profile = load_profile("demo")
    plans = {
        "plans_name": "oncoduet",
        "configurations": {
            "3d_fullres": {
                "batch_size": 2,
                "patch_size": [16, 128, 128],
                "spacing": [3.0, 0.5, 0.5],
                "architecture": {"arch_kwargs": {"n_stages": 6, "norm_op": "torch.nn.InstanceNorm3d"}},
            }
        },
    }
    edited = edited_plans(plans, profile)["configurations"]["3d_fullres"]
    assert plans["configurations"]["3d_fullres"]["batch_size"] == 2
    assert (edited["batch_size"], edited["patch_size"], edited["spacing"]) == (4, [12, 32, 32], [3.0, 0.5, 0.5])
    architecture = edited["architecture"]["arch_kwargs"]
    assert architecture["features_per_stage"] == [8, 16, 32, 64]
    assert architecture["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert architecture["n_conv_per_stage_decoder"] == [1, 1, 1]
    assert architecture["norm_op"] == "torch.nn.InstanceNorm3d"
    assert edited_plans(plans, load_profile("modern")) == plans
