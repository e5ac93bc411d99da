"""What is accepted of nnU-Net's plans: its own, whole; nothing that names other code or takes a machine's memory."""

import copy
import json
from typing import get_args

import pytest
import torch
from refusals import refused_with

from contract.card import load_card
from network.model.architecture import OPERATORS, build_network, network_classes
from network.model.plans import (
    ARCHITECTURES,
    CONVOLUTIONS,
    DROPOUTS,
    MOST_BYTES,
    NONLINEARITIES,
    NORMS,
    Normalisation,
    Resampler,
    read_plans,
    require_dataset,
    require_plans,
)

NETS = "dynamic_network_architectures.architectures.unet"


def configuration(plans):
    return plans["configurations"]["3d_fullres"]


def arguments(plans):
    return configuration(plans)["architecture"]["arch_kwargs"]


def residual(plans):
    """The same plans for nnU-Net's residual network."""
    plans = copy.deepcopy(plans)
    configuration(plans)["architecture"]["network_class_name"] = f"{NETS}.ResidualEncoderUNet"
    arguments(plans)["n_blocks_per_stage"] = arguments(plans).pop("n_conv_per_stage")
    return plans


def test_every_name_in_the_tables_has_a_class():
    assert set(ARCHITECTURES.values()) == set(network_classes())
    operators = {name for table in (CONVOLUTIONS, NORMS, DROPOUTS, NONLINEARITIES) for name in table.values()}
    assert operators == set(OPERATORS)
    for table in (CONVOLUTIONS, NORMS, DROPOUTS, NONLINEARITIES):
        for spelled, name in table.items():
            module, _, last = spelled.rpartition(".")
            assert last == name == OPERATORS[name].__name__
            assert module in ("torch.nn", OPERATORS[name].__module__)


def test_nnunet_finds_the_normalisations_and_resamplers_of_the_tables():
    from nnunetv2.preprocessing import normalization  # noqa: PLC0415
    from nnunetv2.preprocessing.normalization import default_normalization_schemes  # noqa: PLC0415
    from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name  # noqa: PLC0415

    del normalization
    for name in get_args(Normalisation):
        assert issubclass(
            getattr(default_normalization_schemes, name), default_normalization_schemes.ImageNormalization
        )
    for name in get_args(Resampler):
        assert recursive_find_resampling_fn_by_name(name).__module__.startswith("nnunetv2.preprocessing.resampling.")


@pytest.mark.parametrize("change", [lambda plans: plans, residual], ids=["plain", "residual"])
@pytest.mark.parametrize("deep", [True, False])
def test_network_and_initial_weights_equal_those_of_nnunets_builder(tiny_plans, tiny_dataset, change, deep):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415

    plans = change(tiny_plans)
    architecture = configuration(plans)["architecture"]
    torch.manual_seed(3)
    found = build_network(plans, tiny_dataset, deep_supervision=deep)
    torch.manual_seed(3)
    expected = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        3,
        2,
        deep_supervision=deep,
    )
    assert str(found) == str(expected)
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in found.state_dict().items())


@pytest.mark.data
def test_plans_that_nnunet_wrote_are_accepted(real_data):
    paths = sorted(real_data.glob("nnunet/nnUNet_*/**/*lans.json"))
    found = 0
    for path in paths:
        plans = json.loads(path.read_text())
        if "3d_fullres" in plans["configurations"]:
            plans["configurations"] = {"3d_fullres": plans["configurations"]["3d_fullres"]}
            require_plans(plans, path)
            found += 1
    assert found >= 8


def put(where, name, value):
    return lambda plans: where(plans).__setitem__(name, value)


def whole(plans):
    return plans


def architecture(plans):
    return configuration(plans)["architecture"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put(arguments, "nonlin", "torch.nn.functional.torch.os.system"),
            "nonlin: expected one of torch.nn.LeakyReLU, ",
        ),
        (put(arguments, "nonlin", "torch.nn.Module"), "nonlin: expected one of .*, found 'torch.nn.Module'"),
        (
            put(arguments, "conv_op", "torch.nn.Conv2d"),
            "conv_op: expected one of torch.nn.Conv3d, torch.nn.modules.conv",
        ),
        (put(arguments, "norm_op", f"{NETS}.np"), "norm_op: expected one of "),
        (put(arguments, "dropout_op", "torch.nn.Dropout"), "dropout_op: expected one of torch.nn.Dropout3d, "),
        (put(arguments, "nonlin_kwargs", {"command": "id"}), "nonlin_kwargs.command: Extra inputs are not permitted"),
        (put(arguments, "norm_op_kwargs", {"eps": "1e-5"}), "norm_op_kwargs.eps: Input should be a valid number"),
        (put(arguments, "block", f"{NETS}.BottleneckD"), "arch_kwargs.block: Extra inputs are not permitted"),
        (put(arguments, "deep_supervision", True), "arch_kwargs.deep_supervision: Extra inputs are not permitted"),
        (put(arguments, "features_per_stage", [10**9, 8]), "features_per_stage.0: Input should be less than or equal"),
        (
            put(arguments, "features_per_stage", [4, 8] * 500_000),
            "features_per_stage: Tuple should have at most 12 items",
        ),
        (
            put(arguments, "n_conv_per_stage", [10**7, 1]),
            "n_conv_per_stage.0: Input should be less than or equal to 32",
        ),
        (put(arguments, "kernel_sizes", [[3, 3, 10_001]] * 2), "kernel_sizes.0.2: Input should be 1, 3, 5, 7, 9 or 11"),
        (put(arguments, "strides", "torch.nn.functional"), "strides: Input should be a valid array"),
        (put(arguments, "strides", [[1, 2, 2], [1, 2, 2]]), "strides: expected the first stage at full resolution"),
        (put(arguments, "n_stages", 3), "features_per_stage: expected 3 entries for 3 stages, found 2"),
        (
            put(arguments, "n_blocks_per_stage", [1, 1]),
            "arch_kwargs: expected n_conv_per_stage and not n_blocks_per_stage",
        ),
        (
            lambda plans: arguments(plans).update(nonlin="torch.nn.ReLU", nonlin_kwargs={"negative_slope": 0.1}),
            "nonlin_kwargs: negative_slope is only for LeakyReLU",
        ),
        (put(architecture, "network_class_name", f"{NETS}.torch.os.system"), "network_class_name: expected one of "),
        (put(architecture, "_kw_requires_import", ["block"]), "_kw_requires_import.0: Input should be 'conv_op', "),
        (put(configuration, "preprocessor_name", "join"), "preprocessor_name: Input should be 'DefaultPreprocessor'"),
        (put(configuration, "normalization_schemes", ["np"] * 3), "normalization_schemes.0: Input should be 'ZScore"),
        (put(configuration, "use_mask_for_norm", [True]), "use_mask_for_norm: expected as many entries as normal"),
        (put(configuration, "resampling_fn_data", "partial"), "resampling_fn_data: Input should be 'resample_data_or"),
        (put(configuration, "resampling_fn_data_kwargs", {"device": "x"}), "resampling_fn_data_kwargs.device: Extra"),
        (
            put(configuration, "resampling_fn_data_kwargs", {"mode": "linear"}),
            "resampling_fn_data_kwargs: resample_data_or_seg_to_shape does not know mode",
        ),
        (
            put(configuration, "resampling_fn_data_kwargs", {"order": None}),
            "resampling_fn_data_kwargs: expected values, found null as order",
        ),
        (
            put(configuration, "resampling_fn_probabilities_kwargs", {"is_seg": True}),
            "resampling_fn_probabilities_kwargs: expected is_seg to be False",
        ),
        (
            lambda plans: configuration(plans).update(
                resampling_fn_seg="no_resampling_hack", resampling_fn_seg_kwargs={}
            ),
            r"resampling_fn_\*: expected no_resampling_hack for all three or for none",
        ),
        (put(configuration, "spacing", [1e-9, 1.0, 1.0]), "spacing.0: Input should be greater than or equal to 0.01"),
        (put(configuration, "patch_size", [8, 15, 16]), "patch_size: expected a multiple of 2 along y, found 15"),
        (put(configuration, "inherits_from", "2d"), "inherits_from: Extra inputs are not permitted"),
        (put(configuration, "previous_stage", "3d_lowres"), "previous_stage: Extra inputs are not permitted"),
        (put(configuration, "data_identifier", "../../x"), "data_identifier: String should match pattern"),
        (put(whole, "dataset_name", "/etc"), "dataset_name: String should match pattern"),
        (put(whole, "plans_name", "a/../../b"), "plans_name: String should match pattern"),
        (put(whole, "label_manager", "recursive_find_python_class"), "label_manager: Input should be 'LabelManager'"),
        (put(whole, "image_reader_writer", "BaseReaderWriter"), "image_reader_writer: Input should be 'SimpleITKIO'"),
        (put(whole, "transpose_backward", [1, 0, 2]), "transpose_backward: expected an order of axes that undoes"),
        (
            put(whole, "foreground_intensity_properties_per_channel", {"7": {}}),
            "foreground_intensity_properties_per_channel.7.mean: Field required",
        ),
        (
            lambda plans: plans["foreground_intensity_properties_per_channel"].pop("1"),
            "foreground_intensity_properties_per_channel: expected 0 to 2, found no 1",
        ),
        (lambda plans: plans.clear(), "configurations: Field required"),
        (put(whole, "configurations", {}), "configurations.3d_fullres: Field required"),
    ],
)
def test_a_plan_that_names_other_code_or_too_much_is_refused(tiny_plans, tiny_dataset, change, message):
    change(tiny_plans)
    with refused_with("plans", message):
        build_network(tiny_plans, tiny_dataset)


def test_a_huge_network_is_refused_before_it_takes_memory(tiny_plans, tiny_dataset):
    arguments(tiny_plans)["features_per_stage"] = [2**20, 2048]
    arguments(tiny_plans)["kernel_sizes"] = [[11, 11, 11]] * 2
    with refused_with(expected="a network of at most 1,000,000,000 parameters", found=r"\d+,"):
        build_network(tiny_plans, tiny_dataset)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "lesion": [1, 2]}}, "labels.lesion: Input should be a valid integer"),
        ({"labels": {"background": 0, "lesion": 2}}, "labels: expected background as 0, and others from 1 to 1"),
        ({"labels": {f"l{i}": i for i in range(10**5)}}, "labels: Dictionary should have at most 256 items"),
        ({"channel_names": {"0": "a", "2": "b"}}, "channel_names: expected the channels 0 to 1"),
        ({"overwrite_image_reader_writer": "join"}, "overwrite_image_reader_writer: Input should be 'SimpleITKIO'"),
        ({"regions_class_order": [1, 2]}, "regions_class_order: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_description_of_a_data_set_is_refused(tiny_dataset, change, message):
    with refused_with("dataset", message):
        require_dataset(tiny_dataset | change)


def test_plans_and_data_set_have_the_channels_and_classes_of_the_card(tmp_path, tiny_plans, tiny_dataset):
    paths = tmp_path / "plans.json", tmp_path / "dataset.json"
    for path, value in zip(paths, (tiny_plans, tiny_dataset), strict=True):
        path.write_text(json.dumps(value))
    card = load_card("cspca-picai")
    assert read_plans(*paths, card) == (tiny_plans, tiny_dataset)
    with refused_with(r"dataset\.json", expected=r"1 channels and \d labels as in the card", found="3"):
        read_plans(*paths, load_card("pdac-panorama"))
    configuration(tiny_plans).update(normalization_schemes=["NoNormalization"], use_mask_for_norm=[False])
    paths[0].write_text(json.dumps(tiny_plans))
    with refused_with(r"plans\.json", expected="3 channels as in the card", found="1"):
        read_plans(*paths, card)
    paths[0].write_text(json.dumps(tiny_plans) + " " * MOST_BYTES)
    with refused_with(r"plans\.json", "larger than 1048576 bytes"):
        read_plans(*paths, card)
