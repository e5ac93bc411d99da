"""A model that finds the lesions of the synthetic studies without training, by a threshold set by hand, for any card.

The networks are nnU-Net's with nearly all weights at zero: a channel passes the first convolution and the skip
connection, and the last layer turns it into the lesion's logit. In MR the lesion is what is bright on the image that
the card's baselines take the maximum of: six deviations above its mean, which noise does not reach. In CT it is what
has a lesion's density over several voxels, unlike the border of the body; the organ that the card locates first is the
body. For the algorithm it is a bundle like any other; in patients it finds nothing.

``python -m conformance.lesion_model OUTPUT [CARD]`` writes it.
"""

import argparse
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conformance.studies.synthetic_studies import CT_LESION_HU, CT_TISSUE_HU
from contract.card import Card, card_path, load_card
from contract.files.atomic import atomic_file, write_json
from contract.files.checksums import SUMS, format_sums
from contract.files.reading import sha256_file
from contract.process.command import Parser, run_command
from contract.process.terminal import log_to_stdout
from contract.records import BundleRecord, Member, RunKey, Stage, StageRecord, write_record
from network.model.architecture import build_network
from network.model.weights import save_weights, tensors_sha256

CARD = "cspca-picai"
_BRIGHT = 6.0  # deviations of the image
_LIKE_A_LESION = 0.3  # of the way from a lesion's density to the tissue's, on average over 3 × 3 voxels
_BODY_HU = -500.0
_KEPT_POSITIVE = 10.0  # added before the leaky rectifications, so that they change nothing, and subtracted after them


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the bundle of a card (default: csPCa) to the path that is given."""
    parser = Parser(prog="python -m conformance.lesion_model", description="Write a model that finds planted lesions.")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the bundle to write (.tar.gz)")
    parser.add_argument("card", nargs="?", default=CARD, metavar="CARD", help="name or path (default: %(default)s)")
    return run_command(lambda: parser.parse_args(arguments), _pack_model, log=partial(log_to_stdout, "%(message)s"))


def _pack_model(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as work:
        write_tarball(make_model(Path(work), options.card), options.output)


def make_model(folder: Path, card_name: str = CARD) -> Path:
    """Write the extracted bundle for a card into a folder."""
    card = load_card(card_name)
    stages = [_write_stage(folder, card, "detection")]
    if card.localisation is not None:
        stages.append(_write_stage(folder, card, "localisation"))
    record = BundleRecord(
        card=card.name,
        card_sha256=card.sha256,
        data_licence="Apache-2.0",
        **dict(stages[0]),
        localisation=stages[1] if stages[1:] else None,
    )
    write_record(folder / "bundle.json", record)
    (folder / "card.toml").write_bytes(card_path(card_name).read_bytes())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = format_sums({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})
    (folder / SUMS).write_text(sums)
    return folder


def _write_stage(folder: Path, whole: Card, stage: Stage) -> StageRecord:
    """Write a network and its plans; those of stage 1 below ``localisation``."""
    where, configuration, card = "", "threshold", whole
    if stage == "localisation":
        where, configuration, card = f"{stage}/", stage, whole.localising()
    plans, dataset = _plans(card, stage), _dataset(card)
    network = build_network(plans, dataset, deep_supervision=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        highest = [each.channel for each in card.baselines if each.extreme == "maximum"]
        if stage == "localisation":
            _find_above(network, 0, (_BODY_HU - CT_LESION_HU) / (CT_TISSUE_HU - CT_LESION_HU))
        elif card.channels[0].normalisation == "dataset":
            _find_like(network, 0)
        else:
            _find_above(network, card.channel_names.index(highest[0]), _BRIGHT)
    file = f"{where}members/000.safetensors"
    save_weights(folder / file, network.state_dict())
    key = RunKey(
        card=whole.name,
        card_sha256=whole.sha256,
        profile="none",
        configuration=configuration,
        fold=0,
        restart=1,
        seed=0,
        stage=stage,
    )
    member = Member(
        name=f"{configuration}_fold0_restart1",
        file=file,
        weights_sha256=tensors_sha256(network.state_dict()),
        run_sha256="0" * 64,
        key=key,
    )
    record = StageRecord(plans_file=f"{where}plans.json", dataset_file=f"{where}dataset.json", members=(member,))
    write_json(folder / record.plans_file, plans)
    write_json(folder / record.dataset_file, dataset)
    return record


def _find_above(network: torch.nn.Module, channel: int, threshold: float) -> None:
    """Class 1 is where a normalised channel is above the threshold."""
    first, decoder, last = _convolutions(network)
    first.weight[(0, channel, *_centre(first))] = 1.0
    first.bias[0] = _KEPT_POSITIVE
    decoder.weight[(0, _skip(first, decoder), *_centre(decoder))] = 1.0
    _answer(last, steepness=3.0, threshold=_KEPT_POSITIVE + threshold)


def _find_like(network: torch.nn.Module, channel: int) -> None:
    """Class 1 is where a channel is near zero over a neighbourhood: the mean of absolute values is small."""
    first, decoder, last = _convolutions(network)
    for feature, sign in enumerate((1.0, -1.0)):  # the rectified parts of both signs are the absolute value
        first.weight[(feature, channel, *_centre(first))] = sign
        kernel = decoder.weight[0, _skip(first, decoder) + feature]
        kernel.fill_(1.0 / kernel.numel())
    _answer(last, steepness=-20.0, threshold=_LIKE_A_LESION)


def _answer(last: Any, *, steepness: float, threshold: float) -> None:
    last.weight[1, 0] = steepness
    last.bias[1] = -threshold * steepness
    last.bias[2:] = -20.0  # no voxel belongs to the other classes


def _centre(layer: Any) -> tuple[int, ...]:
    return tuple(size // 2 for size in layer.weight.shape[2:])


def _skip(first: Any, decoder: Any) -> int:
    """The decoder's channel at which the skip connection begins: what it upsampled comes first."""
    return int(decoder.weight.shape[1] - first.weight.shape[0])


def write_tarball(folder: Path, output: Path) -> None:
    """Pack a model folder for an upload."""
    with atomic_file(output) as partial, tarfile.open(partial, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder).as_posix(), recursive=False)


def _convolutions(network: torch.nn.Module) -> list[Any]:
    """The first stage's convolution, the decoder's, and the last layer."""
    layers = [each for each in network.modules() if isinstance(each, torch.nn.Conv3d)]
    first, last = layers[0], layers[-1]
    (decoder,) = [each for each in layers if each.in_channels == 2 * first.out_channels]
    return [first, decoder, last]


def _dataset(card: Card) -> dict[str, Any]:
    return {
        "channel_names": {str(number): channel.name for number, channel in enumerate(card.channels)},
        "labels": {"background": 0, **{each.name: number for number, each in enumerate(card.classes, start=1)}},
        "numTraining": 1,
        "file_ending": ".mha",
    }


def _plans(card: Card, stage: Stage) -> dict[str, Any]:
    # CT: a lesion becomes 0, tissue 1; nothing is clipped. Not used in MR.
    intensities = {"mean": CT_LESION_HU, "std": CT_TISSUE_HU - CT_LESION_HU, "median": CT_LESION_HU}
    intensities |= {"min": -2000.0, "max": 3000.0, "percentile_00_5": -2000.0, "percentile_99_5": 3000.0}
    spacing, size, patch = [3.0, 1.0, 1.0], [15, 50, 50], [16, 64, 64]
    if stage == "localisation":
        spacing, size, patch = list(card.geometry.spacing_mm_zyx or spacing), [5, 11, 11], [8, 16, 16]
    conv, nonlin = "torch.nn.modules.conv.Conv3d", "torch.nn.LeakyReLU"
    network = {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": conv,
        "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": None,
        "norm_op_kwargs": None,
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": nonlin,
        "nonlin_kwargs": {"inplace": True},
    }
    resampling = "resample_data_or_seg_to_shape"
    smooth = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    linear = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    schemes = {"z-score": "ZScoreNormalization", "dataset": "CTNormalization"}
    return {
        "dataset_name": "Dataset001_planted",
        "plans_name": "planted",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": size,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): intensities for n in range(len(card.channels))},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "planted",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": patch,
                "median_image_size_in_voxels": [float(each) for each in size],
                "spacing": spacing,
                "normalization_schemes": [schemes[channel.normalisation] for channel in card.channels],
                "use_mask_for_norm": [False] * len(card.channels),
                "resampling_fn_data": resampling,
                "resampling_fn_seg": resampling,
                "resampling_fn_data_kwargs": smooth,
                "resampling_fn_seg_kwargs": {**linear, "is_seg": True},
                "resampling_fn_probabilities": resampling,
                "resampling_fn_probabilities_kwargs": linear,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": network,
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": True,
            }
        },
    }


if __name__ == "__main__":
    sys.exit(main())
