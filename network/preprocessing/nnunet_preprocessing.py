"""nnU-Net's preprocessing of one study in memory, and the way back of a probability.

The only module that talks to nnU-Net's preprocessor: training and inference both come through here, so that they cannot
differ. Plans and dataset are the JSON objects that nnU-Net's planning wrote; nnU-Net finds normalisations and
resamplers by the names in them, which :mod:`network.model.plans` compares with its tables first. nnU-Net is imported on
first use, since that takes seconds.
"""

import contextlib
import io
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import OncoduetError
from contract.images.grid import Box
from contract.images.volume import Float32Array, LabelArray
from network.model.plans import CONFIGURATION, full_resolution, require_plans
from network.preprocessing.slab_resampling import resample_by_slabs

LONGEST_VOXELS = 2**20
"""Most voxels of the network's grid along an axis; 2.5 m in the plans' finest voxels have a quarter of it."""


@dataclass(frozen=True)
class NetworkGrid:
    """How the network's grid follows from the study grid: transposed, cropped to non-zero, resampled to the plan."""

    plans: Mapping[str, Any]
    shape_zyx: tuple[int, int, int]
    """Shape of the preprocessed study, in the plan's axis order."""
    properties: Mapping[str, Any]
    """nnU-Net's record of the case: the crop, sizes and spacing, and ``class_locations`` if a label was given."""

    def to_study_grid(self, probability: Float32Array) -> Float32Array:
        """Undo resampling, crop and transposition.

        Parameters
        ----------
        probability
            Shape (class, z, y, x) on the network's grid; any selection of the foreground classes.

        Returns
        -------
        Shape (class, z, y, x) on the study grid; 0 where the study was cropped away.
        """
        manager = _manager(self.plans)
        configuration = manager.get_configuration(CONFIGURATION)
        resampled = _resample(
            configuration,
            "resampling_fn_probabilities",
            np.asarray(probability, dtype=np.float32),
            self.properties["shape_after_cropping_and_before_resampling"],
            (configuration.spacing, [self.properties["spacing"][axis] for axis in manager.transpose_forward]),
        )
        whole = np.zeros((len(probability), *self.properties["shape_before_cropping"]), dtype=np.float32)
        crop = tuple(slice(start, end) for start, end in self.properties["bbox_used_for_cropping"])
        whole[(slice(None), *crop)] = np.asarray(resampled)
        return np.ascontiguousarray(whole.transpose([0, *(axis + 1 for axis in manager.transpose_backward)]))

    def boxes_to_study_grid(self, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Bring boxes to the study grid: the way back of :meth:`to_study_grid` for edges.

        Parameters
        ----------
        boxes
            Shape (count, 6), in voxels of the network's grid; see :mod:`network.detection.boxes`.

        Returns
        -------
        Shape (count, 6), in voxels of the study grid, not rounded.
        """
        on_study = np.empty_like(boxes)
        for axis, study_axis in enumerate(self.plans["transpose_forward"]):
            start, stop = self.properties["bbox_used_for_cropping"][axis]
            ratio = (stop - start) / self.shape_zyx[axis]
            for side in (0, 3):
                on_study[:, side + study_axis] = start + boxes[:, side + axis] * ratio
        return on_study

    def bounds_of(self, box: Box) -> Box:
        """Voxels of the network's grid that a box of the study grid touches, in the plan's axis order."""
        bounds = []
        for axis, study_axis in enumerate(self.plans["transpose_forward"]):
            start, stop = self.properties["bbox_used_for_cropping"][axis]
            ratio = self.shape_zyx[axis] / (stop - start)
            low, high = ((edge - start) * ratio for edge in (box[study_axis].start, box[study_axis].stop))
            bounds.append(slice(max(0, int(np.floor(low))), max(0, int(np.ceil(high)))))
        z, y, x = bounds
        return z, y, x

    def region_of(self, box: Box) -> Box | None:
        """Voxels of the network's grid whose probability matters to a box of the study grid.

        Returns
        -------
        Slices in the plan's axis order, rather two voxels too large than one too small; empty where all of the box was
        cropped away. None: everything, since the plans resample probabilities by splines of higher order, to which
        every voxel contributes.
        """
        manager = _manager(self.plans)
        settings = manager.get_configuration(CONFIGURATION).configuration["resampling_fn_probabilities_kwargs"]
        if settings.get("order") not in (0, 1):
            return None
        region: list[slice] = []
        for axis, study_axis in enumerate(manager.transpose_forward):
            start, stop = self.properties["bbox_used_for_cropping"][axis]
            low, high = max(box[study_axis].start, start) - start, min(box[study_axis].stop, stop) - start
            length = self.shape_zyx[axis]
            ratio = length / (stop - start)
            if low >= high:
                region.append(slice(0, 0))
            else:
                region.append(slice(max(0, math.floor(low * ratio) - 2), min(length, math.ceil(high * ratio) + 2)))
        z, y, x = region
        return z, y, x


@dataclass(frozen=True)
class Preprocessed:
    """A study as the network sees it, normalised."""

    data: Float32Array
    """Shape (channel, z, y, x) in the plan's axis order."""
    label: npt.NDArray[np.int16]
    """Shape (1, z, y, x): class index, or -1 where all channels are zero; 0 everywhere if no label was given."""
    grid: NetworkGrid


def preprocess(
    array: Float32Array,
    spacing_mm_zyx: tuple[float, float, float],
    *,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    label: LabelArray | None = None,
) -> Preprocessed:
    """Preprocess one study as nnU-Net does.

    Parameters
    ----------
    array
        Shape (channel, z, y, x), intensities as in the files.
    spacing_mm_zyx
        ``Placement.spacing_mm_zyx``.
    plans, dataset
        ``plans.json`` and ``dataset.json`` of the prepared dataset or bundle.
    label
        Class indices, shape (z, y, x); only training has them.
    """
    manager, preprocessor_class = _manager(plans), _nnunet()[0]
    with contextlib.redirect_stdout(io.StringIO()):
        data, segmentation, properties = preprocessor_class(verbose=False).run_case_npy(
            np.ascontiguousarray(array, dtype=np.float32),
            None if label is None else label[None].astype(np.int16),
            {"spacing": [float(each) for each in spacing_mm_zyx]},
            manager,
            _Configuration(manager.get_configuration(CONFIGURATION), has_label=label is not None),
            dict(dataset),
        )
    z, y, x = data.shape[1:]
    return Preprocessed(
        data=np.ascontiguousarray(data, dtype=np.float32),
        label=_no_label((z, y, x)) if label is None else np.ascontiguousarray(segmentation, dtype=np.int16),
        grid=NetworkGrid(plans, (z, y, x), properties),
    )


def patch_size_zyx(plans: Mapping[str, Any]) -> tuple[int, int, int]:
    """Size of the network's input in the plan's axis order."""
    return full_resolution(plans).patch_size


def network_size(
    size_zyx: Sequence[int], spacing_mm_zyx: Sequence[float], *, plans: Mapping[str, Any]
) -> tuple[int, int, int]:
    """Size of the network's grid for an image of this size, in the plan's axis order, if nothing is cropped away.

    Raises ``OncoduetError``: it is longer than anything that could be gone through.
    """
    typed = require_plans(plans)
    target_mm = typed.configurations.full_resolution.spacing
    z, y, x = _some_voxels(
        [
            round(size_zyx[axis] * spacing_mm_zyx[axis] / mm)
            for axis, mm in zip(typed.transpose_forward, target_mm, strict=True)
        ]
    )
    if max(z, y, x) > LONGEST_VOXELS:
        raise OncoduetError(
            "plans",
            expected=f"spacings by which an image has at most {LONGEST_VOXELS} voxels along an axis",
            found=f"{z} × {y} × {x}",
        )
    return z, y, x


def most_features(plans: Mapping[str, Any]) -> int:
    """Features per voxel of the patch in the stage that has the most, which in nnU-Net's own plans is the first."""
    network = full_resolution(plans).architecture.arch_kwargs
    voxels = itertools.accumulate((math.prod(step) for step in network.strides), operator.mul)
    per_voxel: list[float] = [count / each for count, each in zip(network.features_per_stage, voxels, strict=True)]
    return math.ceil(max(per_voxel))


class _Configuration:
    """nnU-Net's configuration of the plans, but for the way in which images are resampled."""

    def __init__(self, configuration: Any, *, has_label: bool) -> None:
        self._configuration = configuration
        self._has_label = has_label

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configuration, name)

    def resampling_fn_data(
        self, data: Float32Array, size: Sequence[int], current: Sequence[float], new: Sequence[float]
    ) -> Float32Array:
        """As ``ConfigurationManager.resampling_fn_data``, but at least one voxel remains of each axis."""
        return _resample(self._configuration, "resampling_fn_data", data, _some_voxels(size), (current, new))

    def resampling_fn_seg(self, segmentation: Any, size: Sequence[int], *spacings: Any) -> Any:
        """As ``ConfigurationManager.resampling_fn_seg``, without the work where there is no label."""
        if self._has_label:
            return self._configuration.resampling_fn_seg(segmentation, _some_voxels(size), *spacings)
        return _no_label(_some_voxels(size))


def _some_voxels(size: Sequence[int]) -> list[int]:
    """The size of a grid whose voxels may be larger than the image."""
    return [max(1, int(length)) for length in size]


def _resample(
    configuration: Any,
    which: str,
    data: Float32Array,
    size: Sequence[int],
    spacings: tuple[Sequence[float], Sequence[float]],
) -> Float32Array:
    """Resample by the function and settings that the plans name; nnU-Net's usual one a slab at a time."""
    settings: dict[str, Any] = {"order": 3, "order_z": 0, "force_separate_z": False, "is_seg": False}
    settings |= configuration.configuration[f"{which}_kwargs"]
    if (
        configuration.configuration[which] != "resample_data_or_seg_to_shape"
        or settings["is_seg"]
        or settings["order_z"] != 0
        or settings["order"] == 0
        or "separate_z_anisotropy_threshold" in settings
    ):
        resampled = getattr(configuration, which)(data, size, *spacings)
        return np.asarray(resampled, dtype=np.float32)
    from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis  # noqa: PLC0415

    separate, axis = determine_do_sep_z_and_axis(settings["force_separate_z"], *spacings)
    size_zyx = [int(length) for length in size]
    return resample_by_slabs(data, size_zyx, order=settings["order"], thick_axis=int(axis) if separate else None)


def _no_label(size: Sequence[int]) -> npt.NDArray[np.int16]:
    """Zeros that take no memory."""
    return np.broadcast_to(np.int16(0), (1, *(int(length) for length in size)))


def _manager(plans: Mapping[str, Any]) -> Any:
    """nnU-Net's manager of plans that were checked: it looks up by name what they name."""
    require_plans(plans)
    return _nnunet()[1](dict(plans))


@cache
def _nnunet() -> tuple[Any, Any]:
    """nnU-Net's preprocessor and plans classes; its remarks on unset folders, which we do not use, are swallowed."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: PLC0415
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415
    return DefaultPreprocessor, PlansManager
