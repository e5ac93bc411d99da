"""nnU-Net's plans and description of a data set, as far as anything reads them: exact names, bounded numbers.

Both come in bundles and prepared datasets of unknown origin, and nnU-Net looks up classes and functions by the names in
them. So no plan reaches nnU-Net, or our own builder, before it has passed through here: every name that chooses code is
listed in one of these tables, every number is bounded, and what is not listed is refused. Only the configuration
``3d_fullres`` is read, and there is no other.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from contract.card import Card
from contract.errors import OncoduetError
from contract.files.reading import LONGEST_QUOTE, read_json
from contract.schema import Frozen, parse

CONFIGURATION = "3d_fullres"

MOST_BYTES = 2**20
"""Largest ``plans.json`` and ``dataset.json``; nnU-Net's largest have 30 kB."""
MOST_STAGES = 12
MOST_CHANNELS = 64
MOST_CLASSES = 256

_UNETS = "dynamic_network_architectures.architectures"
ARCHITECTURES: Mapping[str, str] = {
    f"{_UNETS}.unet.PlainConvUNet": "PlainConvUNet",
    f"{_UNETS}.unet.ResidualEncoderUNet": "ResidualEncoderUNet",
    f"{_UNETS}.residual_unet.ResidualEncoderUNet": "ResidualEncoderUNet",  # where it stood in 2023
}
"""Names of networks in plans, and which network each is (:mod:`network.model.architecture` has the classes)."""


def _operators(module: str, *names: str) -> dict[str, str]:
    return {f"torch.nn.{where}{name}": name for where in ("", f"modules.{module}.") for name in names}


CONVOLUTIONS: Mapping[str, str] = _operators("conv", "Conv3d")
NORMS: Mapping[str, str] = _operators("instancenorm", "InstanceNorm3d") | _operators("batchnorm", "BatchNorm3d")
DROPOUTS: Mapping[str, str] = _operators("dropout", "Dropout3d")
NONLINEARITIES: Mapping[str, str] = _operators("activation", "LeakyReLU", "ReLU", "ELU", "SiLU", "Mish")
"""Names of operators in plans, each spelled in both ways of torch, and which operator it is."""

Normalisation = Literal[
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
]
Resampler = Literal[
    "resample_data_or_seg_to_shape", "resample_torch_fornnunet", "resample_torch_simple", "no_resampling_hack"
]
Reader = Literal["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "Tiff3DIO", "NaturalImage2DIO"]
"""Names of classes and functions that nnU-Net finds in folders of its own."""


def _in(table: Mapping[str, str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"expected one of {', '.join(table)}, found {name[:LONGEST_QUOTE]!r}")
        return name

    return AfterValidator(check)


Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.+-]*$")]
"""Name that may become part of a path, and so contains no separator."""
Text = Annotated[str, Field(max_length=200)]
Count = Annotated[int, Field(ge=1, le=32)]
Features = Annotated[int, Field(ge=1, le=2**20)]
"""Number of features; the bound is beyond any memory, and ``campaign --dry-run`` estimates the real need."""
Kernel = Literal[1, 3, 5, 7, 9, 11]
Stride = Annotated[int, Field(ge=1, le=8)]
Length = Annotated[int, Field(ge=1, le=8192)]
"""Length in voxels."""
Millimetres = Annotated[float, Field(ge=0.01, le=100)]
Axis = Literal[0, 1, 2]
Intensity = Annotated[float, Field(ge=-1e12, le=1e12)]
Stages = Field(min_length=1, max_length=MOST_STAGES)
Channels = Field(min_length=1, max_length=MOST_CHANNELS)


class NormArguments(Frozen):
    """Arguments of a norm."""

    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    affine: bool = True
    momentum: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    track_running_stats: bool = False


class DropoutArguments(Frozen):
    """Arguments of a dropout."""

    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    inplace: bool = False


class NonlinearityArguments(Frozen):
    """Arguments of a non-linearity; only a leaky one has a slope."""

    inplace: bool = False
    negative_slope: Annotated[float, Field(ge=0, le=1)] = 0.01


class NetworkArguments(Frozen):
    """``arch_kwargs``: the numbers and operators of a U-Net, finest stage first."""

    n_stages: Annotated[int, Field(ge=2, le=MOST_STAGES)]
    features_per_stage: Annotated[tuple[Features, ...], Stages]
    conv_op: Annotated[str, _in(CONVOLUTIONS)]
    kernel_sizes: Annotated[tuple[tuple[Kernel, Kernel, Kernel], ...], Stages]
    strides: Annotated[tuple[tuple[Stride, Stride, Stride], ...], Stages]
    n_conv_per_stage: Annotated[tuple[Count, ...], Stages] | None = None
    n_blocks_per_stage: Annotated[tuple[Count, ...], Stages] | None = None
    n_conv_per_stage_decoder: Annotated[tuple[Count, ...], Stages]
    conv_bias: bool
    norm_op: Annotated[str, _in(NORMS)] | None
    norm_op_kwargs: NormArguments | None
    dropout_op: Annotated[str, _in(DROPOUTS)] | None
    dropout_op_kwargs: DropoutArguments | None
    nonlin: Annotated[str, _in(NONLINEARITIES)]
    nonlin_kwargs: NonlinearityArguments | None

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """Lists that differ in length, a first stage that shrinks the image."""
        stages = values["n_stages"]
        expected = dict.fromkeys(("features_per_stage", "kernel_sizes", "strides"), stages)
        expected |= dict.fromkeys(("n_conv_per_stage", "n_blocks_per_stage"), stages)
        expected["n_conv_per_stage_decoder"] = stages - 1
        faults = [
            f"{name}: expected {count} entries for {stages} stages, found {len(values[name])}"
            for name, count in expected.items()
            if values[name] is not None and len(values[name]) != count
        ]
        if tuple(values["strides"][0]) != (1, 1, 1):
            faults.append("strides: expected the first stage at full resolution")
        return faults

    @model_validator(mode="after")
    def _slope_of_a_leaky_one(self) -> Self:
        given = self.nonlin_kwargs.model_fields_set if self.nonlin_kwargs else ()
        if "negative_slope" in given and NONLINEARITIES[self.nonlin] != "LeakyReLU":
            raise PydanticCustomError("slope", "nonlin_kwargs: negative_slope is only for LeakyReLU")
        return self


class Architecture(Frozen):
    """Class and numbers of a network."""

    network_class_name: Annotated[str, _in(ARCHITECTURES)]
    arch_kwargs: NetworkArguments
    requires_import: Annotated[
        tuple[Literal["conv_op", "norm_op", "dropout_op", "nonlin"], ...],
        Field(alias="_kw_requires_import", max_length=4),
    ]
    """nnU-Net's list of the arguments that are names; these four are always, and nothing else is."""

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """A plain network has a number of convolutions, a residual one of blocks."""
        own, other = "n_conv_per_stage", "n_blocks_per_stage"
        if ARCHITECTURES[values["network_class_name"]] != "PlainConvUNet":
            own, other = other, own
        arguments = values["arch_kwargs"]
        if arguments[own] is None or arguments[other] is not None:
            return [f"arch_kwargs: expected {own} and not {other}"]
        return []


class ResamplingArguments(Frozen):
    """Arguments of any resampler; each takes those that ``_KNOWN_BY`` lists."""

    is_seg: bool | None = None
    order: Annotated[int, Field(ge=0, le=5)] | None = None
    order_z: Annotated[int, Field(ge=0, le=5)] | None = None
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: Annotated[float, Field(gt=0, le=1000)] | None = None
    memefficient_seg_resampling: bool | None = None
    num_threads: Annotated[int, Field(ge=1, le=64)] | None = None
    mode: Literal["linear", "nearest", "nearest-exact"] | None = None
    aniso_axis_mode: Literal["linear", "nearest", "nearest-exact"] | None = None


_TORCH = {"is_seg", "num_threads", "memefficient_seg_resampling", "mode"}
_SEPARATE = {"force_separate_z", "separate_z_anisotropy_threshold"}
_KNOWN_BY: Mapping[str, set[str]] = {
    "resample_data_or_seg_to_shape": {"is_seg", "order", "order_z"} | _SEPARATE,
    "resample_torch_fornnunet": _TORCH | _SEPARATE | {"aniso_axis_mode"},
    "resample_torch_simple": _TORCH,
    "no_resampling_hack": set(),
}


class FullResolution(Frozen):
    """The one configuration."""

    data_identifier: Word
    preprocessor_name: Literal["DefaultPreprocessor"]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    patch_size: tuple[Length, Length, Length]
    median_image_size_in_voxels: tuple[Intensity, Intensity, Intensity]
    spacing: tuple[Millimetres, Millimetres, Millimetres]
    normalization_schemes: Annotated[tuple[Normalisation, ...], Channels]
    use_mask_for_norm: Annotated[tuple[bool, ...], Channels]
    resampling_fn_data: Resampler
    resampling_fn_seg: Resampler
    resampling_fn_probabilities: Resampler
    resampling_fn_data_kwargs: ResamplingArguments
    resampling_fn_seg_kwargs: ResamplingArguments
    resampling_fn_probabilities_kwargs: ResamplingArguments
    architecture: Architecture
    batch_dice: bool

    @model_validator(mode="after")
    def _resamplers_know_their_arguments(self) -> Self:
        """nnU-Net hands on what is written down, so what is not written down counts as absent, null or not."""
        faults = []
        names = {each: getattr(self, f"resampling_fn_{each}") for each in ("data", "seg", "probabilities")}
        for what, name in names.items():
            arguments = getattr(self, f"resampling_fn_{what}_kwargs")
            if unknown := sorted(arguments.model_fields_set - _KNOWN_BY[name]):
                faults.append(f"resampling_fn_{what}_kwargs: {name} does not know {', '.join(unknown)}")
            null = [each for each in sorted(arguments.model_fields_set) if getattr(arguments, each) is None]
            if null := [each for each in null if each != "force_separate_z"]:
                faults.append(f"resampling_fn_{what}_kwargs: expected values, found null as {', '.join(null)}")
            if arguments.is_seg is not None and arguments.is_seg != (what == "seg"):
                faults.append(f"resampling_fn_{what}_kwargs: expected is_seg to be {what == 'seg'}")
        if 0 < list(names.values()).count("no_resampling_hack") < len(names):
            faults.append("resampling_fn_*: expected no_resampling_hack for all three or for none")
        if faults:
            raise PydanticCustomError("resamplers", "{faults}", {"faults": "; ".join(faults)})
        return self

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """A patch that the network's strides do not divide, or channels counted twice."""
        faults = []
        steps = values["architecture"]["arch_kwargs"]["strides"]
        for axis, length in zip("zyx", range(3), strict=True):
            product = math.prod(step[length] for step in steps)
            if values["patch_size"][length] % product:
                faults.append(
                    f"patch_size: expected a multiple of {product} along {axis}, found {values['patch_size'][length]}"
                )
        if len(values["use_mask_for_norm"]) != len(values["normalization_schemes"]):
            faults.append("use_mask_for_norm: expected as many entries as normalization_schemes has")
        return faults


class Configurations(Frozen):
    """What ``configurations`` holds."""

    full_resolution: Annotated[FullResolution, Field(alias=CONFIGURATION)]


class IntensityProperties(Frozen):
    """Statistics of one channel's foreground, in the images' unit; normalisation takes the first four."""

    mean: Intensity
    std: Annotated[float, Field(ge=0, le=1e12)]
    percentile_00_5: Intensity
    percentile_99_5: Intensity
    median: Intensity | None = None
    min: Intensity | None = None
    max: Intensity | None = None


class Plans(Frozen):
    """``plans.json``."""

    dataset_name: Word
    plans_name: Word
    original_median_spacing_after_transp: tuple[Intensity, Intensity, Intensity]
    original_median_shape_after_transp: tuple[Intensity, Intensity, Intensity]
    image_reader_writer: Reader
    transpose_forward: tuple[Axis, Axis, Axis]
    transpose_backward: tuple[Axis, Axis, Axis]
    experiment_planner_used: Word
    """Name of the planner, which may be the user's own: never looked up."""
    label_manager: Literal["LabelManager"] = "LabelManager"
    foreground_intensity_properties_per_channel: Annotated[Mapping[str, IntensityProperties], Channels]
    configurations: Configurations

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        faults = []
        forward, backward = self.transpose_forward, self.transpose_backward
        if sorted(forward) != [0, 1, 2] or any(forward[backward[axis]] != axis for axis in range(3)):
            faults.append("transpose_backward: expected an order of axes that undoes transpose_forward")
        channels = len(self.configurations.full_resolution.normalization_schemes)
        if missing := set(map(str, range(channels))) - set(self.foreground_intensity_properties_per_channel):
            faults.append(
                f"foreground_intensity_properties_per_channel: expected 0 to {channels - 1}, found no {min(missing)}"
            )
        if faults:
            raise PydanticCustomError("parts", "{faults}", {"faults": "; ".join(faults)})
        return self


class Dataset(Frozen):
    """``dataset.json``: the network's channels and classes."""

    channel_names: Annotated[Mapping[str, Text], Channels]
    labels: Annotated[Mapping[Text, Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MOST_CLASSES)]
    training_studies: Annotated[int, Field(alias="numTraining", ge=0)] = 0
    file_ending: Literal[".mha", ".nii.gz", ".nii", ".nrrd", ".png", ".tif"] = ".mha"
    reader: Annotated[Reader, Field(alias="overwrite_image_reader_writer")] = "SimpleITKIO"

    @model_validator(mode="after")
    def _numbered(self) -> Self:
        faults = []
        if set(self.channel_names) != set(map(str, range(len(self.channel_names)))):
            faults.append(f"channel_names: expected the channels 0 to {len(self.channel_names) - 1}")
        if sorted(self.labels.values()) != list(range(len(self.labels))) or self.labels.get("background") != 0:
            faults.append(f"labels: expected background as 0, and others from 1 to {len(self.labels) - 1}")
        if faults:
            raise PydanticCustomError("numbers", "{faults}", {"faults": "; ".join(faults)})
        return self


def require_plans(plans: Mapping[str, Any], source: object = "plans") -> Plans:
    """Check plans; what :mod:`network` does with plans begins here.

    Raises ``OncoduetError``: a name that is in no table, a number out of bounds, something missing, unknown or of
    another type.
    """
    return parse(plans, Plans, source)


def full_resolution(plans: Mapping[str, Any]) -> FullResolution:
    """The one configuration of plans, typed and checked as by :func:`require_plans`."""
    return require_plans(plans).configurations.full_resolution


def edited_full_resolution(
    plans: Mapping[str, Any], *, name: str, changes: Mapping[str, Any], network: Mapping[str, Any]
) -> dict[str, Any]:
    """A copy of plans under another name, with other values in the configuration and in its ``arch_kwargs``."""
    plans = copy.deepcopy(dict(plans)) | {"plans_name": name}
    own = plans["configurations"][CONFIGURATION]
    own |= changes
    own["architecture"]["arch_kwargs"] |= network
    return plans


def require_dataset(dataset: Mapping[str, Any], source: object = "dataset") -> Dataset:
    """Check a description of a data set, likewise."""
    return parse(dataset, Dataset, source)


def read_plans(plans_path: Path, dataset_path: Path, card: Card) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read ``plans.json`` and ``dataset.json`` that belong together.

    Raises ``OncoduetError``: a file is missing or malformed (:func:`require_plans`), or is about other channels or
    classes.

    Parameters
    ----------
    card
        Whose channels and classes the network must have; for stage 1, ``Card.localising``.

    Returns
    -------
    Both as in the files, checked.
    """
    plans, dataset = (read_json(path, most_bytes=MOST_BYTES) for path in (plans_path, dataset_path))
    planned = len(require_plans(plans, plans_path).configurations.full_resolution.normalization_schemes)
    described = require_dataset(dataset, dataset_path)
    channels, classes = len(described.channel_names), len(described.labels)
    expected = (len(card.channels), len(card.classes) + 1)
    if (channels, classes) != expected:
        raise OncoduetError(
            dataset_path,
            expected=f"{expected[0]} channels and {expected[1]} labels as in the card",
            found=f"{channels} and {classes}",
        )
    if planned != channels:
        raise OncoduetError(plans_path, expected=f"{channels} channels as in the card", found=planned)
    return plans, dataset
