"""A model that finds the lesions of ``studies.py``, without any training: one threshold on the diffusion image.

The network is nnU-Net's with all weights at zero but three: the high-b-value image passes the first convolution and the
skip connection, and the last layer turns it into the lesion's logit. The image is normalised to its own mean and
deviation, so the threshold is six deviations, which noise does not reach. It is a bundle like any other to the
algorithm, and finds nothing in patients.

``python -m conformance.lesion_model MODEL.tar.gz`` writes it.
"""

import hashlib
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from contract.cards import CARDS, Card, load_card
from contract.files import atomic_file, write_json
from contract.records import BundleRecord, Member, RunKey, write_record
from network.architecture import build_network
from network.weights import save_weights, tensors_sha256

CARD = "cspca-picai"
_THRESHOLD = 6.0  # deviations of the image
_STEEPNESS = 3.0


def main(arguments: Sequence[str]) -> int:
    """Write the bundle to the path that is given."""
    (output,) = arguments
    with tempfile.TemporaryDirectory() as work:
        folder = make_model(Path(work))
        write_tarball(folder, Path(output))
    return 0


def make_model(folder: Path) -> Path:
    """Write the extracted bundle into a folder."""
    card = load_card(CARD)
    plans, dataset = _plans(card), _dataset(card)
    network = build_network(plans, dataset, deep_supervision=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        bright = card.channel_names.index("hbv")
        encoder, decoder, last = _convolutions(network)
        centre = tuple(size // 2 for size in encoder.weight.shape[2:])
        # 10 keeps what enters the leaky rectifications positive, so that they change nothing.
        encoder.weight[(0, bright, *centre)] = 1.0
        encoder.bias[0] = 10.0
        skip = decoder.weight.shape[1] - encoder.weight.shape[0]  # the decoder puts what it upsampled first
        decoder.weight[(0, skip, *(size // 2 for size in decoder.weight.shape[2:]))] = 1.0
        last.weight[1, 0] = _STEEPNESS
        last.bias[1] = -(10.0 + _THRESHOLD) * _STEEPNESS
    save_weights(folder / "members/000.safetensors", network.state_dict())
    key = RunKey(
        card=card.name,
        card_sha256=card.sha256,
        profile="none",
        configuration="threshold",
        fold=0,
        restart=1,
        seed=0,
    )
    member = Member(
        name="threshold_fold0_restart1",
        file="members/000.safetensors",
        weights_sha256=tensors_sha256(network.state_dict()),
        run_sha256="0" * 64,
        key=key,
    )
    record = BundleRecord(
        card=card.name,
        card_sha256=card.sha256,
        data_licence="Apache-2.0",
        plans_file="plans.json",
        dataset_file="dataset.json",
        members=(member,),
    )
    write_record(folder / "bundle.json", record)
    (folder / "card.toml").write_bytes((CARDS / f"{CARD}.toml").read_bytes())
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", dataset)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


def write_tarball(folder: Path, output: Path) -> None:
    """Pack a folder as a model is uploaded."""
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


def _plans(card: Card) -> dict[str, Any]:
    intensities = {"mean": 900.0, "std": 250.0, "median": 900.0, "min": 0.0, "max": 3000.0}
    intensities |= {"percentile_00_5": 0.0, "percentile_99_5": 3000.0}
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
        "original_median_spacing_after_transp": [3.0, 1.0, 1.0],
        "original_median_shape_after_transp": [15, 50, 50],
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
                "patch_size": [12, 32, 32],
                "median_image_size_in_voxels": [15.0, 50.0, 50.0],
                "spacing": [3.0, 1.0, 1.0],
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
    sys.exit(main(sys.argv[1:]))
