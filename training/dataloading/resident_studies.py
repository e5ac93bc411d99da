"""A prepared dataset's preprocessed studies, once in a device's memory, for all runs of a process.

What they will take is known from the files' headers, and compared with what is free, before any voxel is read. On a GPU
images are kept in half precision, which is what its convolutions compute in; patches are augmented in single precision.
Where they are kept is decided in :mod:`training.dataloading.training_set`.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch

from contract.errors import OncoduetError
from contract.files.reading import read_json
from contract.images.volume import LabelArray
from network.machine.memory import GB, Budget, gpu_bytes_left, held_bytes, memory_budget
from training.augmentation.patches import Size
from training.dataloading.patch_sampling import Voxels
from training.dataset.prepared import case_files
from training.dataset.preprocessed import IMAGE, LABEL, class_voxels, open_array, read_preprocessed

SHARE = 0.9
"""Fraction of the free memory that the studies may take; the rest is for networks and patches."""
_VOXEL_SHRINKAGE = 3 * 2 / (4 * 8)
"""Size of a position in memory, three numbers of 2 bytes, relative to that in nnU-Net's files, four of 8 bytes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResidentStudy:
    """One study in a device's memory, and what the host has to know of it."""

    image: torch.Tensor
    """Shape (channels, z, y, x)."""
    label: torch.Tensor
    """Class indices, -1 where nothing was imaged; shape (z, y, x), int8 or int16."""
    voxels: Voxels
    """Voxels that patches may be centred on, for each foreground class of the study."""
    classes: tuple[int, ...]
    """Foreground classes in the label."""
    foreground: tuple[Size, Size] | None
    """First voxel of the box about the foreground, and the one after its last."""

    @property
    def shape(self) -> Size:
        """Size (z, y, x)."""
        depth, height, width = self.label.shape
        return depth, height, width


@dataclass(frozen=True)
class StudySizes:
    """What preprocessed studies take in memory."""

    studies: int
    voxels: int
    values: int
    """Of images: voxels times channels."""
    labels: int
    """Bytes of the labels, of which each voxel takes one where the dataset has no more classes than that holds."""
    places: int
    """Bytes of the voxels that patches are centred on, always in the main memory."""

    def on(self, device: torch.device, dtype: torch.dtype) -> int:
        """Bytes in a device's memory, with images of this precision."""
        return self.values * dtype.itemsize + self.labels + (self.places if device.type == "cpu" else 0)


def study_sizes(folder: Path, case_ids: Iterable[str]) -> StudySizes:
    """Sizes of a prepared dataset's studies, by the headers of their files.

    Raises ``OncoduetError``: a file is missing or damaged.
    """
    studies = voxels = values = 0
    places = 0.0
    classes = len(read_json(folder / "dataset.json")["labels"])
    each_label = 1 if classes - 1 <= np.iinfo(np.int8).max else 2
    for case_id in case_ids:
        image, _, properties = case_files(folder, case_id)
        shape = open_array(image, IMAGE).shape
        size = math.prod(shape[1:])
        studies, voxels, values = studies + 1, voxels + size, values + shape[0] * size
        places += properties.stat().st_size * _VOXEL_SHRINKAGE
    return StudySizes(studies, voxels, values, voxels * each_label, round(places))


@dataclass(eq=False)
class ResidentStudies:
    """Studies of one prepared dataset on one device."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    by_id: dict[str, ResidentStudy] = field(default_factory=dict)

    def load(self, case_ids: Iterable[str], *, budget: Budget | None = None) -> None:
        """Load those of these studies that are not here yet.

        Raises ``OncoduetError``: they do not fit, or a file is damaged.

        Parameters
        ----------
        budget
            How large the process may grow, in place of what it finds out itself; for a GPU, of the GPU's memory.
        """
        missing = sorted(set(case_ids) - set(self.by_id))
        if not missing:
            return
        need, (share, source) = study_sizes(self.folder, missing).on(self.device, self.dtype), self.room(budget)
        if need > share:
            raise OncoduetError(
                self.folder,
                expected=f"at most {share / GB:.3g} GB of memory for the studies ({SHARE:.0%} of what {source} leaves)",
                found=f'{need / GB:.3g} GB for {len(missing)}; loader = "nnunet" in the profile reads them from disk',
            )
        for case_id in missing:
            self.by_id[case_id] = self._read(case_id)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # other runs read them in streams of their own
        logger.info("%s: %d studies on %s, %.3g GB", self.folder, len(missing), self.device, need / GB)

    def room(self, budget: Budget | None = None) -> tuple[float, str]:
        """Bytes that studies may still take on the device, and who says so; ``budget`` as in :meth:`load`."""
        if self.device.type == "cuda" and budget is None:
            return SHARE * gpu_bytes_left(self.device), "the GPU"
        budget = budget or memory_budget()
        return SHARE * max(0, budget.total - held_bytes()), budget.source

    def _read(self, case_id: str) -> ResidentStudy:
        image_path, label_path, properties_path = case_files(self.folder, case_id)
        shape, channels = open_array(label_path, LABEL).shape, open_array(image_path, IMAGE).shape
        if shape != (1, *channels[1:]):  # before either is read: memory was reckoned from the image
            raise OncoduetError(label_path, expected=f"a label of {list(channels[1:])}", found=list(shape))
        image, label = read_preprocessed(image_path, IMAGE), read_preprocessed(label_path, LABEL)
        locations, label = class_voxels(properties_path, label.shape), label[0]
        kept = np.int16 if max(label.shape) <= np.iinfo(np.int16).max else np.int32
        occurring = np.unique(label)
        small = occurring[0] >= -128 and occurring[-1] <= 127
        where = np.argwhere(label > 0)
        return ResidentStudy(
            image=torch.from_numpy(image).to(self.device, self.dtype),
            label=torch.from_numpy(label).to(self.device, torch.int8 if small else torch.int16),
            voxels={value: places[:, 1:].astype(kept) for value, places in locations.items() if len(places)},
            classes=tuple(int(value) for value in occurring if value > 0),
            foreground=(_size(where.min(axis=0)), _size(where.max(axis=0) + 1)) if len(where) else None,
        )


_of_process: WeakValueDictionary[tuple[Path, torch.device, torch.dtype], ResidentStudies] = WeakValueDictionary()


def resident_studies(
    folder: Path, case_ids: Iterable[str], *, device: torch.device, dtype: torch.dtype | None = None
) -> ResidentStudies:
    """Studies of a prepared dataset on a device: the ones that another run of this process loaded, or fresh ones.

    Raises ``OncoduetError``: they do not fit, or a file is damaged.

    Parameters
    ----------
    case_ids
        Those that have to be there.
    dtype
        Precision of the images; by default single on the CPU and half on a GPU.
    """
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    key = (folder.resolve(), device, dtype)
    studies = _of_process.get(key)
    if studies is None:
        studies = ResidentStudies(folder, device, dtype)
    studies.load(case_ids)
    _of_process[key] = studies
    return studies


def missing_studies(folder: Path, case_ids: Iterable[str], *, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Those of these studies that no run of this process has loaded."""
    studies = _of_process.get((folder.resolve(), device, dtype))
    return [case_id for case_id in case_ids if studies is None or case_id not in studies.by_id]


def read_preprocessed_label(folder: Path, case_id: str) -> LabelArray:
    """Class indices of a study, -1 where nothing was imaged; shape (z, y, x).

    Raises ``OncoduetError``: the file is damaged.
    """
    label: LabelArray = read_preprocessed(case_files(folder, case_id)[1], LABEL)[0]
    return label


def _size(values: Sequence[int]) -> Size:
    depth, height, width = (int(value) for value in values)
    return depth, height, width
