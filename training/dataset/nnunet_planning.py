"""nnU-Net's own fingerprint, plan and preprocessing, of one study at a time.

nnU-Net's command line starts pools of processes that each import torch again and die in containers with little shared
memory. Its classes work without: they are called here on studies that our own reader has stacked.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from contract.card import Card
from contract.files.atomic import write_json
from contract.files.reading import read_json
from contract.images.volume import Float32Array, LabelArray
from network.model.plans import CONFIGURATION, full_resolution
from network.preprocessing.nnunet_preprocessing import Preprocessed, preprocess
from training.dataset.nnunet_folders import nnunet_folders

STOCK_SAMPLES = 100_000_000
"""Foreground intensities that nnU-Net draws from all studies together."""
SAMPLES_PER_VOXEL = 10
"""Enough draws, with replacement, from the study with most foreground: the percentiles then move by less than their own
uncertainty. Where lesions are small, nnU-Net's number means drawing each voxel thousands of times."""

_BLOSC_THREADS = "BLOSC_NTHREADS"
_SCHEMES = {"z-score": "zscore", "dataset": "CT"}
_PERCENTILES = {"percentile_00_5": 0.5, "median": 50.0, "percentile_99_5": 99.5}

StackedStudy = tuple[Float32Array, LabelArray, tuple[float, float, float]]
"""Channels (c, z, y, x), class indices (z, y, x), the spacing for the network in mm (z, y, x)."""


def dataset_json(card: Card, *, studies: int) -> dict[str, Any]:
    """nnU-Net's description of the data set.

    nnU-Net chooses a channel's normalisation by the channel's name, so the names here are those of the schemes that the
    card asks for; a quantitative channel (``dataset``) gets nnU-Net's scheme for CT, for any modality.
    """
    return {
        "channel_names": {str(i): _SCHEMES[channel.normalisation] for i, channel in enumerate(card.channels)},
        "labels": {"background": 0} | {each.name: i for i, each in enumerate(card.classes, start=1)},
        "numTraining": studies,
        "file_ending": ".mha",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


@dataclass(frozen=True)
class StudyFingerprint:
    """What of one study enters nnU-Net's fingerprint."""

    shape: tuple[int, int, int]
    """After the crop to what is not zero, (z, y, x)."""
    spacing: tuple[float, float, float]
    relative_size: float
    """Of the crop, by the whole."""
    foreground: Float32Array
    """Intensities drawn from the foreground, shape (channel, sample); no samples where there is none."""


def study_fingerprint(study: StackedStudy, *, samples: int) -> StudyFingerprint:
    """Look at one study as nnU-Net does.

    Parameters
    ----------
    samples
        Foreground voxels drawn from a study that has any; see :func:`samples_per_case`.
    """
    array, label, spacing_mm_zyx = study

    class Reader:
        """Stands in for nnU-Net's image reader."""

        def read_images(self, names: Sequence[str]) -> tuple[Float32Array, dict[str, Any]]:
            return array, {"spacing": spacing_mm_zyx}

        def read_seg(self, name: str) -> tuple[LabelArray, dict[str, Any]]:
            return label[None].copy(), {"spacing": spacing_mm_zyx}  # nnU-Net marks the outside in it

    shape, spacing, foreground, _, relative_size = DatasetFingerprintExtractor.analyze_case([""], "", Reader, samples)
    z, y, x = (int(size) for size in shape)
    spacing_z, spacing_y, spacing_x = (float(size) for size in spacing)
    drawn = np.stack([np.asarray(values, np.float32) for values in foreground])
    return StudyFingerprint((z, y, x), (spacing_z, spacing_y, spacing_x), float(relative_size), drawn)


def fingerprint(analyses: Sequence[StudyFingerprint]) -> dict[str, Any]:
    """nnU-Net's fingerprint of a dataset: spacings, shapes and the intensities of the foreground."""
    return {
        "spacings": [list(each.spacing) for each in analyses],
        "shapes_after_crop": [list(each.shape) for each in analyses],
        "median_relative_size_after_cropping": float(np.median([each.relative_size for each in analyses])),
        "foreground_intensity_properties_per_channel": {
            str(channel): _intensity_properties(np.concatenate(values).astype(np.float64))
            for channel, values in enumerate(zip(*(each.foreground for each in analyses), strict=True))
        },
    }


def samples_per_case(*, studies: int, largest_foreground_voxels: int) -> int:
    """How many foreground voxels to draw from each study: nnU-Net's share, or less where less says the same."""
    return min(STOCK_SAMPLES // studies, SAMPLES_PER_VOXEL * largest_foreground_voxels)


def plan(dataset: dict[str, Any], fingerprint: dict[str, Any], *, name: str, work: Path) -> dict[str, Any]:
    """nnU-Net's plan for the full-resolution 3D network.

    Parameters
    ----------
    work
        Folder for nnU-Net's files, which are of no use afterwards.
    """
    raw, preprocessed = work / "raw", work / "preprocessed"
    write_json(raw / name / "dataset.json", dataset | {"dataset": {"none": {"images": ["none.mha"], "label": "none"}}})
    write_json(preprocessed / name / "dataset_fingerprint.json", fingerprint)
    with nnunet_folders(raw=raw, preprocessed=preprocessed, results=work / "results", loader_processes=1):
        ExperimentPlanner(name, plans_name="oncoduet").plan_experiment()
    plans = cast(dict[str, Any], read_json(preprocessed / name / "oncoduet.json"))
    plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
    return plans


def preprocess_case(
    case_id: str, study: StackedStudy, *, plans: dict[str, Any], dataset: dict[str, Any], output: Path
) -> Preprocessed:
    """Preprocess one study as nnU-Net does and keep it in nnU-Net's format, ``<case>.b2nd`` and its companions.

    It is returned, too.

    Raises
    ------
    OSError
        The disk is full.
    """
    array, label, spacing_mm_zyx = study
    case = preprocess(array, spacing_mm_zyx, plans=plans, dataset=dataset, label=label)
    output.mkdir(parents=True, exist_ok=True)
    patch = full_resolution(plans).patch_size
    save(output / case_id, case.data, case.label, dict(case.grid.properties), patch=patch)
    return case


def save(
    path: Path, data: Float32Array, label: npt.NDArray[np.int16], properties: dict[str, Any], *, patch: tuple[int, ...]
) -> None:
    """Write a preprocessed study in nnU-Net's format, with the blocks that it chooses; the path has no ending yet."""
    blocks, chunks = comp_blosc2_params(data.shape, patch, data.itemsize)
    label_blocks, label_chunks = comp_blosc2_params(label.shape, patch, label.itemsize)
    try:
        with _one_thread_of_blosc():
            nnUNetDatasetBlosc2.save_case(
                data,
                label,
                properties,
                str(path),
                chunks=chunks,
                blocks=blocks,
                chunks_seg=label_chunks,
                blocks_seg=label_blocks,
            )
    except RuntimeError:  # Blosc does not say why
        if shutil.disk_usage(path.parent).free > data.nbytes + label.nbytes:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


@contextmanager
def _one_thread_of_blosc() -> Iterator[None]:
    """Have Blosc compress with one thread: several write blocks in the order in which they end.

    nnU-Net asks for four. Blosc's own variable takes precedence; the library reads it for each array.
    """
    before = os.environ.get(_BLOSC_THREADS)
    os.environ[_BLOSC_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_BLOSC_THREADS]
        else:
            os.environ[_BLOSC_THREADS] = before


def _intensity_properties(values: npt.NDArray[np.float64]) -> dict[str, float]:
    percentiles = np.percentile(values, list(_PERCENTILES.values()))
    properties = dict(zip(_PERCENTILES, map(float, percentiles), strict=True))
    properties |= {"mean": float(values.mean()), "std": float(values.std())}
    properties |= {"min": float(values.min()), "max": float(values.max())}
    return properties
