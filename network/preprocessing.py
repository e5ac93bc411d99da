"""nnU-Net's preprocessing of one study in memory, and the way back of a probability.

The only module that talks to nnU-Net's preprocessor and plans: training and inference both come through here, so that
they cannot differ. Plans and dataset are the JSON objects that nnU-Net's planning wrote; the configuration is always
``3d_fullres``. nnU-Net is imported on first use, since that takes seconds.
"""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.volume import Float32Array, LabelArray

CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Preprocessed:
    """A study as the network sees it: axes transposed, cropped to non-zero, normalised, resampled to the plan."""

    data: Float32Array
    """Shape (channel, z, y, x) in the plan's axis order."""
    label: npt.NDArray[np.int16]
    """Shape (1, z, y, x): class index, or -1 where all channels are zero; 0 and -1 alone if no label was given."""
    properties: Mapping[str, Any]
    """nnU-Net's record of the case: what the way back needs, and ``class_locations`` if a label was given."""


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
        ``StudyImage.spacing_mm_zyx``.
    plans, dataset
        ``plans.json`` and ``dataset.json`` of the prepared dataset or bundle.
    label
        Class indices, shape (z, y, x); only training has them.
    """
    preprocessor_class, plans_class = _nnunet()
    manager = plans_class(dict(plans))
    with contextlib.redirect_stdout(io.StringIO()):
        data, segmentation, properties = preprocessor_class(verbose=False).run_case_npy(
            np.ascontiguousarray(array, dtype=np.float32),
            None if label is None else label[None].astype(np.int16),
            {"spacing": [float(each) for each in spacing_mm_zyx]},
            manager,
            manager.get_configuration(CONFIGURATION),
            dict(dataset),
        )
    return Preprocessed(
        data=np.ascontiguousarray(data, dtype=np.float32),
        label=np.ascontiguousarray(segmentation, dtype=np.int16),
        properties=properties,
    )


def to_study_grid(probability: Float32Array, preprocessed: Preprocessed, *, plans: Mapping[str, Any]) -> Float32Array:
    """Undo resampling, crop and transposition.

    Parameters
    ----------
    probability
        Shape (class, z, y, x) on the grid of ``preprocessed.data``; any selection of the foreground classes.

    Returns
    -------
    Shape (class, z, y, x) on the study grid; 0 where the study was cropped away.
    """
    _, plans_class = _nnunet()
    manager = plans_class(dict(plans))
    configuration = manager.get_configuration(CONFIGURATION)
    properties = preprocessed.properties
    resampled = configuration.resampling_fn_probabilities(
        np.asarray(probability, dtype=np.float32),
        properties["shape_after_cropping_and_before_resampling"],
        configuration.spacing,
        [properties["spacing"][axis] for axis in manager.transpose_forward],
    )
    whole = np.zeros((len(probability), *properties["shape_before_cropping"]), dtype=np.float32)
    crop = tuple(slice(start, end) for start, end in properties["bbox_used_for_cropping"])
    whole[(slice(None), *crop)] = np.asarray(resampled)
    return np.ascontiguousarray(whole.transpose([0, *(axis + 1 for axis in manager.transpose_backward)]))


def patch_size_zyx(plans: Mapping[str, Any]) -> tuple[int, int, int]:
    """Size of the network's input in the plan's axis order."""
    z, y, x = (int(size) for size in plans["configurations"][CONFIGURATION]["patch_size"])
    return z, y, x


@cache
def _nnunet() -> tuple[Any, Any]:
    """nnU-Net's preprocessor and plans classes; its remarks on unset folders, which we do not use, are swallowed."""
    with contextlib.redirect_stdout(io.StringIO()):
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: PLC0415
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415
    return DefaultPreprocessor, PlansManager
