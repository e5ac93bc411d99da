"""nnU-Net's augmentation as our steps: which, in which order, with which probabilities and ranges, is read from the
transforms that nnU-Net composes for its own loader.

A transform or a setting that is not known here is refused, rather than left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform

from contract.errors import OncoduetError
from training.augmentation.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise
from training.augmentation.patches import Patches, Step
from training.augmentation.random_parameters import PerChannel, Uniform, range_of
from training.augmentation.spatial import OUTSIDE, Mirror, Spatial


@dataclass(frozen=True)
class RemoveLabel:
    """Replaces a label."""

    label: int
    by: int

    def columns(self, channels: int) -> int:
        """None: nothing is drawn."""
        return 0

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Replace it."""
        patches.label.masked_fill_(patches.label == self.label, self.by)


@dataclass(frozen=True)
class MaskOutside:
    """Sets channels to a value where the label is negative."""

    channels_masked: tuple[int, ...]
    value: float

    def columns(self, channels: int) -> int:
        """None: nothing is drawn."""
        return 0

    def apply(self, patches: Patches, uniform: Uniform) -> None:
        """Set them."""
        outside = patches.label < 0
        for channel in self.channels_masked:
            patches.image[:, channel].masked_fill_(outside, self.value)


@dataclass(frozen=True)
class Recipe:
    """All that happens to a patch after it is cut."""

    spatial: Spatial | None
    steps: tuple[Step, ...]
    downsample: DownsampleSegForDSTransform | None
    """nnU-Net's own transform: deterministic, and independent of the label's position."""

    @property
    def needs_outside(self) -> bool:
        """Whether any step distinguishes voxels outside the study from background."""
        return any(isinstance(step, MaskOutside) for step in self.steps)

    def targets(self, label: torch.Tensor) -> list[torch.Tensor]:
        """Labels for each resolution that is supervised, shape (patches, 1, z, y, x), the finest first."""
        labels = [label] if self.downsample is None else self.downsample._apply_to_segmentation(label)
        return [each[:, None] for each in labels]


def read_recipe(composed: ComposeTransforms) -> Recipe:
    """Read what nnU-Net composed for training or validation.

    Raises ``OncoduetError``: a transform or a setting that is not known here.
    """
    spatial, downsample, in_plane = None, None, False
    steps: list[Step] = []
    for given in composed.transforms:
        probability, transform = 1.0, given
        if isinstance(given, RandomTransform):
            probability, transform = float(given.apply_probability), given.transform
        if downsample is not None or (spatial is None and steps and isinstance(transform, SpatialTransform)):
            raise _unknown(f"the order of {type(transform).__name__}")
        if isinstance(transform, Convert3DTo2DTransform | Convert2DTo3DTransform):
            in_plane = isinstance(transform, Convert3DTo2DTransform)
        elif isinstance(transform, SpatialTransform) and spatial is None and probability == 1:
            spatial = _spatial(transform, in_plane=in_plane)
        elif isinstance(transform, DownsampleSegForDSTransform) and probability == 1:
            downsample = transform
        elif type(transform) in _STEPS and not in_plane:
            steps.append(_STEPS[type(transform)](transform, probability))
        else:
            raise _unknown(f"the transform {type(transform).__name__}")
    return Recipe(spatial, tuple(steps), downsample)


def _spatial(transform: SpatialTransform, *, in_plane: bool) -> Spatial:
    _expect(
        transform,
        p_elastic_deform=0,
        random_crop=False,
        p_rot_per_axis=1,
        mode_image="bilinear",
        mode_seg="bilinear",
        padding_mode_image="zeros",
        border_mode_seg="constant",
        padding_value_seg=OUTSIDE,
        align_corners=False,
        seg_tiebreak="nearest",
    )
    return Spatial(
        rotation_probability=float(transform.p_rotation),
        rotation=range_of(transform.rotation, what="rotation"),
        scaling_probability=float(transform.p_scaling),
        scaling=range_of(transform.scaling, what="scaling"),
        same_scale_probability=float(transform.p_synchronize_scaling_across_axes),
        in_plane=in_plane,
    )


def _noise(transform: GaussianNoiseTransform, probability: float) -> Step:
    # nnU-Net's parameter is named noise_variance and used as the standard deviation.
    return Noise(_per_channel(transform, probability, transform.noise_variance, "noise_variance"))


def _blur(transform: GaussianBlurTransform, probability: float) -> Step:
    axes = 1 if transform.synchronize_axes else 3
    return Blur(_per_channel(transform, probability, transform.blur_sigma, "blur_sigma", per_channel=axes))


def _brightness(transform: MultiplicativeBrightnessTransform, probability: float) -> Step:
    return Brightness(_per_channel(transform, probability, transform.multiplier_range, "multiplier_range"))


def _contrast(transform: ContrastTransform, probability: float) -> Step:
    parameters = _per_channel(transform, probability, transform.contrast_range, "contrast_range")
    return Contrast(parameters, bool(transform.preserve_range))


def _low_resolution(transform: SimulateLowResolutionTransform, probability: float) -> Step:
    _expect(transform, allowed_channels=None)
    axes = 1 if transform.synchronize_axes else 3
    parameters = _per_channel(transform, probability, transform.scale, "scale", per_channel=axes)
    return LowResolution(parameters, tuple(transform.ignore_axes or ()))


def _gamma(transform: GammaTransform, probability: float) -> Step:
    parameters = _per_channel(transform, probability, transform.gamma, "gamma")
    return Gamma(parameters, invert=transform.p_invert_image, retain=transform.p_retain_stats)


def _mirror(transform: MirrorTransform, probability: float) -> Step:
    _always(transform, probability)
    return Mirror(tuple(transform.allowed_axes))


def _remove_label(transform: RemoveLabelTransform, probability: float) -> Step:
    _always(transform, probability)
    _expect(transform, segmentation_channels=None)
    return RemoveLabel(transform.label_value, transform.set_to)


def _mask(transform: MaskImageTransform, probability: float) -> Step:
    _always(transform, probability)
    _expect(transform, channel_idx_in_seg=0)
    return MaskOutside(tuple(transform.apply_to_channels), float(transform.set_outside_to))


_STEPS: Mapping[type[BasicTransform], Callable[[Any, float], Step]] = {
    GaussianNoiseTransform: _noise,
    GaussianBlurTransform: _blur,
    MultiplicativeBrightnessTransform: _brightness,
    ContrastTransform: _contrast,
    SimulateLowResolutionTransform: _low_resolution,
    GammaTransform: _gamma,
    MirrorTransform: _mirror,
    RemoveLabelTransform: _remove_label,
    MaskImageTransform: _mask,
}


def _per_channel(transform: Any, probability: float, values: Any, what: str, *, per_channel: int = 1) -> PerChannel:
    return PerChannel(
        probability=probability,
        channel_probability=float(transform.p_per_channel),
        values=range_of(values, what=what),
        synchronised=bool(transform.synchronize_channels),
        per_channel=per_channel,
    )


def _expect(transform: BasicTransform, **settings: object) -> None:
    for name, expected in settings.items():
        found = getattr(transform, name)
        if found != expected:
            raise _unknown(f"{type(transform).__name__}.{name} = {found!r} ({expected!r} is known)")


def _always(transform: BasicTransform, probability: float) -> None:
    if probability != 1:
        raise _unknown(f"a probability of {probability:g} for {type(transform).__name__}")


def _unknown(what: str) -> OncoduetError:
    return OncoduetError(
        "nnU-Net's augmentation",
        expected="transforms that the resident loader knows",
        found=f'{what}; loader = "nnunet" in the profile applies any',
    )
